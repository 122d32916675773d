"""The `ws` format: events as WebSocket text frames, each the NDJSON object with the run's id and the asker's `ref`."""

from typing import ClassVar

import msgspec

from streaming.wire.events import Entry
from streaming.wire.formats.native import Ndjson

PING = b"\x89\x00"  # a whole frame: RFC 6455, section 5.5.2


def text_frame(payload: bytes) -> bytes:
    """Return one whole, unmasked frame, as a server sends them (RFC 6455, section 5.2). `payload` is UTF-8."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%s" % (size, payload)
    if size < 1 << 16:
        return b"\x81\x7e%s%s" % (size.to_bytes(2), payload)
    return b"\x81\x7f%s%s" % (size.to_bytes(8), payload)


class Ws:
    """One frame an event. `ref` is what the asker called it, None where it has no name."""

    name: ClassVar[str] = "ws"
    content_type: ClassVar[str] = "application/json"

    def __init__(self, run_id: str, ref: str | int | None) -> None:
        self._lines = Ndjson()
        self._ref = b'{"ref":%s,' % msgspec.json.encode(ref)
        self._run_and_ref = b'{"run_id":%s,%s' % (msgspec.json.encode(run_id), self._ref[1:])

    def opening(self) -> bytes:
        """Return nothing: the handshake was the opening."""
        return b""

    def encode(self, entry: Entry) -> bytes:
        """Return one frame. The event's JSON is spliced in, not decoded."""
        head = self._ref if entry.type == "start" else self._run_and_ref  # `start` names its run itself
        return text_frame(head + self._lines.encode(entry)[1:-1])

    def ping(self) -> bytes:
        """Return the protocol's own ping, which browsers answer by themselves."""
        return PING
