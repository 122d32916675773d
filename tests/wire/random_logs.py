"""Logs of runs as no upstream ever made them: everything in any order."""

import json
from collections.abc import Iterable

import msgspec
from hypothesis import strategies as st

from streaming.wire import jsontext
from streaming.wire.errors import FAILURES, Failure
from streaming.wire.events import (
    Digest,
    End,
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

RUN_ID = "ab12ABCDEFGHIJKLMNOPQRSTUV"
START = Start(run_id=RUN_ID, conversation_id="c-1", created=1_771_000_000)
UPSTREAM = Upstream(name="main", model="m", tries=1)
END = End(
    reason="done",
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, exact=True, details={"x": None}),
    digest=Digest(bytes=5, crc32="0a1b2c3d"),
    timing=Timing(headers=12.5, total=99.0),
)

_ODD = ["\n", "\r\n", "\u2028", "\u0085", "\0", "\ufeff", "👨‍👩‍👧", "data: x\n\n", '"}', "早上好", " ", "[DONE]", "\\u"]
_TEXT = st.one_of(st.sampled_from(_ODD), st.text(min_size=1, max_size=12))
_PIECES = ["{", "}", '{"a":', '"b"}', "[]", "", " ", "NaN", '{"__proto__":{}}', "[" * 300, '{"a":"北京"}', "1"]
_ARGUMENTS = st.one_of(
    st.sampled_from(_PIECES),
    st.dictionaries(_TEXT, st.one_of(_TEXT, st.integers(), st.none()), max_size=2).map(json.dumps),
)
_NAME = st.one_of(st.none(), st.sampled_from(["weather", "f", "a-b", "北京"]))
_SOURCES = st.sampled_from(
    [{"document_name": "a.pdf"}, {"document_name": "https://x.example/"}, {"document_name": 5}, {}, "no object"]
)
_METADATA = st.one_of(
    st.just({}),
    st.builds(lambda sources: {"sources": sources}, st.lists(_SOURCES, max_size=3)),
    st.sampled_from([{"sources": 5}, {"form": {"a": None}}, {"outputs": {"__proto__": {"x": 1}, "b": 1}}]),
)
_EVENTS = st.one_of(
    st.builds(Token, text=_TEXT),
    st.builds(Token, text=_TEXT),
    st.builds(Reasoning, text=_TEXT),
    st.builds(Replace, text=st.one_of(st.just(""), _TEXT)),
    st.builds(ToolCall, index=st.integers(0, 3), id=_NAME, name=_NAME, arguments=_ARGUMENTS),
    st.builds(Step, id=st.sampled_from("ab"), kind=st.just("node"), name=_TEXT, status=st.just("started")),
    st.builds(File, id=_TEXT, kind=st.sampled_from(["image", "pdf"]), url=st.sampled_from(["https://x/a", "data:,x"])),
)
_WORDS = [None, "stop", "length", "tool_calls", "content_filter", "eos", "succeeded"]
_ENDS = st.one_of(
    st.builds(
        lambda word, metadata: msgspec.structs.replace(END, finish_reason=word, metadata=metadata),
        st.sampled_from(_WORDS),
        _METADATA,
    ),
    st.builds(
        lambda reason, metadata: msgspec.structs.replace(END, reason=reason, finish_reason=None, metadata=metadata),
        st.sampled_from(["stopped", "paused", "abandoned", "interrupted"]),
        _METADATA,
    ),
    st.sampled_from(sorted(FAILURES)).map(lambda code: End(reason="error", error=Failure(code).as_end_error())),
)


def entries(events: Iterable[Event]) -> list[Entry]:
    """Return the events as the log keeps them."""
    return [Entry(seq, event.type, jsontext.dumps(event)) for seq, event in enumerate(events, 1)]


def random_logs() -> st.SearchStrategy[list[Entry]]:
    """Return a strategy for whole logs."""
    middles = st.lists(_EVENTS, max_size=25)
    return st.builds(lambda middle, end: entries([START, UPSTREAM, *middle, end]), middles, _ENDS)
