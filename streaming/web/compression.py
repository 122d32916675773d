"""Compression: gzip or zstd for clients that accept it, flushed at every write, so that no token waits for another.

    COMPRESS   auto   JSON, live NDJSON, and replays in any format
               all    live SSE and text too
               off    nothing

Live SSE is left alone because some proxies hold back what is compressed, live text because single tokens get larger.

Nothing of ours is secret in a body, so its length under compression gives nothing away (BREACH).
"""

import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Literal, Protocol

import gevent
from flask import Flask, Response, request
from werkzeug.datastructures import Accept

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compress = Literal["auto", "all", "off"]

# What compresses best when each token is flushed alone, in little memory: docs/streams.md has the figures.
GZIP_LEVEL, GZIP_WINDOW_BITS, GZIP_MEMORY_LEVEL = 9, 11, 3  # 20 KB a stream; zlib's defaults take 256
ZSTD_OPTIONS: dict[int, int] = {  # 43 KB a stream; zstd's defaults take 850
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.window_log: 11,
    zstd.CompressionParameter.hash_log: 8,
    zstd.CompressionParameter.chain_log: 8,
}

WHOLE_BODIES = {"application/json", "text/html", "text/javascript", "text/css"}
LEFT_ALONE_LIVE = {"text/event-stream", "text/plain"}
STREAM_CODINGS = ("gzip", "zstd")  # gzip's flushed tokens are a quarter smaller
BODY_CODINGS = ("zstd", "gzip")  # zstd takes a third of the time

BODY_LEVEL = 3  # of either; more takes long and gains little
MIN_BODY_BYTES = 1024  # below, a compressed body saves no packet
TURN_BYTES = 32 * 1024
"""How much of a body is compressed before the others' tokens get their turn: about a millisecond's worth."""


class Encoder(Protocol):
    """One response's compressor."""

    def write(self, data: bytes) -> bytes:
        """Return bytes from which, with those before, the client can decode all of `data`."""

    def finish(self) -> bytes:
        """Return the trailer, without which the client takes the body for cut off."""


class Gzip:
    """gzip (RFC 1952)."""

    def __init__(self) -> None:
        self._encoder = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + GZIP_WINDOW_BITS, GZIP_MEMORY_LEVEL)

    def write(self, data: bytes) -> bytes:
        """See Encoder. Z_PARTIAL_FLUSH would be shorter, but Go's reader waits for the empty block of a sync flush."""
        return self._encoder.compress(data) + self._encoder.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """See Encoder."""
        return self._encoder.flush()


class Zstd:
    """Zstandard (RFC 8878). Its window is far below the 8 MB that a browser accepts (RFC 9659)."""

    def __init__(self) -> None:
        self._encoder = zstd.ZstdCompressor(options=ZSTD_OPTIONS)

    def write(self, data: bytes) -> bytes:
        """See Encoder."""
        return self._encoder.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        """See Encoder."""
        return self._encoder.flush()


ENCODERS: dict[str, type[Gzip] | type[Zstd]] = {"gzip": Gzip, "zstd": Zstd}


def chosen(accepted: Accept, codings: tuple[str, ...]) -> str | None:
    """Return the coding of those that the client likes best, the first of equals; None = send the body as it is.

    RFC 9110 §12.5.3: q=0 refuses, `*` is what is not named. zstd must be named: `*` is sent by clients that know gzip.
    """
    qualities = {name.lower(): quality for name, quality in reversed(accepted)}
    qualities.setdefault("gzip", qualities.get("*", 0))
    best = max(codings, key=lambda coding: qualities.get(coding, 0))
    quality = qualities.get(best, 0)
    return best if quality > 0 and quality >= qualities.get("identity", 0) else None


def refuses_identity(accepted: Accept) -> bool:
    """Return whether the client takes nothing that is not compressed: `identity;q=0`, or `*;q=0` without identity."""
    return accepted.find("identity") >= 0 and not accepted.quality("identity")


def compress_stream(response: Response, compress: Compress, *, live: bool) -> None:
    """Let the response's writes be compressed one by one, where client and setting agree.

    `live`: the run goes on, so somebody waits for each write. A body that breaks off gets no trailer.
    """
    if compress == "off":
        return
    response.vary.add("Accept-Encoding")
    accepted = request.accept_encodings
    left_alone = compress == "auto" and live and response.mimetype in LEFT_ALONE_LIVE
    if left_alone and not refuses_identity(accepted):
        return
    coding = chosen(accepted, STREAM_CODINGS)
    if coding is not None:
        response.headers["Content-Encoding"] = coding
        response.response = encoded(response.response, ENCODERS[coding]())  # type: ignore[arg-type]


def encoded(body: Generator[bytes, None, None], encoder: Encoder) -> Iterator[bytes]:
    """Yield a body's writes, each encoded and flushed; and the trailer, unless the body raises."""
    turn_bytes = 0
    with closing(body):
        for write in body:
            yield encoder.write(write) if write else write  # an empty one sends the headers alone
            turn_bytes += len(write)
            if turn_bytes >= TURN_BYTES:
                turn_bytes = 0
                gevent.sleep(0)
        yield encoder.finish()


def install(app: Flask, compress: Compress) -> None:
    """Let the app's JSON bodies, pages and their files be compressed."""
    if compress != "off":
        app.after_request(_compress_body)


def _compress_body(response: Response) -> Response:
    if response.mimetype not in WHOLE_BODIES or response.content_encoding:
        return response
    if response.direct_passthrough and response.status_code == 200:  # a file of the page's, small; no part of one
        response.direct_passthrough = False
        response.make_sequence()
    if response.is_streamed:
        return response
    vary = response.headers.get("Vary")
    response.headers["Vary"] = f"{vary}, Accept-Encoding" if vary else "Accept-Encoding"
    body = response.get_data()
    if len(body) < MIN_BODY_BYTES:
        return response
    coding = chosen(request.accept_encodings, BODY_CODINGS)
    if coding is not None:
        response.set_data(whole(body, coding))
        response.headers["Content-Encoding"] = coding
    return response


def whole(body: bytes, coding: str) -> bytes:
    """Return a body encoded in one piece."""
    encoder = zlib.compressobj(BODY_LEVEL, wbits=31) if coding == "gzip" else zstd.ZstdCompressor(BODY_LEVEL)
    pieces = []
    for at in range(0, len(body), TURN_BYTES):
        pieces.append(encoder.compress(body[at : at + TURN_BYTES]))
        if at:
            gevent.sleep(0)
    return b"".join([*pieces, encoder.flush()])
