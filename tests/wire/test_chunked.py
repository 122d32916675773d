"""The chunked coding: every cut, and what is none."""

import http.client
import io
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.chunked import MAX_LINE_BYTES, BadChunk, ChunkedDecoder


def decoded(*pieces: bytes) -> tuple[bytes, bool]:
    decoder = ChunkedDecoder()
    return b"".join(decoder.feed(piece) for piece in pieces), decoder.done


def as_the_library_reads(body: bytes) -> bytes:
    """What http.client makes of it."""

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    sock: Any = Socket()
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response.read()


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 400)), st.booleans())
def test_wherever_it_is_cut_it_reads_like_the_library(texts: list[bytes], cuts: list[int], extended: bool) -> None:
    size = "%x;name=value" if extended else "%X"
    body = b"".join((size % len(text)).encode() + b"\r\n" + text + b"\r\n" for text in texts)
    body += b"0\r\nTrailer: x\r\n\r\n" if extended else b"0\r\n\r\n"
    places = sorted({cut for cut in cuts if cut < len(body)} | {0, len(body)})
    pieces = [body[a:b] for a, b in itertools.pairwise(places)]
    assert decoded(*pieces) == (b"".join(texts), True)
    assert as_the_library_reads(body) == b"".join(texts)


@pytest.mark.parametrize(
    ("pieces", "data"),
    [
        ((b"5\r\nhello\r\n", b"0\r\n\r\n"), b"hello"),
        ((b"a\r\n", b"5\r\nhello\r\n", b"\r\n0\r\n\r\n"), b"5\r\nhello\r\n"),  # the data looks like a chunk
        ((b"1", b"2\r\nab\r\n", b"c" * 14 + b"\r\n0\r\n\r\n"), b"ab\r\n" + b"c" * 14),  # half a size came before
        ((b"5\r\nhello", b"\r\n", b"2\r\nab\r\n", b"0\r\n\r\n"), b"helloab"),
    ],
)
def test_a_chunk_that_comes_whole_is_told_from_what_looks_like_one(pieces: tuple[bytes, ...], data: bytes) -> None:
    assert decoded(*pieces) == (data, True)


def test_every_byte_alone() -> None:
    body = b"5\r\nhello\r\n0;x\r\nA: b\r\n\r\n"
    assert decoded(*(body[n : n + 1] for n in range(len(body)))) == (b"hello", True)


@pytest.mark.parametrize(
    "body",
    [
        *(b"\r\n", b"x\r\n", b"-1\r\n", b"+5\r\n", b"0x5\r\n", b"1_0\r\n", "٣\r\n".encode(), b"f" * 17 + b"\r\n"),
        *(b"2\r\nabc\r\n", b"a" * (MAX_LINE_BYTES + 1), b"0\r\n" + b"a" * (MAX_LINE_BYTES + 1)),
    ],
)
def test_what_is_not_chunked_is_refused(body: bytes) -> None:
    with pytest.raises(BadChunk):
        decoded(body)


def test_an_unfinished_body_is_not_done() -> None:
    for body in (b"", b"5\r\nhel", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n"):
        assert not decoded(body)[1]
