"""Flask without what it does for each request and this relay never needs, and with what the middleware has read."""

from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.ctx import RequestContext

from streaming.web.admission import REQUEST


class PlainApp(Flask):
    """A Flask app whose functions are all plain ones, and whose requests EarlyRefusals may have read."""

    def request_context(self, environ: dict[str, Any]) -> RequestContext:
        """Return the context of a request; the one that was made already, where there is: a body is read only once."""
        return RequestContext(self, environ, request=environ.get(REQUEST))

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function. Flask would look, nine times a request, whether it is a coroutine."""
        return func
