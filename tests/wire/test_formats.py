"""Log entries as bytes: every event type in every format, and how they are packed into writes."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire import jsontext
from streaming.wire.events import (
    Digest,
    End,
    EndError,
    Entry,
    Event,
    File,
    Reasoning,
    Replace,
    Start,
    Step,
    Timing,
    Token,
    ToolCall,
    Upstream,
    Usage,
)
from streaming.wire.formats import MAX_WRITE_BYTES, BodyAborted, Format, writes
from streaming.wire.formats.native import Ndjson, Sse, Text
from streaming.wire.sse import Comment, Decoder, ServerSentEvent

HARD = 'a\u2028b\u2029c\u0085d\0e\r\nf\rg"h\\i👨\u200d👩\u200d👧\ufeff\x7f €'

END = End(
    reason="done",
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=None, total_tokens=3, exact=True, details={"a": None}),
    digest=Digest(bytes=5, crc32="0a1b2c3d"),
    upstream_stop="closed",
    timing=Timing(headers=12.5, total=99.0),
    metadata={"sources": [{"content": HARD}]},
)
FAILED = End(
    reason="error",
    error=EndError(code="upstream_busy", message="Busy.", retryable=True, retry_after=5, status=503),
)
EVENTS: list[Event] = [
    Start(run_id="ab12XYZ", conversation_id=None, created=1_771_000_000),
    Upstream(name="main", model=None, tries=1),
    Token(text=HARD),
    Token(text=""),
    Reasoning(text=HARD),
    Replace(text=HARD),
    ToolCall(index=0, id="call_1", name="f", arguments='{"a":"\n"}'),
    Step(id="n-1", kind="node", name="LLM\n", status="started", detail={"index": 1}),
    File(id="f-1", kind="image", url="https://x.example/a.png"),
    END,
    FAILED,
]


def entry(event: Event, seq: int = 7) -> Entry:
    return Entry(seq, event.type, jsontext.dumps(event))


def token(text: str, seq: int = 7) -> Entry:
    return entry(Token(text=text), seq)


def fields(event: Event) -> dict[str, Any]:
    return msgspec.to_builtins(event)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_an_ndjson_line_is_seq_type_and_the_events_own_fields(event: Event) -> None:
    line = Ndjson().encode(entry(event))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    assert json.loads(line) == {"seq": 7, "type": event.type, **fields(event)}
    assert list(json.loads(line))[:2] == ["seq", "type"]


def test_an_event_without_fields_is_still_an_ndjson_object() -> None:
    assert Ndjson().encode(Entry(7, "new", b"{}")) == b'{"seq":7,"type":"new"}\n'


@pytest.mark.parametrize("prefix", ["", "ab12XYZ."])
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_an_sse_event_read_back_is_the_same_event(event: Event, prefix: str) -> None:
    """Tokens have no name, so that `onmessage` gets them; no event is named `error`, which EventSource fires itself."""
    encoded = Sse(id_prefix=prefix, retry_ms=2000).encode(entry(event))
    [read] = Decoder().feed(encoded)
    name = "message" if event.type == "token" else event.type
    assert isinstance(read, ServerSentEvent)
    assert (read.id, read.type, json.loads(read.data)) == (f"{prefix}7", name, fields(event))
    assert encoded.endswith(b"\n\n")
    assert encoded.count(b"\ndata: ") == 1  # one line of data: people read this with curl and grep
    assert read.type != "error"


def test_sse_opens_with_how_to_resume_and_when() -> None:
    decoder = Decoder()
    [comment] = decoder.feed(Sse(retry_ms=2500).opening())
    assert isinstance(comment, Comment)
    assert "Last-Event-ID" in comment.text
    assert decoder.retry_ms == 2500


def test_silence_is_filled_where_a_format_has_room_for_it() -> None:
    assert [type(item) for item in Decoder().feed(Sse(retry_ms=1).ping())] == [Comment]
    assert json.loads(Ndjson().ping()) == {"type": "ping"}
    assert Ndjson().opening() == Ndjson().ping()
    assert Text().ping() == Text().opening() == b""


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_plain_text_is_the_tokens_alone_and_breaks_off_where_it_would_lie(event: Event) -> None:
    if event.type == "replace" or event is FAILED:
        with pytest.raises(BodyAborted):
            Text().encode(entry(event))
    else:
        assert Text().encode(entry(event)) == (event.text.encode() if isinstance(event, Token) else b"")


@pytest.mark.parametrize(
    ("reason", "happy"),
    [
        ("done", True),
        ("stopped", True),
        ("paused", True),
        ("abandoned", False),
        ("error", False),
        ("interrupted", False),
    ],
)
def test_plain_text_ends_cleanly_only_where_the_answer_is_whole(reason: str, happy: bool) -> None:
    """Curl exits non-zero on a body that breaks off."""
    end = entry(End(reason=reason))
    if happy:
        assert Text().encode(end) == b""
    else:
        with pytest.raises(BodyAborted):
            Text().encode(end)


@pytest.mark.parametrize("format_", [Sse(retry_ms=1), Ndjson(), Text()], ids=lambda f: type(f).__name__)
@given(text=st.text(st.sampled_from('\r\n\u2028\u0085\0😀\ufeff"\\') | st.characters(codec="utf-8")))
def test_any_text_survives_every_format(format_: Format, text: str) -> None:
    encoded = format_.encode(token(text))
    if isinstance(format_, Sse):
        [event] = Decoder().feed(encoded)
        assert isinstance(event, ServerSentEvent)
        assert json.loads(event.data) == {"text": text}
    elif isinstance(format_, Ndjson):
        assert json.loads(encoded)["text"] == text
    else:
        assert encoded.decode() == text


# -- writes ------------------------------------------------------------------------------------------------------------

SIZES = st.sampled_from(
    [0, 1, 20, 1000, MAX_WRITE_BYTES // 2, MAX_WRITE_BYTES - 60, MAX_WRITE_BYTES, MAX_WRITE_BYTES * 2]
)


@pytest.mark.parametrize("format_", [Sse(retry_ms=1), Ndjson(), Text()], ids=lambda f: type(f).__name__)
@given(sizes=st.lists(SIZES | st.integers(0, 30_000), max_size=20), opening=st.sampled_from([b"", b": hello\n\n"]))
def test_waiting_events_leave_whole_in_few_bounded_writes(format_: Format, sizes: list[int], opening: bytes) -> None:
    entries = [token("x" * size, seq) for seq, size in enumerate(sizes, 1)]
    events = [format_.encode(one) for one in entries]
    parts = list(writes(format_, entries, opening))
    assert b"".join(parts) == opening + b"".join(events)
    assert all(parts)  # an empty write would end a chunked body
    borders = list(itertools.accumulate([len(opening), *map(len, events)]))
    at = 0
    for part in parts:
        at += len(part)
        assert at in borders  # no event is split
        assert len(part) <= MAX_WRITE_BYTES or part in events
        # Nothing is sent apart that could have gone together.
        with_the_next = min((border for border in borders if border > at), default=at + MAX_WRITE_BYTES + 1) - at
        assert len(part) + with_the_next > MAX_WRITE_BYTES


def test_what_came_before_a_break_is_written_before_the_body_breaks_off() -> None:
    parts = []
    entries = [token("whole "), token("answer"), entry(FAILED), token("never")]
    with pytest.raises(BodyAborted):
        parts.extend(writes(Text(), entries))
    iterator = writes(Text(), entries)
    assert next(iterator) == b"whole answer"
    with pytest.raises(BodyAborted):
        next(iterator)


def test_a_break_without_text_before_it_writes_nothing() -> None:
    with pytest.raises(BodyAborted):
        next(writes(Text(), [entry(FAILED)]))


def test_entries_that_show_nothing_make_no_write() -> None:
    assert list(writes(Text(), [entry(EVENTS[0]), entry(Reasoning(text="hm")), entry(END)])) == []
    assert list(writes(Sse(retry_ms=1), [])) == []
    assert list(writes(Sse(retry_ms=1), [], b": hello\n\n")) == [b": hello\n\n"]


def test_entries_are_taken_only_as_writes_are_sent() -> None:
    """A subscriber that is far behind costs one write of memory, not the whole log."""
    taken = []

    def log() -> Any:
        for seq in range(1, 100):
            taken.append(seq)
            yield token("x" * 10_000, seq)

    next(writes(Ndjson(), log()))
    assert len(taken) < 10
