"""The gunicorn worker: what stock gunicorn leaves open and only the server can close."""

import json
import secrets
from typing import Any

from gunicorn import util
from gunicorn.http import errors as http_errors
from gunicorn.workers.ggevent import GeventWorker

_REFUSALS = {  # gunicorn's error -> status, reason phrase, code, message
    http_errors.LimitRequestLine: (
        414,
        "URI Too Long",
        "uri_too_long",
        "The URL is too long; POST the prompt instead.",
    ),
    http_errors.LimitRequestHeaders: (431, "Request Header Fields Too Large", "headers_too_large", "Too many headers."),
}
_BAD_REQUEST = (
    400,
    "Bad Request",
    "bad_request",
    "This is no valid HTTP request. A URL must be ASCII: percent-encode other characters, or POST the prompt.",
)


class RelayWorker(GeventWorker):
    """gunicorn's gevent worker with the relay's manners."""

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Close the connection after a stream: an idle kept one would hold the worker when it must go.

        An app's own `Connection: close` is dropped by gunicorn as hop-by-hop.
        """
        if req.path == "/stream" or req.path.endswith("/events"):
            req.force_close()
        return super().handle_request(listener_name, req, sock, addr)  # type: ignore[no-untyped-call]

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what gunicorn could not read as JSON. Its own answer is HTML, its log line holds the URL."""
        status, reason, code, message = _refusal_of(exc)
        request_id = secrets.token_hex(16)
        if status == 500:
            self.log.error("request %s failed outside the app: %s", request_id, type(exc).__name__)
        error = {"code": code, "message": message, "request_id": request_id}
        body = json.dumps({"error": error}).encode() + b"\n"
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"X-Content-Type-Options: nosniff\r\nX-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            util.write_nonblock(client, head.encode() + body)
        except OSError:
            self.log.debug("the client of a refused request has gone")


def _refusal_of(error: BaseException) -> tuple[int, str, str, str]:
    for kind, refusal in _REFUSALS.items():
        if isinstance(error, kind):
            return refusal
    if isinstance(error, http_errors.ParseException):
        return _BAD_REQUEST
    return 500, "Internal Server Error", "internal", "The relay failed; the fault is on our side."
