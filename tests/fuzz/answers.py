"""What an upstream may send: an answer's head, the SSE decoder, and the readers of both dialects.

A target takes any bytes, and raises where something is wrong with the code, never with the bytes.
"""

import json
from collections.abc import Callable, Iterator

from streaming.wire import jsontext, sse
from streaming.wire.ask import Context, Message
from streaming.wire.dialects import Dialect
from streaming.wire.dialects.dify import Dify
from streaming.wire.dialects.openai import OpenAI
from streaming.wire.errors import FAILURES, Failure
from streaming.wire.http1 import BadHead, Head, split_head
from streaming.wire.sse import Decoder, EventTooLarge, ServerSentEvent

URL = "https://upstream.example/v1"
CONTEXT = Context(messages=[Message("user", "hi")], user="abc-123")
SMALL_EVENT_BYTES = 256  # within a fuzzer's reach
DIFY = [Dify(url=URL, api_key="app-key", mode=mode) for mode in ("chat", "completion", "workflow")]
OPENAI = OpenAI(url=URL, api_key="sk-key", model="m")


def answer_head(data: bytes) -> None:
    """A head means the same however much has come behind it, and its fields are of one line. The first byte cuts."""
    size, answer = data[0] if data else 0, data[1:]
    early, whole = _head(answer[:size]), _head(answer)
    if not isinstance(whole, tuple):
        assert early in {None, whole}
        return
    head, rest = whole
    assert early in (None, (head, rest[: len(rest) - len(answer[size:])]))
    assert head.length is None or (head.length >= 0 and not head.chunked)
    assert not any("\n" in text for field in head.headers.items() for text in field)
    assert all(name == name.lower().strip() for name in head.headers)


def _head(answer: bytes) -> tuple[Head, bytes] | str | None:
    try:
        return split_head(answer)
    except BadHead as bad:
        return str(bad)


def decoder(data: bytes) -> None:
    """A stream means the same however it is cut, and what is encoded is decoded again. The first byte tells how."""
    size, stream = max(1, data[0] if data else 1), data[1:]
    bound = SMALL_EVENT_BYTES if size % 2 else sse.MAX_EVENT_BYTES
    whole = _decoded([stream], bound)
    assert _decoded([stream[at : at + size] for at in range(0, len(stream), size)], bound) == whole
    for item in whole:
        if isinstance(item, ServerSentEvent):
            again = _decoded([sse.encode(item.data.encode(), event="x", id="7")], sse.MAX_EVENT_BYTES)
            assert again == [ServerSentEvent(item.data, "x", "7")]


def _decoded(pieces: list[bytes], bound: int) -> list[object]:
    read, items = Decoder(bound), list[object]()
    try:
        for piece in pieces:
            items.extend(read.feed(piece))  # what it yields before it raises counts
    except EventTooLarge:
        items.append("too large")
    return items


def openai_reader(data: bytes) -> None:
    """Read an OpenAI answer; before it as many bytes as the first one says are a refusal's body."""
    _read(OPENAI, data)


def dify_reader(data: bytes) -> None:
    """Read the answer of a Dify app, of the mode that the first byte says."""
    _read(DIFY[data[0] % 3 if data else 0], data[1:])


def _read(dialect: Dialect, data: bytes) -> None:
    events, reader = _events(data), dialect.reader(CONTEXT)
    try:
        for event in events:
            told = [jsontext.dumps(ours) for ours in reader.feed(event)]  # as the log does
            assert all(json.loads(each) is not None for each in told)
            if reader.complete:
                break
    except Failure as failure:
        FAILURES[failure.code]
        return
    verdict = reader.eof()
    assert (verdict.failure is not None) == (verdict.reason == "error")
    json.loads(jsontext.dumps([verdict.finish_reason, verdict.usage, verdict.metadata]))
    stop = reader.stop_request()
    assert stop is None or (stop.url.startswith(URL) and stop.url.isascii() and stop.url.isprintable())
    assert dialect.refusal(400, {}, data).code in FAILURES


def _events(data: bytes) -> Iterator[ServerSentEvent]:
    return (item for item in Decoder().feed(data) if isinstance(item, ServerSentEvent))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "answer_head": answer_head,
    "sse": decoder,
    "openai_reader": openai_reader,
    "dify_reader": dify_reader,
}
