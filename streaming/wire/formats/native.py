"""The formats that show the log as it is: sse, ndjson and text."""

from typing import ClassVar

import msgspec

from streaming.wire import sse
from streaming.wire.events import Entry
from streaming.wire.formats import HAPPY_ENDS, BodyAborted


class Sse:
    """Server-Sent Events. `id_prefix` is put before `seq` where the URL does not name the run; `retry_ms` is advice."""

    name: ClassVar[str] = "sse"
    content_type: ClassVar[str] = "text/event-stream; charset=utf-8"

    def __init__(self, *, id_prefix: str = "", retry_ms: int) -> None:
        self._id_prefix = id_prefix
        self._retry_ms = retry_ms

    def opening(self) -> bytes:
        """Return a comment that says how to resume, and the reconnection time."""
        how = b": resume with the header Last-Event-ID: <last id seen>; an event named end is the last\n"
        return b"%sretry: %d\n\n" % (how, self._retry_ms)

    def encode(self, entry: Entry) -> bytes:
        """Return one event; tokens have no name, so that `onmessage` gets them."""
        if entry.type == "token":
            return b"id: %s%d\ndata: %s\n\n" % (self._id_prefix.encode(), entry.seq, entry.data)
        return sse.encode(entry.data, event=entry.type, id=f"{self._id_prefix}{entry.seq}")

    def ping(self) -> bytes:
        """Return a comment."""
        return b": ping\n\n"


class Ndjson:
    """One JSON object a line: `seq`, `type`, and the event's own fields."""

    name: ClassVar[str] = "ndjson"
    content_type: ClassVar[str] = "application/x-ndjson; charset=utf-8"

    def opening(self) -> bytes:
        """Return a ping: headers alone would wait in some proxies."""
        return self.ping()

    def encode(self, entry: Entry) -> bytes:
        """Return one line. The event's JSON is spliced in, not decoded."""
        rest = b"," + entry.data[1:] if entry.data != b"{}" else b"}"
        return b'{"seq":%d,"type":"%s"%s\n' % (entry.seq, entry.type.encode(), rest)

    def ping(self) -> bytes:
        """Return a line without a `seq`."""
        return b'{"type":"ping"}\n'


class _TokenText(msgspec.Struct):
    text: str


class _EndReason(msgspec.Struct):
    reason: str


class Text:
    """The answer's text alone. What it cannot say (a failure, a replaced text) breaks the body off."""

    name: ClassVar[str] = "text"
    content_type: ClassVar[str] = "text/plain; charset=utf-8"

    def opening(self) -> bytes:
        """Return nothing: any byte would be part of the answer."""
        return b""

    def encode(self, entry: Entry) -> bytes:
        """Return a token's text."""
        if entry.type == "token":
            return msgspec.json.decode(entry.data, type=_TokenText).text.encode()
        if entry.type == "replace":
            raise BodyAborted("the text so far was replaced")
        if entry.type == "end" and msgspec.json.decode(entry.data, type=_EndReason).reason not in HAPPY_ENDS:
            raise BodyAborted("the run did not end well")
        return b""

    def ping(self) -> bytes:
        """Return nothing: plain text has no room for a keep-alive."""
        return b""
