"""A live stream's short way: events go from the hub to the client's socket, past the greenlet that serves it.

That greenlet sleeps meanwhile, with all of gunicorn, Werkzeug and Flask on its stack, and goes on with whatever is not
simple: a client that does not take a write at once, the end, silence, a burst.
"""

import time
from typing import Any

from streaming.relay.cursor import Cursor
from streaming.web.connection import ClientSocket
from streaming.wire.events import Entry
from streaming.wire.formats import MAX_WRITE_BYTES, BodyAborted, Format

PLAIN = {"token", "reasoning"}
"""Events that every format can show at any time: no encoder breaks the body off at one."""

BURST_EVENTS = 32
"""From so many on they are the reader's: OpenAI's frame around a token of one letter is twenty times its JSON here, and
what a stuck client does not take is held for it."""


class Outlet:
    """Writes what comes to `cursor`'s log while its reader sleeps. `sent_bytes` counts bodies, without their framing.

    `wrote_at` (monotonic, 0 = never): of the last write.
    """

    __slots__ = ("_chunked", "_client", "_cursor", "_format", "_rest", "sent_bytes", "wrote_at")

    def __init__(self, environ: dict[str, Any], cursor: Cursor, format_: Format) -> None:
        """`environ` is of the request whose response has a body without a length."""
        self.sent_bytes = 0
        self.wrote_at = 0.0
        self._client: Any = environ.get("gunicorn.socket")
        self._cursor = cursor
        self._format = format_
        self._chunked = environ.get("SERVER_PROTOCOL") != "HTTP/1.0"
        self._rest = b""

    def open(self) -> None:
        """Begin, where there is a socket. Nothing leaves before the reader first sleeps: by then the headers have."""
        if isinstance(self._client, ClientSocket):
            self._cursor.deliver = self._deliver

    def _deliver(self, entries: list[Entry]) -> bool:
        """See Cursor.deliver."""
        if len(entries) >= BURST_EVENTS:
            return False
        size_bytes = 0
        for entry in entries:
            size_bytes += len(entry.data)
            if entry.type not in PLAIN or size_bytes > MAX_WRITE_BYTES:
                return False
        encode = self._format.encode
        data = encode(entries[0]) if len(entries) == 1 else b"".join([encode(entry) for entry in entries])
        self._cursor.seq = entries[-1].seq  # whatever becomes of the write: an encoder may be asked only once
        if not data:
            return True
        frame = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        taken_bytes = self._client.send_now(frame)
        self.sent_bytes += len(data)
        self.wrote_at = time.monotonic()
        if taken_bytes == len(frame):
            return True
        self._rest = frame[taken_bytes:]
        return False

    def finish(self) -> None:
        """Send what the client did not take at once; for the reader, before it writes anything itself.

        Raises BodyAborted where the client is gone.
        """
        if self._rest:
            rest, self._rest = self._rest, b""
            try:
                self._client.sendall(rest)
            except OSError:
                raise BodyAborted("the client is gone") from None
