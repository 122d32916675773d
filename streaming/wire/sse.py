"""Server-Sent Events, both directions (WHATWG HTML §9.2.5 and §9.2.6).

The decoder is fed bytes as they arrive, cut anywhere, and reports comments too: a keep-alive proves that the sender
lives, not that it makes progress. It deliberately differs from browsers in one thing only: a bound on one event.
"""

import re
from collections.abc import Iterable, Iterator

import msgspec

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Against an endless line filling the memory. Dify's `node_finished` holds whole documents, so 5 MB must pass."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")
# int() accepts digits of every script; the specification says ASCII.
_ASCII_DIGITS = re.compile(r"[0-9]+\Z")


class ServerSentEvent(msgspec.Struct, gc=False):
    """A dispatched event. `id` is the last event ID in force; `type` is "message" where the stream names none."""

    data: str
    type: str = "message"
    id: str = ""


class Comment(msgspec.Struct, gc=False):
    """A line that starts with a colon: a keep-alive."""

    text: str


class EventTooLarge(ValueError):
    """One event (or one line) passed the decoder's bound."""


class Decoder:
    """Incremental decoder of one stream: linear in time, bounded in memory.

    `retry_ms` is the last reconnection time seen, in milliseconds, None = none yet. What is pending when the stream
    ends is dropped by never being dispatched, as the specification asks.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.retry_ms: int | None = None
        self._max_event_bytes = max_event_bytes
        # Pieces of the unfinished line, joined once: adding to one buffer would be quadratic on a long line.
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._data_bytes = 0
        self._at_start = True
        self._after_cr = False
        self._data: list[str] = []
        self._type = ""
        self._id = ""

    def feed(self, chunk: bytes) -> Iterable[ServerSentEvent | Comment]:
        """Return what the chunk completes, to be used up before the next feed. Raises EventTooLarge, then or now."""
        # An event that came alone and whole, as most tokens do: one line of data, a blank one, and nothing pending.
        if (
            chunk[:6] == b"data: "
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk[-1] == 0x0A
            and b"\r" not in chunk
            and len(chunk) <= self._max_event_bytes
            and not (self._line or self._data or self._type)
        ):
            self._at_start = self._after_cr = False
            return (ServerSentEvent(chunk[6:-2].decode("utf-8", "replace"), "message", self._id),)
        return self._feed(chunk)

    def _feed(self, chunk: bytes) -> Iterator[ServerSentEvent | Comment]:
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 0x0A:  # the LF of a CRLF cut in two: that line has ended already
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk[-1] == 0x0D
            lines = _LINE_END.split(chunk)
        else:
            lines = chunk.split(b"\n")
        rest = lines.pop()
        for line in lines:
            if self._line:
                self._line.append(line)
                line = b"".join(self._line)
                self._line.clear()
                self._line_bytes = 0
            if self._data_bytes + len(line) > self._max_event_bytes:
                raise self._too_large()
            item = self._end_line(line)
            if item is not None:
                yield item
        if rest:
            self._line.append(rest)
            self._line_bytes += len(rest)
            if self._data_bytes + self._line_bytes > self._max_event_bytes:  # the same sum, however the bytes are cut
                raise self._too_large()

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"an event is larger than {self._max_event_bytes} bytes")

    def _end_line(self, line: bytes) -> ServerSentEvent | Comment | None:
        if self._at_start:  # exactly one BOM, at the very start
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        # No character spans a line end, so decoding line by line equals decoding the stream.
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if not name and colon:
            return Comment(value)
        if name == "data":
            self._data_bytes += len(line)
            self._data.append(value[1:] if value[:1] == " " else value)
        elif name in {"event", "id", "retry"}:
            self._set(name, value[1:] if value[:1] == " " else value)
        return None

    def _set(self, name: str, value: str) -> None:
        if name == "event":
            self._type = value
        elif name == "id":
            if "\0" not in value:
                self._id = value
        elif _ASCII_DIGITS.match(value) and len(value) <= 18:  # longer ones are no time anyone meant
            self.retry_ms = int(value)

    def _dispatch(self) -> ServerSentEvent | None:
        type_, self._type = self._type, ""
        self._data_bytes = 0
        if not self._data:
            return None
        data = "\n".join(self._data) if len(self._data) > 1 else self._data[0]
        self._data.clear()
        return ServerSentEvent(data, type_ or "message", self._id)


def encode(data: bytes, *, event: str = "", id: str = "") -> bytes:  # noqa: A002
    """Return one event. `data` may hold any UTF-8 text; `event` and `id` must be free of CR, LF and NUL.

    >>> encode(b'{"text":"Hi"}', id="7")
    b'id: 7\\ndata: {"text":"Hi"}\\n\\n'
    """
    head = (f"id: {id}\n" if id else "") + (f"event: {event}\n" if event else "")
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_LINE_END.split(data))
    return b"%sdata: %s\n\n" % (head.encode(), data)


def comment(text: str) -> bytes:
    """Return a comment line and a blank line: bytes on the wire that no client takes for an event."""
    return f": {text}\n\n".encode()
