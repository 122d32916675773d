"""Refuses in front of Flask what floods are made of, for a third of what the same answer costs behind it.

Only questions in their usual dress are looked at. What is special (a browser's, a resumption, a query string…) goes on
to its route, which refuses by the same rules and with the same words; tests hold the two together.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from streaming.relay.observing import Refused
from streaming.web.admission import ADMITTED, REQUEST, admit
from streaming.web.errors import drop_rest_of_body, ids_of, told
from streaming.web.origins import protection
from streaming.web.relay import Relay
from streaming.wire.ask import AskError
from streaming.wire.errors import Refusal

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Route(NamedTuple):
    """A route that takes questions, by POST."""

    endpoint: str
    visitors_too: bool = False


ROUTES = {
    "/runs": Route("relay.start", visitors_too=True),
    "/chat": Route("relay.chat", visitors_too=True),
    "/stream": Route("relay.stream"),
    "/v1/chat/completions": Route("openai.chat_completions"),
    "/api/chat": Route("ai_sdk.ask"),
}

SPECIAL = frozenset(
    {
        "HTTP_ORIGIN",  # browsers: other rules come first, and other headers go with the answer
        "HTTP_SEC_FETCH_SITE",
        "HTTP_SEC_PURPOSE",
        "HTTP_PURPOSE",
        "HTTP_X_MOZ",
        "HTTP_LAST_EVENT_ID",  # no question
    }
)


class Door:
    """WSGI middleware around the app. `compresses`: JSON may come compressed, and caches must tell the two apart."""

    def __init__(self, app: "WSGIApplication", relay: Relay, *, compresses: bool) -> None:
        self._app = app
        self._relay = relay
        self._always = [("Vary", "Accept-Encoding")] if compresses else []

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request."""
        route = ROUTES.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
        if route is None or environ.get("QUERY_STRING") or not SPECIAL.isdisjoint(environ) or _may_want_page(environ):
            return self._app(environ, start_response)
        request = environ[REQUEST] = Request(environ)
        request.max_content_length = self._relay.max_body_bytes  # Flask looks it up in the app's context: here is none
        try:
            environ[ADMITTED] = admit(self._relay, request, visitors_too=route.visitors_too)
        except Refusal as refusal:
            return self._refuse(refusal, route.endpoint, environ, start_response)
        except (AskError, HTTPException, ParseException):  # the body's fault: the route comes to the same
            pass
        return self._app(environ, start_response)

    def _refuse(
        self, refusal: Refusal, endpoint: str, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        request_id, trace = ids_of(environ, self._relay)
        value, headers = told(refusal, request_id, environ["PATH_INFO"])
        body = msgspec.json.encode(value) + b"\n"
        fields = [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("Content-Length", str(len(body))),
            *headers.items(),
            *protection(environ).items(),
            *self._always,
            ("X-Request-Id", request_id),
            ("X-Content-Type-Options", "nosniff"),
        ]
        status = refusal.status
        self._relay.observer(
            Refused(code=refusal.code, status=status, endpoint=endpoint, request_id=request_id, trace=trace)
        )
        drop_rest_of_body(environ)
        self._relay.turnstile.wait()
        start_response(f"{status} {HTTP_STATUS_CODES[status].upper()}", fields)
        return [body]


def _may_want_page(environ: "WSGIEnvironment") -> bool:
    """Return whether a browser's form may be asking, which gets its refusal as a page."""
    return environ["PATH_INFO"] == "/chat" and "text/" in environ.get("HTTP_ACCEPT", "")
