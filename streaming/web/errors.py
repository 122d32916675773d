"""Every refusal as JSON with the request's id, whoever raised it; the rest of a refused body is read and dropped."""

import logging
import re
import secrets
from typing import Any

from flask import Flask, Response, g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from streaming.relay.observing import Refused
from streaming.web import unread_body
from streaming.web.asking import BADLY_CHUNKED, TOO_LARGE
from streaming.web.relay import Relay, current_relay, current_request
from streaming.web.streams import json_response
from streaming.wire import trace
from streaming.wire.ask import AskError
from streaming.wire.errors import Failure, Refusal
from streaming.wire.formats.openai import error_object
from streaming.wire.trace import Trace

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")  # it comes back in headers and logs
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_MESSAGES = {
    "not_found": "There is nothing at this address; GET / tells what there is.",
    "body_too_large": TOO_LARGE,
    "bad_request": "The request could not be read.",
}


def install(app: Flask) -> None:
    """Give the app its error answers and request ids."""
    app.before_request(_take_request_id)
    app.after_request(_finish)
    app.register_error_handler(Refusal, _refusal)
    app.register_error_handler(Failure, _failure)
    app.register_error_handler(AskError, _ask_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(ParseException, _broken_body)
    app.register_error_handler(Exception, _internal)


def _take_request_id() -> None:
    g.request_id, g.trace = ids_of(current_request().environ, current_relay())


def ids_of(environ: dict[str, Any], relay: Relay) -> tuple[str, Trace | None]:
    """Return a request's id and trace, its own or new ones; trace None = nobody would record it."""
    given = environ.get("HTTP_X_REQUEST_ID", "")  # werkzeug's headers raise and catch an error for each absent one
    found = None
    if parent := environ.get("HTTP_TRACEPARENT"):
        found = trace.parse(parent, environ.get("HTTP_TRACESTATE", ""), span_id=secrets.token_hex(8))
    return given if _REQUEST_ID.match(given) else secrets.token_hex(16), found or relay.new_trace()


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.status_code == 204:
        del response.headers["Content-Type"]
    if response.status_code >= 400:
        unread_body.drop(request.environ["wsgi.input"], hurried=current_relay().nearly_full)
    if "refused" in g:  # not a failed run's answer, or /readyz
        current_relay().await_turn()
    return response


def body_and_fields(
    refusal: Refusal, request_id: str, path: str, field: str | None = None
) -> tuple[object, dict[str, str]]:
    """Return a refusal's body, to be encoded, and its header fields.

    `field`: the ask's field that is wrong, for OpenAI's shape; None = none.
    """
    error: object = {"code": refusal.code, "message": refusal.message, "request_id": request_id}
    if path.startswith("/v1/"):  # what is asked there expects OpenAI's shape
        error = error_object(refusal.code, refusal.message, refusal.status, field)
    fields = dict(refusal.headers)
    if refusal.retry_after is not None:
        fields["Retry-After"] = str(refusal.retry_after)
    return {"error": error}, fields


def _refusal(refusal: Refusal, field: str | None = None) -> Response:
    body, fields = body_and_fields(refusal, g.request_id, request.path, field)
    response = json_response(body, refusal.status)
    response.headers.update(fields)
    if refusal.code == "method_not_allowed" and request.url_rule is not None:  # a HEAD that would cost a generation
        response.headers["Allow"] = ", ".join(sorted((request.url_rule.methods or set()) - {"HEAD"}))
    tell_refused(refusal)
    return response


def tell_refused(refusal: Refusal) -> None:
    """Tell the observers that the current request is refused."""
    g.refused = True
    observe(current_relay(), refusal, request.endpoint, g.request_id, g.trace)


def observe(relay: Relay, refusal: Refusal, endpoint: str | None, request_id: str, trace: Trace | None) -> None:
    """Tell the observers that a request is refused; `endpoint` None = there is none at its address."""
    relay.observer(
        Refused(code=refusal.code, status=refusal.status, endpoint=endpoint, request_id=request_id, trace=trace)
    )


def _failure(failure: Failure) -> Response:
    """An upstream failed a call that is no run, an upload or a rating; a run's failure is in its `end`."""
    error = failure.as_end_error()
    return _refusal(Refusal(error.code, error.message, retry_after=error.retry_after, status=error.status))


def _ask_error(error: AskError) -> Response:
    return _refusal(as_refusal(error), error.field)


def as_refusal(error: AskError) -> Refusal:
    """Return the refusal of an ask that cannot be read, as a sentence."""
    sentence = str(error)
    end = "" if sentence.endswith("?") else "."
    return Refusal("bad_request", sentence[0].upper() + sentence[1:] + end)


def _http_error(error: HTTPException) -> Response:
    """Flask's own: no such route, wrong method, body too large, a redirect."""
    if error.code is None or error.code < 400 or error.code >= 500:
        return error.get_response()  # type: ignore[return-value]
    code = _CODES.get(error.code, "bad_request")
    message = _MESSAGES.get(code, "This address does not answer that method.")
    response = _refusal(Refusal(code, message))
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _broken_body(error: ParseException) -> Response:
    """gunicorn reads chunks only when the body is read, and so finds bad ones inside the app."""
    return _refusal(Refusal("bad_request", BADLY_CHUNKED))


def _internal(error: Exception) -> Response:
    # The endpoint, not the path: a path can hold a run's id, a query string a prompt.
    log.error("request failed: %s", request.endpoint, exc_info=error)
    return _refusal(Refusal("internal", "The relay failed; the fault is on our side."))
