"""Events -> the bytes that workers share, and back.

    a batch    what all runs of one worker have said since the last one: one entry of its journal
    a stretch  consecutive events of one run: one entry of that run's stream, and one piece of a batch

A stretch holds no `seq`: where it is kept tells the last one, and a log has no gaps.
"""

from collections.abc import Iterable, Sequence

import msgspec

from streaming.wire.events import End, Entry


class Piece(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A stretch of one run in a batch. It stays encoded: most runs of a batch are not followed by who reads it."""

    run_id: str
    first_seq: int
    stretch: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(list[Piece]).decode
_decode_stretch = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode
_decode_end = msgspec.json.Decoder(End).decode


def encode_stretch(entries: Iterable[Entry]) -> bytes:
    """Return the entries' types and data; they are consecutive."""
    return _encode([(entry.type, entry.data) for entry in entries])


def decode_stretch(first_seq: int, data: bytes | msgspec.Raw) -> list[Entry]:
    """Return the entries of a stretch. Raises msgspec.DecodeError."""
    return [Entry(first_seq + n, *event) for n, event in enumerate(_decode_stretch(data))]


def decode_stretch_until(last_seq: int, data: bytes) -> list[Entry]:
    """Return the entries of a stretch whose last one has that `seq`. Raises msgspec.DecodeError."""
    events = _decode_stretch(data)
    return [Entry(last_seq - len(events) + 1 + n, *event) for n, event in enumerate(events)]


def encode_batch(pieces: Sequence[Piece]) -> bytes:
    """Return one batch."""
    return _encode(pieces)


def decode_batch(data: bytes) -> list[Piece]:
    """Return the pieces of a batch. Raises msgspec.DecodeError."""
    return _decode_batch(data)


def decode_end(entry: Entry) -> End:
    """Return the `end` that an entry of that type holds. Raises msgspec.DecodeError."""
    return _decode_end(entry.data)
