"""An HTTP request -> an ask: JSON, form or query string, each checked down to its bytes."""

from collections.abc import Iterable
from urllib.parse import parse_qsl

import gevent
import msgspec
from flask import Request
from werkzeug.datastructures import MultiDict

from streaming.wire import ask as asks
from streaming.wire import jsontext
from streaming.wire.ask import Ask, AskError, FlushMs
from streaming.wire.errors import Refusal

MAX_FIELDS = 100  # of a form or query string: parsing thousands would cost more than any ask needs
MAX_KEY_CHARACTERS = 256
TOO_LARGE = "The body is larger than this relay accepts (MAX_BODY_BYTES)."
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

    Raises Refusal: request_timeout, body_too_large or bad_request; RequestEntityTooLarge.
    """
    with gevent.Timeout(BODY_SECONDS, Refusal("request_timeout", "The request's body did not come in time.")):
        body = request.get_data()
        if request.content_length is None and request.environ["wsgi.input"].read(1):  # werkzeug cuts it off in silence
            raise Refusal("body_too_large", TOO_LARGE)
    if len(body) < (request.content_length or 0):  # gunicorn hands over what there is, and half a form is a form too
        raise Refusal("bad_request", "The request's body broke off.")
    return body


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
