"""Log entries -> the bytes of a stream: what every format has in common.

Every encoder is pure: the same entries give the same bytes, for every subscriber and after every resume. `json`, the
one format that waits for the end, is in answer.py.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar, Protocol

from streaming.wire.events import Entry

MAX_WRITE_BYTES = 8 * 1024
"""Waiting events leave together, in writes so small that a stuck subscriber, which holds one twice (gunicorn copies it
into a chunk), costs next to nothing. The contract allows 64 KiB."""

HAPPY_ENDS = {"done", "stopped", "paused"}


class BodyAborted(Exception):
    """The format cannot show what happened: the body must break off, so that the client sees a failure."""


class Format(Protocol):
    """One wire language towards a subscriber."""

    name: ClassVar[str]
    content_type: ClassVar[str]

    def opening(self) -> bytes:
        """Return the first bytes of a response, before any event; b"" sends the headers alone."""

    def encode(self, entry: Entry) -> bytes:
        """Return one event's bytes, b"" where the format has nothing to show. Raises BodyAborted."""

    def ping(self) -> bytes:
        """Return what is sent during silence, b"" where the format has no room for it."""


def writes(format_: Format, entries: Iterable[Entry], opening: bytes = b"") -> Iterator[bytes]:
    """Yield the entries' bytes, whole events only, each write at most MAX_WRITE_BYTES (or one larger event).

    Raises BodyAborted after yielding everything that came before it.
    """
    pending, size_bytes = [opening] if opening else [], len(opening)
    try:
        for entry in entries:
            data = format_.encode(entry)
            if size_bytes and size_bytes + len(data) > MAX_WRITE_BYTES:
                write, pending, size_bytes = b"".join(pending), [], 0
                yield write
            pending.append(data)
            size_bytes += len(data)
    except BodyAborted:
        if size_bytes:
            yield b"".join(pending)
        raise
    if size_bytes:
        yield b"".join(pending)
