"""The SSE codec against web-platform-tests `eventsource/`, a second implementation, and hostile streams."""

import itertools
import time
from collections.abc import Iterable, Iterator

import pytest
import sseclient
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.sse import Comment, Decoder, EventTooLarge, ServerSentEvent, comment, encode

BOM = b"\xef\xbb\xbf"
E = ServerSentEvent


def message(*data: str) -> list[ServerSentEvent]:
    return [E(text) for text in data]


# name -> (what the server sends, the events, the last reconnection time). Names are the files of web-platform-tests;
# its server appends LF LF LF after the text, or one LF where the file says newline=none.
WPT: dict[str, tuple[bytes, list[ServerSentEvent], int | None]] = {
    "event-data": (
        b"data:msg\ndata: msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\ndata:end\n\n\n\n\n",
        message("msg\nmsg", "", "end"),
        None,
    ),
    "format-bom": (BOM + b"data:1\n\n" + BOM + b"data:2\n\ndata:3\n\n\n", message("1", "3"), None),
    "format-bom-2": (BOM + BOM + b"data:1\n\ndata:2\n\ndata:3\n\n\n", message("2", "3"), None),
    "format-comments": (
        b"data:1\r:\0\n:\r\ndata:2\n:%s\rdata:3\n:data:fail\r:%s\ndata:4\n\n" % (b"x" * 2048, b"x" * 2048),
        message("1\n2\n3\n4"),
        None,
    ),
    "format-data-before-final-empty-line": (b"retry:1000\ndata:test1\n\nid:test\ndata:test2\n", message("test1"), 1000),
    "format-field-data": (b"data:\n\ndata\ndata\n\ndata:test\n\n\n", message("", "\n", "test"), None),
    "format-field-event": (b"event:test\ndata:x\n\ndata:x\n\n\n", [E("x", "test"), E("x")], None),
    "format-field-event-empty": (b"event: \ndata:data\n\n\n", message("data"), None),
    "format-field-id": (
        "id: …\nretry: 200\ndata: hello\n\ndata: again\n\n\n\n\n".encode(),
        [E("hello", id="…"), E("again", id="…")],
        200,
    ),
    "format-field-id-3": (
        b"id: 1\ndata: 1\n\ndata: 2\n\nid: 2\ndata:3\n\ndata:4\n\n\n\n\n",
        [E("1", id="1"), E("2", id="1"), E("3", id="2"), E("4", id="2")],
        None,
    ),
    "format-field-id-3, reset": (
        b"id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n\n\n\n",
        [E("1", id="1"), E("2"), E("3")],
        None,
    ),
    "format-field-id-3, reset without colon": (
        b"id: 1\ndata: 1\n\nid\ndata:2\n\ndata:3\n\n\n\n\n",
        [E("1", id="1"), E("2"), E("3")],
        None,
    ),
    "format-field-id-null, alone": (b"id: \0\ndata: hello\n\n\n\n\n", message("hello"), None),
    "format-field-id-null, start": (b"id: \0test\ndata: hello\n\n\n\n\n", message("hello"), None),
    "format-field-id-null, middle": (b"id: te\0st\ndata: hello\n\n\n\n\n", message("hello"), None),
    "format-field-id-null, end": (b"id: 7\nid: test\0\ndata: hello\n\n\n\n\n", [E("hello", id="7")], None),
    "format-field-parsing": (
        (
            b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\n"
            b"da-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n"
        ),
        message("\0\n 2\n1\n3\n\n4"),
        None,
    ),
    "format-field-retry": (b"retry:03000\ndata:x\n\n\n", message("x"), 3000),
    "format-field-retry-bogus": (b"retry:3000\nretry:1000x\ndata:x\n\n\n", message("x"), 3000),
    "format-field-retry-empty": (b"retry\ndata:test\n\n\n", message("test"), None),
    "format-field-unknown": (
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n\n",
        message("test\n\ntest"),
        None,
    ),
    "format-leading-space": (b"data:\ttest\rdata: \ndata:test\n\n\n", message("\ttest\n\ntest"), None),
    "format-newlines": (b"data:test\r\ndata\ndata:test\r\n\r\n", message("test\n\ntest"), None),
    "format-null-character": (b"data:\0\n\n\n\n", message("\0"), None),
    "format-utf-8": ("data:ok…\n\n\n".encode(), message("ok…"), None),
}

OURS: dict[str, tuple[bytes, list[ServerSentEvent], int | None]] = {
    "Dify's ping leaves no type to the next event": (b"event: ping\n\ndata: x\n\n", message("x"), None),
    "only one space is taken away": (b"data:  x\n\n", message(" x"), None),
    "U+2028, U+0085, VT and FF end no line": (
        'data: {"a":"\u2028\u2029\u0085\x0b\x0c\x1c"}\n\n'.encode(),
        message('{"a":"\u2028\u2029\u0085\x0b\x0c\x1c"}'),
        None,
    ),
    "bad UTF-8 is replaced": (b"data: \xff\n\ndata: a\xe4\xbd\n\n", message("\ufffd", "a\ufffd"), None),
    "a character cut by a line end does not reach over it": (
        b"data: \xe4\xbd\ndata: \xa0\n\n",
        message("\ufffd\n\ufffd"),
        None,
    ),
    "emoji": ("data: 👨\u200d👩\u200d👧\n\n".encode(), message("👨\u200d👩\u200d👧"), None),
    "a BOM inside a value stays": (b"data: " + BOM + b"x\n\n", message("\ufeffx"), None),
    "CR alone": (b"id: 1\rdata: a\rdata: b\r\rdata: c\r\r", [E("a\nb", id="1"), E("c", id="1")], None),
    "CRLF": (b"event: t\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [E("a", "t"), E("b")], None),
    "CR LF CR LF is two line ends, LF CR two": (b"data: a\n\rdata: b\r\n\n", message("a", "b"), None),
    "nothing but line ends": (b"\n\r\r\n\n", [], None),
    "an event without data fires nothing, but its id counts": (
        b"id: 7\n\nretry: 5\n\ndata: x\n\n",
        [E("x", id="7")],
        5,
    ),
    "the last type wins": (b"event: a\nevent: b\ndata: x\n\n", [E("x", "b")], None),
    "digits of other scripts are no digits": (
        "retry: ٣\nretry: ²\nretry: -1\nretry: 1.5\ndata: x\n\n".encode(),
        message("x"),
        None,
    ),
    "an endless number is no time": (b"retry: 7\nretry: %s\ndata: x\n\n" % (b"9" * 5000), message("x"), 7),
    "the end drops a line that has no end": (b"data: a\n\ndata: b", message("a"), None),
    "the end drops an event that has no blank line": (b"data: a\n\ndata: b\n", message("a"), None),
    "what looks like an event of its own inside a value": (b"data: data: x\n\n", message("data: x"), None),
    "no bytes": (b"", [], None),
}


def decode(pieces: Iterable[bytes]) -> tuple[list[ServerSentEvent], int | None]:
    decoder = Decoder()
    items = [item for piece in pieces for item in decoder.feed(piece)]
    return [item for item in items if isinstance(item, ServerSentEvent)], decoder.retry_ms


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    yield [stream]
    yield [stream[position : position + 1] for position in range(len(stream))]
    yield [b"", *[stream[position : position + 3] for position in range(0, len(stream), 3)], b""]
    for position in range(1, len(stream)):
        yield [stream[:position], stream[position:]]


@pytest.mark.parametrize("name", [*WPT, *OURS])
def test_a_stream_is_decoded_as_browsers_do_wherever_it_is_cut(name: str) -> None:
    stream, events, retry_ms = (WPT | OURS)[name]
    for pieces in cuts(stream):
        assert decode(pieces) == (events, retry_ms), pieces


def test_comments_are_told_apart_from_events_in_their_place() -> None:
    """A keep-alive proves that the sender lives, not that it makes progress: the two timers need to know."""
    stream = b":\n\n: keep-alive\ndata: x\n:a:b\n\n: pi"
    for pieces in cuts(stream):
        decoder = Decoder()
        items = [item for piece in pieces for item in decoder.feed(piece)]
        assert items == [Comment(""), Comment(" keep-alive"), Comment("a:b"), E("x")]


def test_an_event_is_dispatched_with_the_byte_that_completes_it() -> None:
    """Also where that byte is a CR: waiting for a possible LF would hold the token back."""
    for stream in (b"data: x\n\n", b"data: x\r\r", b"data: x\r\n\r"):
        decoder = Decoder()
        assert list(decoder.feed(stream[:-1])) == []
        assert list(decoder.feed(stream[-1:])) == [E("x")]


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_a_line_of_5_mb_in_small_pieces_passes() -> None:
    text = "0123456789abcdef" * (5 * 2**20 // 16)
    stream = f"data: {text}\n\n".encode()
    [event], _ = decode(stream[position : position + 997] for position in range(0, len(stream), 997))
    assert event.data == text


@pytest.mark.parametrize("repeated", [b"x" * 16, b"data: 8 bytes\n"], ids=["one line", "many data lines"])
def test_time_grows_linearly_with_the_size_of_an_event(repeated: bytes) -> None:
    """Eight times the bytes may take three times as long as they should; adding to one buffer would take 64 times."""

    def seconds(count: int) -> float:
        durations = []
        for _ in range(3):
            decoder = Decoder()
            began = time.process_time()
            for piece in itertools.chain([b"data: "], itertools.repeat(repeated, count), [b"\n\n"]):
                list(decoder.feed(piece))
            durations.append(time.process_time() - began)
        return min(durations)

    assert seconds(16 * 8192) < 24 * seconds(2 * 8192)


def test_time_for_many_small_events_in_one_piece_grows_linearly() -> None:
    def seconds(count: int) -> float:
        stream = b"data: x\n\n" * count
        durations = []
        for _ in range(3):
            began = time.process_time()
            assert len(list(Decoder().feed(stream))) == count
            durations.append(time.process_time() - began)
        return min(durations)

    assert seconds(80_000) < 24 * seconds(10_000)


@pytest.mark.parametrize(
    ("first", "repeated"),
    [
        (b"data: ", b"x" * 10),
        (b": ", b"x" * 10),
        (b"", b"\xef\xbb\xbf"),
        (b"", b"data: x\n"),
        (b"", b"data: x\r\n"),
        (b"", b"data\n: comment\n"),
    ],
    ids=["endless line", "endless comment", "endless start", "endless data lines", "CRLF", "with comments between"],
)
def test_an_endless_event_is_refused_soon_after_the_bound(first: bytes, repeated: bytes) -> None:
    decoder = Decoder(max_event_bytes=1000)
    pieces = itertools.chain([first], itertools.repeat(repeated, 10_000))
    fed: list[bytes] = []
    with pytest.raises(EventTooLarge, match="1000 bytes"):
        fed.extend(piece for piece in pieces if not list(decoder.feed(piece)) or piece)
    assert sum(map(len, fed)) < 5000


def test_what_is_not_kept_does_not_count_against_the_bound() -> None:
    """Hours of keep-alives without a blank line between them, and endless small events."""
    decoder = Decoder(max_event_bytes=100)
    for piece in itertools.islice(itertools.cycle([b": keep", b"-alive\n", b"unknown: ", b"field\nid: 7\n"]), 1000):
        list(decoder.feed(piece))
    for _ in range(1000):
        assert list(decoder.feed(b"data: 0123456789\n\n")) == [E("0123456789", id="7")]


@pytest.mark.parametrize("lines", [[94], [40, 48], [0, 0, 82], [10, 10, 10, 10, 10, 14]])
def test_the_bound_is_the_same_however_the_bytes_are_cut(lines: list[int]) -> None:
    """Data lines that make exactly the bound pass; one byte more does not."""
    stream = b"".join(b"data: %s\n" % (b"x" * size) for size in lines)
    bound = len(stream) - len(lines)
    for pieces in cuts(stream + b"\n"):
        decoder = Decoder(max_event_bytes=bound)
        assert len([item for piece in pieces for item in decoder.feed(piece)]) == 1
        decoder = Decoder(max_event_bytes=bound - 1)
        with pytest.raises(EventTooLarge):
            [item for piece in pieces for item in decoder.feed(piece)]


# -- the encoder -------------------------------------------------------------------------------------------------------

# Text that breaks naive encoders: line ends, what Python but not SSE takes for one, spaces, colons, BOM, beyond BMP.
TEXT = st.text(st.sampled_from("\r\n\u2028\u2029\u0085\x0b\x0c\x1c\ufeff\0 :ad…😀\t") | st.characters(codec="utf-8"))
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"))


@given(st.lists(st.tuples(TEXT, NAME, NAME), min_size=1, max_size=4), st.integers(1, 7))
def test_what_is_encoded_is_decoded_again(events: list[tuple[str, str, str]], size: int) -> None:
    stream = b"".join(encode(data.encode(), event=event, id=id_) for data, event, id_ in events)
    pieces = [stream[position : position + size] for position in range(0, len(stream), size)]
    expected = []
    last_id = ""
    for data, event, id_ in events:
        last_id = id_ or last_id
        expected.append(E(data.replace("\r\n", "\n").replace("\r", "\n"), event or "message", last_id))
    assert decode(pieces) == (expected, None)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")))
def test_a_comment_is_no_event(text: str) -> None:
    assert list(Decoder().feed(comment(text))) == [Comment(" " + text)]


@pytest.mark.parametrize(
    ("encoded", "wire"),
    [
        (encode(b'{"text":"Hi"}'), b'data: {"text":"Hi"}\n\n'),
        (encode(b"{}", event="end", id="r.12"), b"id: r.12\nevent: end\ndata: {}\n\n"),
        (encode(b"a\r\nb\rc\nd"), b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (encode(b""), b"data: \n\n"),
        (encode(b"\n"), b"data: \ndata: \n\n"),
        (comment("ping"), b": ping\n\n"),
    ],
)
def test_the_wire_is_what_people_read_with_curl(encoded: bytes, wire: bytes) -> None:
    assert encoded == wire


# -- a second implementation -------------------------------------------------------------------------------------------

WORD = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=8).filter(
    lambda text: not text.startswith((" ", "\ufeff"))
)
ORDINARY = st.lists(
    st.tuples(st.lists(WORD, min_size=1, max_size=3), st.none() | WORD, st.none() | WORD, st.booleans()), max_size=5
)


@given(ORDINARY, st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 9))
def test_ordinary_streams_mean_the_same_to_another_implementation(
    events: list[tuple[list[str], str | None, str | None, bool]], line_end: bytes, size: int
) -> None:
    """Against sseclient-py, away from where it is known to be wrong: BOM, the end of a stream, mixed line ends."""
    lines: list[str] = []
    for data, event, id_, with_comment in events:
        lines += [": keep-alive"] if with_comment else []
        lines += [f"event: {event}"] if event else []
        lines += [f"id: {id_}"] if id_ else []
        lines += [*(f"data: {text}" for text in data), ""]
    stream = b"".join(line.encode() + line_end for line in lines)
    pieces = [stream[position : position + size] for position in range(0, len(stream), size)]
    theirs = [(event.event, event.data) for event in sseclient.SSEClient(iter(pieces)).events()]
    ours, _ = decode(pieces)
    assert [(event.type, event.data) for event in ours] == theirs
    their_ids = [event.id for event in sseclient.SSEClient(iter(pieces)).events()]
    assert [event.id for event, id_ in zip(ours, their_ids, strict=True) if id_] == [id_ for id_ in their_ids if id_]
