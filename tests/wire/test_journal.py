"""What workers share of a run: stretches and batches, both ways."""

import msgspec
import pytest

from streaming.wire.events import Digest, End, Entry
from streaming.wire.journal import (
    Piece,
    decode_batch,
    decode_end,
    decode_stretch,
    decode_stretch_until,
    encode_batch,
    encode_stretch,
)

ENTRIES = [
    Entry(7, "token", '{"text":"你好 👋"}'.encode()),
    Entry(8, "reasoning", b'{"text":"\\ud83d"}'),
    Entry(9, "end", b'{"reason":"done"}'),
]


@pytest.mark.parametrize("entries", [ENTRIES, ENTRIES[:1], ENTRIES[1:]])
def test_a_stretch_comes_back_from_either_of_its_ends(entries: list[Entry]) -> None:
    data = encode_stretch(entries)
    assert decode_stretch(entries[0].seq, data) == entries
    assert decode_stretch_until(entries[-1].seq, data) == entries


def test_a_batch_keeps_the_runs_apart_and_each_piece_encoded() -> None:
    stretches = [encode_stretch(ENTRIES), encode_stretch(ENTRIES[:1])]
    pieces = decode_batch(
        encode_batch([Piece("run-a", 7, msgspec.Raw(stretches[0])), Piece("run-b", 1, msgspec.Raw(stretches[1]))])
    )
    assert [(piece.run_id, piece.first_seq) for piece in pieces] == [("run-a", 7), ("run-b", 1)]
    assert decode_stretch(7, pieces[0].stretch) == ENTRIES
    assert decode_stretch(1, pieces[1].stretch) == [Entry(1, "token", ENTRIES[0].data)]


def test_an_end_is_read_back_whole() -> None:
    end = End(reason="stopped", digest=Digest(bytes=3, crc32="00000000"))
    assert decode_end(Entry(3, "end", msgspec.json.encode(end))) == end


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\xa1a"])
def test_bytes_that_are_neither_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_batch(data)
    with pytest.raises(msgspec.DecodeError):
        decode_stretch(1, data)
