"""An upstream's answer, read in the hub: each piece is taken by a callback as it arrives.

The greenlet that asked sleeps meanwhile, once for the whole answer. Reading in it, through urllib3 and http.client,
costs two switches, a recv that says EAGAIN and a timer for each token: the relay took 172 µs of the processor a token
with it, and 126 without (50 streams of 50 tokens a second, one relay after the other on the same machine).
"""

import ssl
import zlib
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub, getcurrent

from streaming.relay.connections import READ_BYTES
from streaming.relay.upstream import Opened
from streaming.wire.chunked import BadChunk, ChunkedDecoder

SHORT_MAX_BYTES = 64 * 1024  # an error page longer than this tells nothing more
SHORT_READ_SECONDS = 2.0  # llama.cpp says `Connection: close` on errors and stays open

READABLE = 1  # libev's flag
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS


class BodyBroken(Exception):
    """The connection broke before the end of the body, or the body is badly framed."""


class BodyTimeout(Exception):
    """Its reader has lost patience."""


class Body:
    """The body of a streamed answer whose head has come. `close` it.

    `complete`: its end has come.
    """

    def __init__(self, opened: Opened) -> None:
        self.complete = False
        self._opened = opened
        self._came_with_head = opened.rest
        self._chunks = ChunkedDecoder() if opened.head.chunked else None
        self._left_bytes = opened.head.length  # None = chunked, or up to the connection's end; negative = more came
        self._inflate = _inflate_for(opened.head.headers.get("content-encoding", ""))
        sock = opened.socket
        self._fileno = sock.fileno()
        self._recv = sock.recv if isinstance(sock, ssl.SSLSocket) else sock._sock.recv  # gevent's own would wait
        self._set_timeout = sock.settimeout
        self._take: Callable[[bytes], bool] = lambda data: True
        self._sleeper: Any = None  # the greenlet inside read

    def read(self, take: Callable[[bytes], bool]) -> None:
        """Call `take(data)` with all that comes, until it returns True or the body is complete.

        What came with the head is taken at once, the rest in the hub: `take` must not block. What it raises is raised
        here. Raises BodyBroken. Whoever throws something else into the waiting greenlet ends the reading.
        """
        self._take = take
        self._set_timeout(0.0)
        if self._take_what_came_with_head():
            return
        watcher = get_hub().loop.io(self._fileno, READABLE)
        self._sleeper = getcurrent()
        try:
            watcher.start(self._on_readable)
            get_hub().switch()
        finally:
            self._sleeper = None
            watcher.stop()
            watcher.close()

    def abort(self, error: Exception) -> None:
        """End a reading that waits; for the hub's callbacks."""
        self._wake(error)

    def _on_readable(self) -> None:
        try:
            over = self._take_readable()
        except Exception as error:
            self._wake(error)
        else:
            if over:
                self._wake()

    def _wake(self, error: Exception | None = None) -> None:
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is None:
            return
        if error is None:
            sleeper.switch()
        else:
            sleeper.throw(error)

    def _take_what_came_with_head(self) -> bool:
        data, self._came_with_head = self._came_with_head, b""
        if data:
            return self._take_raw(data)
        self.complete = self._left_bytes == 0
        return self.complete

    def _take_readable(self) -> bool:
        """Take what the socket has; return whether that was all that is wanted."""
        try:
            data = self._recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise BodyBroken(type(error).__name__) from None
        return self._take_raw(data)

    def _take_raw(self, data: bytes) -> bool:
        if not data:
            return self._at_eof()
        if self._chunks is not None:
            try:
                data = self._chunks.feed(data)
            except BadChunk as error:
                raise BodyBroken(str(error)) from None
            self.complete = self._chunks.done
        elif self._left_bytes is not None:
            self._left_bytes -= len(data)
            if self._left_bytes < 0:
                data = data[: self._left_bytes]
            self.complete = self._left_bytes <= 0
        if self._inflate is not None:
            try:
                data = self._inflate(data)
            except zlib.error as error:
                raise BodyBroken(str(error)) from None
        return (bool(data) and self._take(data)) or self.complete

    def _at_eof(self) -> bool:
        if self._chunks is not None or self._left_bytes is not None:
            raise BodyBroken("the connection ended before the body")
        self.complete = True
        return True

    @property
    def reusable(self) -> bool:
        """Return whether its end has come, and nothing behind it that the next answer would begin with."""
        surplus = self._chunks.surplus if self._chunks is not None else (self._left_bytes or 0) < 0
        return self.complete and not surplus

    def close(self) -> None:
        """Keep the connection where it can be used again, end it otherwise; any number of times."""
        self._opened.close(reusable=self.reusable)


def read_short(opened: Opened, max_bytes: int = SHORT_MAX_BYTES) -> bytes:
    """Return a short answer's body, an error's above all, bounded in size and time; let the connection go."""
    read = bytearray()

    def take(data: bytes) -> bool:
        read.extend(data)
        return len(read) >= max_bytes

    reusable = False
    try:
        body = Body(opened)
        with gevent.Timeout(SHORT_READ_SECONDS, False):
            body.read(take)
        reusable = body.reusable
    except BodyBroken:
        pass  # the status alone says enough
    finally:
        opened.close(reusable=reusable)
    return bytes(read)


def _inflate_for(coding: str) -> Callable[[bytes], bytes] | None:
    """Return what undoes a coding that nobody asked for. Raises BodyBroken where nothing does."""
    if coding.lower() in {"", "identity"}:
        return None
    if coding.lower() in {"gzip", "x-gzip", "deflate"}:
        return zlib.decompressobj(_ZLIB_OR_GZIP).decompress
    raise BodyBroken("an unknown Content-Encoding")
