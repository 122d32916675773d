"""What a log amounts to: the `json` format, the snapshot, the HTTP status."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire import jsontext
from streaming.wire.answer import Answer, fold
from streaming.wire.events import (
    End,
    EndError,
    Entry,
    Event,
    File,
    Reasoning,
    Replace,
    Start,
    Step,
    Token,
    ToolCall,
    Upstream,
)
from streaming.wire.usage import RunningDigest

START = Start(run_id="ab12XYZ", conversation_id="c-1", created=1_771_000_000)
UPSTREAM = Upstream(name="main", model="m", tries=2)
DONE = End(reason="done", finish_reason="stop")


def log(*events: Event) -> list[Entry]:
    return [Entry(seq, event.type, jsontext.dumps(event)) for seq, event in enumerate(events, 1)]


TEXTS = st.text(st.sampled_from("a\n\u2028\0😀é") | st.characters(codec="utf-8"))
PIECES = st.lists(
    st.builds(lambda text: Token(text=text), TEXTS)
    | st.builds(lambda text: Reasoning(text=text), TEXTS)
    | st.builds(lambda text: Replace(text=text), TEXTS)
)


@given(PIECES)
def test_an_answer_is_its_pieces_in_order_and_its_digest_proves_it(pieces: list[Event]) -> None:
    text, reasoning = "", ""
    digest = RunningDigest()
    for piece in pieces:
        if isinstance(piece, Token):
            text += piece.text
            digest.add(piece.text)
        elif isinstance(piece, Reasoning):
            reasoning += piece.text
        elif isinstance(piece, Replace):
            text = piece.text
            digest.replace(piece.text)
    whole = RunningDigest()
    whole.add(text)
    answer = fold(log(START, *pieces))
    assert (answer.text, answer.reasoning) == (text, reasoning)
    assert digest.value() == whole.value()


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        ([], []),
        (
            [ToolCall(index=0, id="a", name="f"), ToolCall(index=0, arguments="{"), ToolCall(index=0, arguments="}")],
            [{"index": 0, "id": "a", "name": "f", "arguments": "{}"}],
        ),
        (  # interleaved, and in order of their index whichever came first
            [
                ToolCall(index=1, id="b", name="g", arguments="["),
                ToolCall(index=0, id="a", name="f", arguments="{"),
                ToolCall(index=1, arguments="]"),
                ToolCall(index=0, arguments="}"),
            ],
            [
                {"index": 0, "id": "a", "name": "f", "arguments": "{}"},
                {"index": 1, "id": "b", "name": "g", "arguments": "[]"},
            ],
        ),
        (  # some servers repeat id and name, some send the name late
            [
                ToolCall(index=0, id="a"),
                ToolCall(index=0, id="a", name="f", arguments="1"),
                ToolCall(index=0, name="f"),
            ],
            [{"index": 0, "id": "a", "name": "f", "arguments": "1"}],
        ),
    ],
)
def test_fragments_of_tool_calls_are_merged_by_index(fragments: list[Event], calls: list[dict[str, Any]]) -> None:
    assert fold(log(START, *fragments, DONE)).tool_calls == calls


def test_a_step_told_again_stands_once_in_its_first_place_with_its_last_state() -> None:
    one = Step(id="n-1", kind="node", name="A", status="started")
    two = Step(id="n-2", kind="node", name="B", status="started")
    finished = Step(id="n-1", kind="node", name="A", status="finished", detail={"index": 1})
    assert fold(log(START, one, two, finished)).steps == [finished, two]


def test_a_snapshot_of_a_running_run_says_from_where_to_follow() -> None:
    file = File(id="f-1", kind="image", url="https://x.example/a.png")
    answer = fold(log(START, UPSTREAM, Token(text="Hel"), file, Token(text="lo")))
    assert json.loads(msgspec.json.encode(answer.as_snapshot())) == {
        "run_id": "ab12XYZ",
        "conversation_id": "c-1",
        "state": "running",
        "seq": 5,
        "upstream": {"name": "main", "model": "m", "tries": 2},
        "text": "Hello",
        "reasoning": "",
        "tool_calls": [],
        "steps": [],
        "files": [{"id": "f-1", "kind": "image", "url": "https://x.example/a.png"}],
        "end": None,
    }


def test_the_json_format_has_the_fields_of_the_contract() -> None:
    answer = fold(log(START, UPSTREAM, Reasoning(text="hm"), Token(text="Hello"), DONE))
    told = json.loads(msgspec.json.encode(answer.as_json()))
    assert list(told) == ["run_id", "conversation_id", "text", "reasoning", "tool_calls", "files", "end"]
    assert (told["text"], told["reasoning"], told["end"]["reason"]) == ("Hello", "hm", "done")
    assert answer.as_snapshot()["state"] == "ended"


def test_answers_share_nothing() -> None:
    """Default lists are not one list for all: a file of one run must not show up in another's answer."""
    fold(log(START, File(id="f-1", kind="image", url="u"), ToolCall(index=0), DONE))
    fresh = fold(log(START))
    assert (fresh.files, fresh.tool_calls, fresh.steps) == ([], [], [])
    assert Answer().files == []


def failed(code: str, status: int) -> End:
    error = EndError(code=code, message="m", retryable=False, retry_after=None, status=status)
    return End(reason="error", error=error)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (End(reason="done"), 200),
        (End(reason="stopped"), 200),
        (End(reason="paused"), 200),
        (End(reason="abandoned"), 503),
        (End(reason="interrupted"), 503),
        (failed("upstream_busy", 503), 503),
        (failed("upstream_rejected", 400), 400),
        (failed("upstream_timeout", 504), 504),
        (None, 503),
    ],
)
def test_the_status_of_one_json_answer_tells_how_the_run_ended(end: End | None, status: int) -> None:
    assert fold(log(START, *([end] if end else []))).status() == status
