"""A run's log as OpenAI's chat completion: in chunks, and as one object."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.answer import fold
from streaming.wire.errors import Failure
from streaming.wire.events import End, Entry, Event, File, Reasoning, Replace, Step, Token, ToolCall, Usage
from streaming.wire.formats.openai import Chunks, Completion, completion
from tests.openai_reader import Chat, read_chat
from tests.wire import dialect_fixtures
from tests.wire.dialect_fixtures import Fixture
from tests.wire.logs import RUN, log_of, log_with

HARD = 'a\u2028b\u2029c\u0085d\0e\r\nf\rg"h\\i👨\u200d👩\u200d👧\ufeff\x7f €'
EXACT = Usage(
    prompt_tokens=3,
    completion_tokens=4,
    total_tokens=7,
    exact=True,
    details={
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 1},
    },
)
ESTIMATE = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, exact=False)
DONE = End(reason="done", finish_reason="stop", usage=EXACT)


def encode(log: Sequence[Entry], *, include_usage: bool = False) -> bytes:
    format_ = Chunks(include_usage=include_usage)
    return format_.opening() + b"".join(format_.encode(entry) for entry in log)


def chat_of(*events: Event, include_usage: bool = False) -> Chat:
    return read_chat(encode(log_with(*events), include_usage=include_usage))


def whole(log: Sequence[Entry]) -> bytes:
    format_ = Completion()
    return format_.opening() + b"".join(format_.encode(entry) for entry in log)


def failed(code: str) -> End:
    return End(reason="error", error=Failure(code).as_end_error(), usage=ESTIMATE)


# -- recorded answers --------------------------------------------------------------------------------------------------


FIXTURES = [dialect_fixtures.load(name) for name in dialect_fixtures.names()]
READABLE = [  # by a client at the server itself
    fixture
    for fixture in FIXTURES
    if (fixture.kind, fixture.verdict["reason"]) == ("openai", "done") and fixture.name != "clone-wrong-types"
]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)
def test_chunks_and_object_tell_what_the_log_tells(fixture: Fixture) -> None:
    log = log_of(fixture)
    answer, chat = fold(log), read_chat(encode(log, include_usage=True))
    if answer.end.error is not None:
        assert (chat.error["code"], chat.error["message"]) == (answer.end.error.code, answer.end.error.message)
        assert (chat.done, chat.finish_reason, chat.usage) == (False, None, None)
        with pytest.raises(json.JSONDecodeError):
            json.loads(whole(log))
        return
    one = json.loads(whole(log))
    message, choice = one["choices"][0]["message"], one["choices"][0]
    assert (message["content"] or "") == answer.text
    assert message.get("reasoning_content", "") == answer.reasoning
    assert one["usage"] == chat.usage or chat.error
    if any(type_ == "replace" for type_, _ in fixture.events[first_text(fixture) :]):
        assert (chat.error["code"], chat.done) == ("answer_replaced", False)
        return
    assert (chat.text, chat.reasoning) == (answer.text, answer.reasoning)
    assert [{"index": index, **call} for index, call in chat.tool_calls.items()] == answer.tool_calls
    assert chat.finish_reason == choice["finish_reason"]
    assert chat.done
    assert [call["function"]["arguments"] for call in message.get("tool_calls", ())] == [
        call["arguments"] for call in answer.tool_calls
    ]


def first_text(fixture: Fixture) -> int:
    """Return the place behind the first event with text of the answer."""
    for number, (type_, fields) in enumerate(fixture.events, 1):
        if type_ in {"token", "replace"} and fields["text"]:
            return number
    return len(fixture.events)


@pytest.mark.parametrize("fixture", READABLE, ids=lambda fixture: fixture.name)
def test_a_client_reads_from_us_what_it_would_read_from_the_server(fixture: Fixture) -> None:
    direct, relayed = read_chat(fixture.raw), read_chat(encode(log_of(fixture), include_usage=True))
    assert (relayed.text, relayed.reasoning) == (direct.text, direct.reasoning)
    assert relayed.finish_reason == direct.finish_reason
    assert relayed.tool_calls == direct.tool_calls
    assert relayed.usage == (direct.usage if fixture.verdict["usage"] else None)  # all zero counts as unknown
    assert relayed.done


# -- the shape of chunks -----------------------------------------------------------------------------------------------


def test_every_chunk_says_whose_it_is() -> None:
    chat = chat_of(Token(text="hi"), Reasoning(text="hm"), DONE, include_usage=True)
    assert len(chat.chunks) == 5
    for chunk in chat.chunks:
        assert {name: chunk[name] for name in ("id", "object", "created", "model")} == {
            "id": RUN,
            "object": "chat.completion.chunk",
            "created": 1_771_000_000,
            "model": "m-1",
        }


def test_the_first_chunk_gives_the_role_and_the_last_one_the_reason() -> None:
    chat = chat_of(Token(text="hi"), DONE)
    assert [chunk["choices"] for chunk in chat.chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    ]
    assert "usage" not in chat.chunks[0]


def test_the_usage_comes_only_where_it_was_asked_for() -> None:
    chat = chat_of(Token(text="hi"), DONE, include_usage=True)
    assert [chunk["usage"] for chunk in chat.chunks] == [None, None, None, EXACT.details]
    assert chat.chunks[-1]["choices"] == []
    assert chat_of(Token(text="hi"), DONE).usage is None


def test_an_estimated_usage_says_so() -> None:
    counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "exact": False}
    end = End(reason="done", finish_reason="stop", usage=ESTIMATE)
    assert chat_of(end, include_usage=True).usage == counts
    assert completion(fold(log_with(end)))["usage"] == counts


def test_a_count_that_the_upstream_did_not_tell_stays_unknown() -> None:
    end = End(reason="done", usage=Usage(prompt_tokens=None, completion_tokens=None, total_tokens=9, exact=True))
    assert chat_of(end, include_usage=True).usage == {
        "prompt_tokens": None,
        "completion_tokens": None,
        "total_tokens": 9,
    }


def test_an_upstream_without_a_model_answers_in_its_own_name() -> None:
    log = log_with(Token(text="hi"), DONE, model=None)
    assert read_chat(encode(log)).chunks[0]["model"] == json.loads(whole(log))["model"] == "main"


def test_the_conversation_is_told_once() -> None:
    log = log_with(Token(text="hi"), DONE, conversation_id="c-1")
    assert [chunk.get("conversation_id") for chunk in read_chat(encode(log)).chunks] == ["c-1", None, None]
    assert json.loads(whole(log))["conversation_id"] == "c-1"
    assert "conversation_id" not in completion(fold(log_with(DONE)))


def test_a_tool_call_is_named_once_and_cut_as_the_upstream_cuts_it() -> None:
    chat = chat_of(
        ToolCall(index=0, id="call_1", name="weather", arguments=""),
        ToolCall(index=0, arguments='{"city":'),
        ToolCall(index=1, id="call_2", name="time", arguments="{}"),
        ToolCall(index=0, arguments='"北京"}'),
        End(reason="done", finish_reason="tool_calls"),
    )
    assert [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chat.chunks[1:-1]] == [
        [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"city":'}}],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}}],
        [{"index": 0, "function": {"arguments": '"北京"}'}}],
    ]


def test_the_object_of_a_tool_call() -> None:
    log = log_with(
        Reasoning(text="hm"),
        ToolCall(index=0, id="call_1", name="weather", arguments='{"a":'),
        ToolCall(index=0, arguments="1}"),
        End(reason="done", finish_reason="tool_calls"),
    )
    assert completion(fold(log)) == {
        "id": RUN,
        "object": "chat.completion",
        "created": 1_771_000_000,
        "model": "m-1",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": None,
    }


@pytest.mark.parametrize(
    ("end", "calls", "finish_reason"),
    [
        (End(reason="done", finish_reason="stop"), False, "stop"),
        (End(reason="done", finish_reason="length"), False, "length"),
        (End(reason="done", finish_reason="content_filter"), False, "content_filter"),
        (End(reason="done", finish_reason="stop"), True, "stop"),  # the upstream's own word stands
        (End(reason="done", finish_reason="eos"), False, "stop"),
        (End(reason="done", finish_reason="eos"), True, "tool_calls"),
        (End(reason="done", finish_reason="succeeded"), False, "stop"),  # Dify
        (End(reason="done"), False, "stop"),
        (End(reason="stopped"), False, "length"),  # not whole, and OpenAI has no other word for it
        (End(reason="stopped", finish_reason="stop"), False, "length"),
        (End(reason="paused", finish_reason="stop"), True, "length"),
    ],
)
def test_the_finish_reason_is_one_that_clients_know_and_never_calls_a_part_the_whole(
    end: End, calls: bool, finish_reason: str
) -> None:
    events = [Token(text="hi"), *([ToolCall(index=0, id="c", name="f")] if calls else []), end]
    chat, one = chat_of(*events), completion(fold(log_with(*events)))
    assert chat.done
    assert chat.finish_reason == one["choices"][0]["finish_reason"] == finish_reason
    end_reason = None if end.reason == "done" else end.reason
    assert chat.chunks[-1].get("end_reason") == one.get("end_reason") == end_reason


# -- what must not look like a success ---------------------------------------------------------------------------------

BAD_ENDS = {
    "upstream_failed": (failed("upstream_failed"), 502),
    "upstream_busy": (failed("upstream_busy"), 503),
    "internal": (failed("internal"), 500),
    "abandoned": (End(reason="abandoned", usage=ESTIMATE), 503),
    "interrupted": (End(reason="interrupted"), 503),
}


@pytest.mark.parametrize("code", BAD_ENDS)
def test_a_run_that_failed_ends_with_an_error_chunk_and_nothing_else(code: str) -> None:
    end, _ = BAD_ENDS[code]
    chat = chat_of(Token(text="half"), end, include_usage=True)
    assert (chat.text, chat.finish_reason, chat.usage, chat.done) == ("half", None, None, False)
    assert chat.error["code"] == code
    assert (chat.error["type"], chat.error["param"]) == ("server_error", None)
    assert len(chat.error["message"]) > 20


@pytest.mark.parametrize("code", BAD_ENDS)
def test_a_late_failure_of_the_object_is_no_json_but_can_be_read(code: str) -> None:
    end, status = BAD_ENDS[code]
    body = whole(log_with(Token(text="half"), end))
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    line, rest = body.strip().split(b"\n", 1)
    assert line == b"HTTP %d" % status
    assert json.loads(rest)["error"]["code"] == code


@pytest.mark.parametrize("end", [DONE, failed("upstream_failed")])
def test_text_that_was_shown_cannot_be_taken_back(end: End) -> None:
    chat = chat_of(Token(text="bad"), Replace(text="good"), Token(text="!"), Replace(text="better"), end)
    assert (chat.text, chat.error["code"], chat.done) == ("bad", "answer_replaced", False)
    if end is DONE:
        one = completion(fold(log_with(Token(text="bad"), Replace(text="good"), Token(text="!"), end)))
        assert one["choices"][0]["message"]["content"] == "good!"


def test_what_nobody_saw_can_be_replaced() -> None:
    chat = chat_of(Reasoning(text="hm"), Replace(text="good"), Token(text="!"), DONE)
    assert (chat.text, chat.done) == ("good!", True)


# -- any run -----------------------------------------------------------------------------------------------------------


def test_what_has_no_place_leaves_no_bytes() -> None:
    format_ = Chunks(include_usage=False)
    log = log_with(
        Step(id="n", kind="node", name="LLM", status="started"), File(id="f", kind="image", url="https://x.example/a")
    )
    assert [format_.encode(entry) for entry in log][2:] == [b"", b""]


def test_before_an_upstream_accepts_there_is_only_a_comment() -> None:
    first = encode(log_with()[:1])
    assert first.startswith(b": ")
    assert f"/runs/{RUN}/events".encode() in first
    assert read_chat(first) == Chat()


def test_silence_is_filled_with_what_clients_pass_over() -> None:
    assert read_chat(Chunks(include_usage=True).ping() * 3) == Chat()
    completed = Completion()
    pieces = [completed.opening(), completed.ping(), *map(completed.encode, log_with(DONE)), b"\n"]
    assert json.loads(b"".join(pieces))["id"] == RUN


@given(st.text(st.sampled_from('\r\n\u2028\u0085\0😀\ufeff"\\') | st.characters(codec="utf-8")))
def test_any_text_survives(text: str) -> None:
    log = log_with(Token(text=text), Reasoning(text=text), ToolCall(index=0, id="i", name="f", arguments=text), DONE)
    chat, one = read_chat(encode(log)), json.loads(whole(log))
    message: dict[str, Any] = one["choices"][0]["message"]
    assert chat.text == (message["content"] or "") == text
    assert chat.reasoning == message.get("reasoning_content", "") == text
    assert chat.tool_calls[0]["arguments"] == message["tool_calls"][0]["function"]["arguments"] == text


def test_the_hard_characters_are_one_line_each() -> None:
    for event in encode(log_with(Token(text=HARD), DONE)).split(b"\n\n"):
        assert b"\n" not in event
        assert b"\r" not in event
