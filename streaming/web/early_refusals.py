"""WSGI middleware: refuses in front of the app what floods are made of, because Flask takes longer than all the rest.

Only questions in their usual dress are looked at. What is special (a browser's, a resumption, a query string…) goes on
to its route, which refuses by the same rules and with the same words; tests hold the two together.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from flask import Request
from werkzeug.http import HTTP_STATUS_CODES

from streaming.web import unread_body
from streaming.web.accepting import wants_page
from streaming.web.admission import CALLER, REQUEST, admit
from streaming.web.errors import body_and_fields, ids_of, observe
from streaming.web.origins import protection_fields
from streaming.web.relay import Relay
from streaming.web.routes import PURPOSES
from streaming.web.streams import JSON_FIELDS
from streaming.wire.ask import AskError
from streaming.wire.errors import Refusal

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication


class Route(NamedTuple):
    """A route that takes questions, by POST; `visitors_too`: a visitor's token will do."""

    endpoint: str
    visitors_too: bool = False


ROUTES = {
    "/runs": Route("relay.start", visitors_too=True),
    "/chat": Route("relay.chat", visitors_too=True),
    "/stream": Route("relay.stream"),
    "/v1/chat/completions": Route("openai.chat_completions"),
    "/api/chat": Route("ai_sdk.ask"),
}
SPECIAL = frozenset({"HTTP_ORIGIN", "HTTP_SEC_FETCH_SITE", *PURPOSES, "HTTP_LAST_EVENT_ID", "HTTP_UPGRADE"})
"""Other rules come first for what has one of these, and other fields go with the answer."""


class EarlyRefusals:
    """The app with its early refusals. `compresses`: JSON may come compressed, and caches must tell the two apart."""

    def __init__(self, app: "WSGIApplication", relay: Relay, *, compresses: bool) -> None:
        self._app = app
        self._relay = relay
        self._vary = [("Vary", "Accept-Encoding")] if compresses else []

    def __call__(self, environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request."""
        route = _route(environ)
        if route is None:
            return self._app(environ, start_response)
        request = environ[REQUEST] = Request(environ)
        request.max_content_length = self._relay.max_body_bytes  # Flask looks it up in the app's context: here is none
        try:
            environ[CALLER] = admit(self._relay, request, visitors_too=route.visitors_too)
        except Refusal as refusal:
            return self._refuse(refusal, route.endpoint, environ, start_response)
        except AskError:  # of a form that has come whole: the route looks at it once more, and says what is wrong
            pass
        return self._app(environ, start_response)

    def _refuse(
        self, refusal: Refusal, endpoint: str, environ: dict[str, Any], start_response: "StartResponse"
    ) -> Iterable[bytes]:
        request_id, trace = ids_of(environ, self._relay)
        value, fields = body_and_fields(refusal, request_id, environ["PATH_INFO"])
        body = msgspec.json.encode(value) + b"\n"
        headers = [
            *JSON_FIELDS.items(),
            ("Content-Length", str(len(body))),
            *fields.items(),
            *protection_fields(environ).items(),
            *self._vary,
            ("X-Request-Id", request_id),
            ("X-Content-Type-Options", "nosniff"),
        ]
        observe(self._relay, refusal, endpoint, request_id, trace)
        unread_body.drop(environ["wsgi.input"], hurried=self._relay.nearly_full)
        self._relay.await_turn()
        start_response(f"{refusal.status} {HTTP_STATUS_CODES[refusal.status].upper()}", headers)
        return [body]


def _route(environ: dict[str, Any]) -> Route | None:
    """Return where a plain question goes; None = the request goes on to the app."""
    path = environ["PATH_INFO"]
    route = ROUTES.get(path) if environ["REQUEST_METHOD"] == "POST" else None
    if route is None or environ.get("QUERY_STRING") or not SPECIAL.isdisjoint(environ):
        return None
    return None if path == "/chat" and wants_page(environ) else route
