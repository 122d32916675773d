"""An HTTP request -> an ask: JSON, form or query string, each checked down to its bytes."""

from collections.abc import Iterable
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

import gevent
import msgspec
from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from streaming.wire import ask as asks
from streaming.wire import jsontext
from streaming.wire.ask import Ask, AskError, FlushMs
from streaming.wire.errors import Refusal

MAX_FIELDS = 100  # of a form or query string: parsing thousands would cost more than any ask needs
MAX_KEY_CHARACTERS = 256
TOO_LARGE = "The body is larger than this relay accepts (MAX_BODY_BYTES)."
TOO_LATE = "The request's body did not come in time."
BADLY_CHUNKED = "The request's body is badly chunked."
BROKE_OFF = "The request's body broke off."
BODY_SECONDS = 30.0  # against bodies that never come: each holds a connection, and the server bounds only heads


def read_ask(request: Request) -> Ask:
    """Return the request's ask. Raises Refusal, AskError."""
    return with_key(request, _read_body(request) if request.method == "POST" else asks.from_pairs(query(request)))


def with_key(request: Request, ask: Ask) -> Ask:
    """Return the ask with the key of the header `Idempotency-Key`. Raises AskError."""
    key = header(request, "Idempotency-Key")
    if not key:
        return ask
    if len(key) > MAX_KEY_CHARACTERS:
        raise AskError(f"header 'Idempotency-Key' is longer than {MAX_KEY_CHARACTERS} characters")
    if asks.CONTROLS.search(key):
        raise AskError("header 'Idempotency-Key' holds a control character")
    if ask.idempotency_key not in {None, key}:
        raise AskError("field 'idempotency_key' and header 'Idempotency-Key' differ")
    return msgspec.structs.replace(ask, idempotency_key=key)


def query(request: Request) -> dict[str, str]:
    """Return the query string's fields; the last of a name counts. Werkzeug would replace bad UTF-8 silently."""
    return _pairs(request.query_string, "query string")


def form_field(request: Request, name: str) -> str:
    """Return a field of the form in the body, "" where there is none. Raises Refusal, AskError."""
    return _pairs(read_body(request), "body").get(name, "")


def header(request: Request, name: str) -> str:
    """Return a header as text, "" where absent. WSGI gives Latin-1, clients send UTF-8."""
    return request.headers.get(name, "").encode("latin-1", "replace").decode("utf-8", "replace")


def read_flush_ms(request: Request) -> int | None:
    """Return the query string's `flush_ms`, None where absent: one response's own. Raises AskError."""
    text = query(request).get("flush_ms")
    if not text:
        return None
    try:
        return msgspec.convert(text, FlushMs, strict=False)
    except msgspec.ValidationError as error:
        raise AskError(f"parameter 'flush_ms': {error}") from None


def read_body(request: Request) -> bytes:
    """Return the whole body; it must have come within BODY_SECONDS.

    Raises Refusal: request_timeout, body_too_large or bad_request. Whoever catches one must not read on: what had come
    of a broken body would look like a whole one.
    """
    length = content_length(request.environ)
    if getattr(request.environ["wsgi.input"], "failed", False):  # gunicorn's Body tells
        raise Refusal("bad_request", BROKE_OFF)
    try:
        with gevent.Timeout(BODY_SECONDS, Refusal("request_timeout", TOO_LATE)):
            body = request.get_data()
            # Of a chunked body werkzeug cuts off what is too large, in silence.
            goes_on = length is None and request.environ["wsgi.input"].read(1)
    except RequestEntityTooLarge:
        raise Refusal("body_too_large", TOO_LARGE) from None
    except ParseException:  # gunicorn reads chunks only when the body is read
        raise Refusal("bad_request", BADLY_CHUNKED) from None
    except (ClientDisconnected, OSError):  # gunicorn's NoMoreData is one too
        raise Refusal("bad_request", BROKE_OFF) from None
    if goes_on:
        raise Refusal("body_too_large", TOO_LARGE)
    if len(body) < (length or 0):  # gunicorn hands over what there is, and half a form is a form too
        raise Refusal("bad_request", BROKE_OFF)
    return body


def peek_body(environ: dict[str, Any], length_bytes: int) -> bytes:
    """Return the body, which can be read again afterwards. Raises Refusal: request_timeout or bad_request.

    Werkzeug's way of reading takes a tenth of what it costs to refuse a request.
    """
    try:
        with gevent.Timeout(BODY_SECONDS, Refusal("request_timeout", TOO_LATE)):
            body = environ["wsgi.input"].read(length_bytes)
    except OSError:
        raise Refusal("bad_request", BROKE_OFF) from None
    environ["wsgi.input"] = BytesIO(body)
    return bytes(body)


def content_length(environ: dict[str, Any]) -> int | None:
    """Return how long the body is said to be, in bytes; None = nobody says. gunicorn lets pass only digits."""
    text = environ.get("CONTENT_LENGTH")
    return int(text) if text else None


def _read_body(request: Request) -> Ask:
    if request.mimetype == "application/json" or request.mimetype.endswith("+json"):
        return asks.from_json(read_json(request))
    if request.mimetype == "application/x-www-form-urlencoded":
        body = read_body(request)
        if body.lstrip().startswith(b"{"):
            raise AskError("the body looks like JSON: send it with 'Content-Type: application/json' (curl: --json)")
        return asks.from_pairs(_pairs(body, "body"))
    if request.mimetype == "multipart/form-data":
        read_body(request)
        return asks.from_pairs(_flat(request.form))
    raise Refusal(
        "unsupported_media_type",
        "Send application/json, application/x-www-form-urlencoded or multipart/form-data.",
    )


def read_json(request: Request) -> object:
    """Return the decoded JSON body, whatever its media type. Raises Refusal, AskError."""
    return decoded_json(read_body(request))


def decoded_json(body: bytes) -> object:
    """Return what a JSON body holds. Raises AskError."""
    try:
        return jsontext.strict(body)
    except jsontext.NotJSON as error:
        raise AskError(f"the body {error}") from None


def _pairs(data: bytes, where: str) -> dict[str, str]:
    try:
        text = data.decode()
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except UnicodeDecodeError:
        raise AskError(f"the {where} is not UTF-8") from None
    except ValueError:
        raise AskError(f"the {where} has more than {MAX_FIELDS} fields") from None


def _flat(form: MultiDict[str, str]) -> dict[str, str]:
    items: Iterable[tuple[str, str]] = form.items(multi=True)
    return dict(items)
