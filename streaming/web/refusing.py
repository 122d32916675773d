"""Answers to requests that gunicorn could not read, or that failed outside the app."""

import json
import secrets
from typing import Any

from gunicorn import util
from gunicorn.http import errors as http_errors

from streaming.relay.observing import Refused

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
_INTERNAL = (500, "Internal Server Error", "internal", "The relay failed; the fault is on our side.")


def refuse(client: Any, error: BaseException, log: Any) -> Refused:
    """Write the refusal to the connection; return it. Nothing of the request gets into the log: a URL can hold a
    prompt."""
    status, reason, code, message = _refusal_of(error)
    request_id = secrets.token_hex(16)
    if status == 500:
        log.error("request %s failed outside the app: %s", request_id, type(error).__name__)
    body = json.dumps({"error": {"code": code, "message": message, "request_id": request_id}}).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"X-Content-Type-Options: nosniff\r\nX-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        util.write_nonblock(client, head.encode() + body)
    except OSError:
        log.debug("the client of a refused request has gone")
    return Refused(code=code, status=status, endpoint=None, request_id=request_id)


def _refusal_of(error: BaseException) -> tuple[int, str, str, str]:
    for kind, refusal in _REFUSALS.items():
        if isinstance(error, kind):
            return refusal
    return _BAD_REQUEST if isinstance(error, http_errors.ParseException) else _INTERNAL
