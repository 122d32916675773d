"""Ten thousand requests that are refused: what one costs, and what good callers notice."""

import socket
from collections.abc import Callable
from functools import partial

import gevent

from tests.abuse.scene import scene

COUNT = 10_000
ALONE = 2000
AT_ONCE = 4
BODY = b'{"prompt": "hi", "unknown": 1}'


def post(path: str, *headers: str, body: bytes = BODY) -> bytes:
    """Return a request on a kept connection."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    if not any(line.startswith("Content-Length") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


REFUSED: dict[str, tuple[bytes, dict[str, str]]] = {  # the request, the relay's settings
    "a bad field": (post("/runs"), {}),
    "no such page": (post("/nothing"), {}),
    "another site's": (post("/runs", "Origin: https://evil.example"), {}),
    "too large": (post("/runs", body=b'{"prompt": "' + b"x" * 2000 + b'"}'), {"MAX_BODY_BYTES": "1024"}),
    "a bad cursor": (post("/stream", "Last-Event-ID: nonsense"), {}),
}


def _send(address: tuple[str, int], request: bytes, count: int) -> None:
    """Send the request so many times, each when the one before is answered."""
    connection: socket.socket | None = None
    for _ in range(count):
        if connection is None:
            connection = socket.create_connection(address, timeout=60)
        connection.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data or not data.endswith(b"}\n"):
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
        assert data.startswith(b"HTTP/1.1 4"), data[:100]
        if b"Connection: close" in data:
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


def flood(name: str) -> str:
    """Return what so many of these refusals cost: a part of them alone, the rest beside a good caller."""
    request, settings = REFUSED[name]
    with scene(**settings) as played:
        address, asked = ("127.0.0.1", played.server.port), len(played.upstream.calls)
        user, system = played.cpu_seconds()
        _send(address, request, ALONE)
        user, system = (now - before for now, before in zip(played.cpu_seconds(), (user, system), strict=True))
        assert len(played.upstream.calls) == asked
        with played.watched():
            senders = [gevent.spawn(_send, address, request, (COUNT - ALONE) // AT_ONCE) for _ in range(AT_ONCE)]
            gevent.joinall(senders, raise_error=True)
        cost = f"{(user + system) / ALONE * 1000:.2f} ms CPU each (user {user / ALONE * 1000:.2f})"
        return f"{cost}; {played.told()}"


SCENES: dict[str, Callable[[], str]] = {f"{COUNT} refused, {name}": partial(flood, name) for name in REFUSED}
