"""An answer's body, read in the hub: the library's bytes, in every framing, cut anywhere, with and without TLS."""

import contextlib
import os
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import requests

from streaming.relay.body import Body, BodyBroken
from streaming.relay.connections import READ_BYTES
from streaming.relay.upstream import Opened, Session
from streaming.wire.dialects import Request
from tests.answering import answering
from tests.relay.support import LIMITS

TEXT = random.Random(1).randbytes(3 * READ_BYTES)
RECORD_PART_BYTES = 12_000  # with the head one TLS record
FRAMINGS = ["chunked", "length", "close", "gzip", "nothing"]


def framed(framing: str, dice: random.Random) -> tuple[str, bytes]:
    """Return the header and the body."""
    text = TEXT[: dice.choice([1, 40, RECORD_PART_BYTES, READ_BYTES, len(TEXT)])]
    if framing == "chunked":
        cuts = sorted(dice.sample(range(1, len(text)), min(len(text) - 1, 9)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        return "Transfer-Encoding: chunked", body
    if framing == "gzip":
        packed = zlib.compressobj(wbits=31)
        body = packed.compress(text) + packed.flush()
        return f"Content-Encoding: gzip\r\nContent-Length: {len(body)}", body
    if framing == "nothing":
        return "Content-Length: 0", b""
    return (f"Content-Length: {len(text)}" if framing == "length" else "Connection: close"), text


@contextlib.contextmanager
def asking(url: str, certificate: Path | None = None) -> Iterator[Callable[[], Body]]:
    """Yield what asks the URL and returns its answer's body, on one session."""
    session = Session()
    opened: list[Opened] = []

    def ask() -> Body:
        opened.append(session.open(Request(url=url, headers={}, method="GET"), LIMITS))
        return Body(opened[-1])

    try:
        with patch.dict(os.environ, {"SSL_CERT_FILE": str(certificate)} if certificate else {}):
            yield ask
    finally:
        for each in opened:
            each.close()
        session.close()


def read(body: Body) -> bytes:
    pieces: list[bytes] = []
    body.read(lambda data: bool(pieces.append(data)))
    return b"".join(pieces)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_it_reads_what_the_library_reads_and_keeps_the_connection(framing: str, tls: bool, certificate: Path) -> None:
    dice = random.Random(f"{framing} {tls}")
    vouches = certificate if tls else None
    for _ in range(12):
        header, payload = framed(framing, dice)
        whole = f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode() + payload
        cuts = sorted(dice.sample(range(1, len(whole)), min(len(whole) - 1, dice.choice([0, 3, 20]))))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        with answering(pieces, vouches, closes=framing == "close") as (url, connections), asking(url, vouches) as ask:
            expected = requests.get(url, verify=str(vouches or True), timeout=10).content
            connections.clear()
            for _ in range(2):
                body = ask()
                assert read(body) == expected
                assert body.complete
                body.close()
            assert len(connections) == (2 if framing == "close" else 1)


@pytest.mark.parametrize("payload", [b"5\r\nab", b"zz\r\n", b"2\r\nabc\r\n"])
def test_a_broken_body_is_told(payload: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering([head, payload], None, closes=True) as (url, _), asking(url) as ask, pytest.raises(BodyBroken):
        read(ask())


def test_what_its_taker_raises_is_raised_and_the_rest_is_left() -> None:
    def refuse(data: bytes) -> bool:
        raise ValueError("enough")

    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering([head, b"1\r\na\r\n"], None, closes=False) as (url, _), asking(url) as ask:
        with pytest.raises(ValueError, match="enough"):
            ask().read(refuse)


def test_an_unknown_coding_is_refused() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: zz\r\nContent-Length: 1\r\n\r\na"
    with answering([head], None, closes=False) as (url, _), asking(url) as ask, pytest.raises(BodyBroken):
        ask()
