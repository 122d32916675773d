"""A client that sees the bytes: HTTP chunks as they were written, and a connection that can be cut anywhere."""

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from streaming.wire.sse import Decoder, ServerSentEvent
from tests.live import WAIT_SECONDS


class HeadCut(AssertionError):
    """The connection ended before the response's head was complete."""


@dataclass
class Response:
    """One response, read piece by piece from its own connection."""

    connection: socket.socket
    status: int
    headers: dict[str, str]
    rest: bytes
    complete: bool = False  # the last chunk was seen
    taken: bytearray = field(default_factory=bytearray)

    def chunks(self) -> Iterator[bytes]:
        """Yield HTTP chunks as the server wrote them, until the last one or the connection's end."""
        while (size := self._line()) is not None:
            length = int(size, 16)
            data = self._take(length + 2)
            if length == 0:
                self.complete = True
                return
            if data is None:
                return
            self.taken += data[:-2]
            yield data[:-2]

    def _line(self) -> bytes | None:
        while b"\r\n" not in self.rest:
            if not self._more():
                return None
        line, self.rest = self.rest.split(b"\r\n", 1)
        return line

    def _take(self, size: int) -> bytes | None:
        while len(self.rest) < size:
            if not self._more():
                return None
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def _more(self) -> bool:
        with contextlib.suppress(ConnectionResetError):
            piece = self.connection.recv(65536)
            self.rest += piece
            return bool(piece)
        return False

    def body(self) -> bytes:
        """Return the whole body: chunked, or as long as Content-Length says."""
        if "content-length" in self.headers:
            return self._take(int(self.headers["content-length"])) or b""
        return b"".join(self.chunks())

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body())

    def events(self) -> list[ServerSentEvent]:
        """Return all SSE events of the body."""
        return sse_events(self.body())

    def close(self) -> None:
        """Cut the connection."""
        self.connection.close()

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sse_events(data: bytes) -> list[ServerSentEvent]:
    """Return the events of complete SSE bytes."""
    return [item for item in Decoder().feed(data) if isinstance(item, ServerSentEvent)]


def request(
    url: str,
    method: str = "GET",
    *,
    body: bytes | None = None,
    json_body: object = None,
    headers: dict[str, str] | None = None,
    patience_seconds: float = WAIT_SECONDS,
) -> Response:
    """Send one request on a new connection and read the response's head; `patience_seconds`: for each read."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=patience_seconds)
    lines = {"Host": parts.netloc, **(headers or {})}
    if json_body is not None:
        body = json.dumps(json_body).encode()
        lines.setdefault("Content-Type", "application/json")
    if body is not None:
        lines.setdefault("Content-Type", "application/x-www-form-urlencoded")
        lines.setdefault("Content-Length", str(len(body)))
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    try:
        connection.sendall(head.encode() + b"\r\n" + (body or b""))
        return read_head(connection)
    except BaseException:
        connection.close()
        raise


def read_head(connection: socket.socket) -> Response:
    """Read a response's head from a connection on which a request was sent."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise HeadCut(f"the connection ended inside the head: {data!r}")
        data += piece
    head, rest = data.split(b"\r\n\r\n", 1)
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Response(connection, int(status_line.split()[1]), headers, rest)
