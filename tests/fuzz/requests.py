"""What a client may send: bodies, forms and queries of every face, and all that is said on a WebSocket.

A target takes any bytes, and raises where something is wrong with the code, never with the bytes: a bad request is
refused with a sentence that is safe to show.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from flask import Flask, Request, g
from simple_websocket.errors import ConnectionClosed
from werkzeug.exceptions import HTTPException

from streaming.relay.caller import Caller
from streaming.relay.observing import nobody
from streaming.web import asking
from streaming.web.credentials import ApiKeys, Tokens
from streaming.web.guard import Guard
from streaming.web.ws_session import Session
from streaming.web.ws_socket import BoundedServer
from streaming.wire import openai_ask, ui_messages
from streaming.wire.ask import CONTROLS, Ask, AskError, Context, Message
from streaming.wire.dialects.dify import Dify
from streaming.wire.dialects.openai import OpenAI
from streaming.wire.errors import REFUSALS, Refusal

URL = "https://upstream.example/v1"
BOUNDARY = "X"
TYPES = [
    "application/json",
    "application/x-www-form-urlencoded",
    f"multipart/form-data; boundary={BOUNDARY}",
    "text/plain",
]
DIALECTS = [OpenAI(url=URL, api_key="k", model="m", models=("*",)), Dify(url=URL, api_key="k")]
APP = Flask(__name__)
APP.config["MAX_CONTENT_LENGTH"] = APP.config["MAX_FORM_MEMORY_SIZE"] = 1 << 20
HANDSHAKE = {
    "REQUEST_METHOD": "GET",
    "PATH_INFO": "/ws",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "relay.example",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_KEY": "AAAAAAAAAAAAAAAAAAAAAA==",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
}


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Let pass what is refused as it should be."""
    try:
        yield
    except (AskError, Refusal, HTTPException) as refused:
        _check(refused)


def _check(refused: Exception) -> None:
    if isinstance(refused, HTTPException):
        assert 400 <= (refused.code or 0) < 500, refused.code
        return
    text = refused.message if isinstance(refused, Refusal) else str(refused)
    assert not CONTROLS.search(text), text
    assert len(text) < 1000, len(text)
    assert not isinstance(refused, Refusal) or refused.code in REFUSALS


def _send(ask: Ask) -> None:
    """Whatever was accepted can be sent on, and holds nothing that would break a header or a database."""
    assert b"\\u0000" not in msgspec.json.encode(ask).replace(b"\\\\", b"")
    for name in (ask.user, ask.conversation_id, ask.upstream, ask.model, ask.idempotency_key):
        assert name is None or not CONTROLS.search(name)
    context = Context(messages=ask.messages or [Message("user", ask.prompt or "")], user=ask.user or "u")
    for dialect in DIALECTS:
        with contextlib.suppress(AskError):
            dialect.check(ask)
            json.loads(dialect.request(ask, context).body)  # type: ignore[arg-type]


def ask(data: bytes) -> None:
    """The ask of a request: the first byte chooses its media type, or that it is a query string."""
    kind, body = data[0] % 5 if data else 0, data[1:]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST" if kind < 4 else "GET",
        "QUERY_STRING": body.decode("latin-1") if kind == 4 else "",
        "CONTENT_TYPE": TYPES[kind % 4],
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "SERVER_NAME": "relay.example",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
    }
    with _refusals(), APP.app_context(), contextlib.closing(Request(environ)) as request:
        _send(asking.read_ask(request))


def chat_completion(data: bytes) -> None:
    """A request in OpenAI's shape."""
    with _refusals():
        asked = openai_ask.read(asking.decoded_json(data))
        _send(openai_ask.to_ask(asked, "openai", None, None))
    with _refusals():
        _send(openai_ask.to_ask(openai_ask.read(asking.decoded_json(data)), "dify", None, None))


def ui_chat(data: bytes) -> None:
    """A request of an AI SDK page, before upstreams of both kinds."""
    for history, conversation_id in (("relay", None), ("upstream", None), ("upstream", "c")):
        with _refusals():
            _send(ui_messages.from_body(asking.decoded_json(data)).ask(history, conversation_id))


class _Runs:
    draining = moving = False

    def start(self, ask: Ask, *_: object) -> None:
        _send(ask)
        raise Refusal("too_many_runs", "Full.", retry_after=1)

    def get(self, run_id: str) -> None:
        raise Refusal("run_not_found", "There is no such run.")


class _Relay:
    runs, ws_idle_seconds, observer = _Runs(), 300.0, staticmethod(nobody)
    guard = Guard(
        keys=ApiKeys([]),
        tokens=Tokens(secret="s" * 32, public_key="", audience="", issuer=""),
        page=None,
        anonymous=True,
        demo_only=False,
        proxies="auto",
    )


class _Socket:
    """A connection that keeps what is written, for both layers."""

    def __init__(self) -> None:
        self.sock = self
        self.closed = False
        self.written: list[bytes] = []

    def write(self, frames: bytes) -> None:
        self.written.append(frames)

    sendall = write

    def close(self, *_: object) -> None:
        self.closed = True

    def drop(self, *_: object) -> None:
        self.closed = True


def messages(data: bytes) -> None:
    """Messages on one socket, a line each: every one is answered, or closes the socket."""
    for line in data.split(b"\n"):
        try:
            line.decode()
        except UnicodeDecodeError:
            continue  # wsproto refuses it before
        socket = _Socket()
        Session(socket, _Relay(), Caller())._handle(line)  # type: ignore[arg-type]
        assert socket.closed or socket.written


def frames(data: bytes) -> None:
    """Bytes on a connection that became a WebSocket, cut as the first one says: messages come out, or it is closed."""
    size, data = max(1, data[0] if data else 1), data[1:]
    socket = _Socket()
    with APP.test_request_context():
        g.request_id = "r"
        server = BoundedServer(
            {**HANDSHAKE, "gunicorn.socket": socket}, pong_seconds=30, ping_interval=15, max_message_size=1024
        )
        with contextlib.suppress(ConnectionClosed):
            for at in range(0, len(data), size):
                if not server._feed(data[at : at + size]):
                    break
    assert all(message.decode() is not None and len(message) <= 1024 for message in server.input_buffer)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "asking": ask,
    "openai_ask": chat_completion,
    "ui_messages": ui_chat,
    "ws_messages": messages,
    "ws_frames": frames,
}
