"""Flask without what it does for each request and this relay never needs: a refused request should cost little."""

from collections.abc import Callable
from typing import Any

from flask import Flask


class PlainApp(Flask):
    """A Flask app whose functions are all plain ones."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function. Flask would look, nine times a request, whether it is a coroutine."""
        return func
