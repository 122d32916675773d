"""The AI SDK's UI message stream: whatever a log holds, its chunks fit together, and a resume is the rest of them."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given

from streaming.wire.answer import fold
from streaming.wire.errors import Failure
from streaming.wire.events import LOST_END_SKIP, End, Entry, Event, File, Reasoning, Replace, Step, Token, ToolCall
from streaming.wire.formats.ai_sdk import DONE, AiSdk, count_chunks
from streaming.wire.sse import Comment, Decoder
from tests.wire.ai_sdk_page import Page, chunks_of, read
from tests.wire.dialect_fixtures import load, names
from tests.wire.logs import log_of
from tests.wire.random_logs import END, RUN_ID, START, UPSTREAM, entries, random_logs


def encoded(log: list[Entry], **settings: Any) -> bytes:
    encoder = AiSdk(**settings)
    return b"".join(encoder.encode(entry) for entry in log)


def page_of(*events: Event, end: Event = END) -> Page:
    return read(encoded(entries([START, UPSTREAM, *events, end])))


def ended(**fields: Any) -> End:
    return msgspec.structs.replace(END, **fields)


def types(*events: Event, end: Event = END) -> list[str]:
    chunks = chunks_of(encoded(entries([START, UPSTREAM, *events, end])))
    return [chunk["type"] for chunk in chunks]


# -- what holds for every log ------------------------------------------------------------------------------------------


def assert_faithful(log: list[Entry]) -> None:
    """Assert that the page which reads the stream has what the log amounts to."""
    page, answer = read(encoded(log)), fold(log)
    assert answer.end is not None
    assert (page.text, page.reasoning) == (answer.text, answer.reasoning)
    assert page.metadata["reason"] == answer.end.reason
    assert page.aborted == (answer.end.reason == "stopped")
    assert (page.error is not None) == (answer.end.reason in {"error", "abandoned", "interrupted"})
    assert [(file["url"]) for file in page.of("file")] == [file.url for file in answer.files]
    assert {step["id"]: step["data"]["name"] for step in page.of("data-step")} == {
        step.id: step.name for step in answer.steps
    }
    calls = sorted(page.of("tool"), key=lambda call: call["arguments"])
    told = sorted(answer.tool_calls, key=lambda call: call["arguments"])
    if answer.end.reason == "done":
        assert [call["arguments"] for call in calls] == [call["arguments"] for call in told]
    assert all(("input" in call) == (answer.end.reason == "done") for call in calls)


def assert_resumable(log: list[Entry]) -> None:
    encoder = AiSdk()
    chunks = [chunk for entry in log for chunk in encoder.chunks(entry)]
    assert count_chunks(log) == len(chunks)
    for start in range(len(chunks) + 1):
        assert encoded(log, skip=start) == b"".join(chunks[start:]) + DONE


@given(random_logs())
def test_every_log_makes_a_message(log: list[Entry]) -> None:
    assert_faithful(log)


@given(random_logs())
def test_a_resume_is_the_rest_wherever_it_begins(log: list[Entry]) -> None:
    assert_resumable(log)


@pytest.mark.parametrize("name", names())
def test_every_recorded_answer_makes_a_message(name: str) -> None:
    assert_faithful(log_of(load(name)))
    assert_resumable(log_of(load(name)))


def test_what_fills_silence_counts_for_no_index() -> None:
    encoder = AiSdk()
    assert [type(item) for item in Decoder().feed(encoder.opening() + encoder.ping())] == [Comment, Comment]


# -- what each event becomes -------------------------------------------------------------------------------------------


def test_the_message_is_named_after_the_run_and_holds_its_start() -> None:
    page = page_of()
    assert page.message_id == RUN_ID
    assert page.metadata["run_id"] == RUN_ID
    assert (page.metadata["conversation_id"], page.metadata["created"]) == ("c-1", 1_771_000_000)


def test_an_answer_that_goes_on_with_a_message_bears_its_name() -> None:
    page = read(encoded(entries([START, END]), message_id="msg-7"))
    assert (page.message_id, page.metadata["run_id"]) == ("msg-7", RUN_ID)


def test_text_and_thinking_are_blocks_of_their_own() -> None:
    events = [Reasoning(text="a"), Reasoning(text="b"), Token(text="c"), Reasoning(text="d"), Token(text="e")]
    assert [(part["type"], part["text"]) for part in page_of(*events).parts] == [
        ("reasoning", "ab"),
        ("text", "c"),
        ("reasoning", "d"),
        ("text", "e"),
    ]


def test_progress_and_files_do_not_cut_the_text() -> None:
    step = Step(id="n", kind="node", name="LLM", status="started")
    file = File(id="f", kind="image", url="https://x.example/a")
    page = page_of(Token(text="a"), step, Token(text="b"), file, Token(text="c"))
    assert [part["text"] for part in page.of("text")] == ["abc"]


def test_a_replaced_answer_is_a_new_block_behind_the_part_that_says_so() -> None:
    events = (Token(text="bad"), Replace(text="[removed]"), Token(text="!"))
    assert types(*events)[2:-2] == [
        *("text-start", "text-delta", "text-end"),
        "data-replace",
        *("text-start", "text-delta", "text-delta", "text-end"),
    ]
    page = page_of(*events)
    assert page.text == "[removed]!"
    assert page.of("data-replace")[0]["data"] == {"text": "[removed]"}
    assert len(page_of(*events, *events).of("data-replace")) == 2  # each has an id of its own


def test_the_last_status_of_a_step_counts() -> None:
    steps = [Step(id="n", kind="node", name="LLM", status=status) for status in ("started", "finished")]
    assert page_of(*steps).of("data-step") == [
        {"type": "data-step", "id": "n", "data": {"kind": "node", "name": "LLM", "status": "finished"}}
    ]


@pytest.mark.parametrize(
    ("kind", "url", "media_type"),
    [
        ("image", "https://x.example/a", "image/*"),
        ("document", "https://x.example/a.pdf", "application/octet-stream"),
        ("image", "data:image/png;base64,AA==", "image/png"),
        ("image", "data:,a", "text/plain"),
    ],
)
def test_a_file_has_a_media_type(kind: str, url: str, media_type: str) -> None:
    [file] = page_of(File(id="f", kind=kind, url=url)).of("file")
    assert (file["url"], file["mediaType"]) == (url, media_type)


def test_difys_sources_are_documents_and_addresses() -> None:
    sources = [{"document_name": "a.pdf", "content": "x"}, {"document_name": "https://x.example/p"}, {"score": 1}]
    page = page_of(end=ended(metadata={"sources": sources}))
    assert page.of("source-document") == [
        {"type": "source-document", "sourceId": "source-1", "mediaType": "text/plain", "title": "a.pdf"}
    ]
    assert page.of("source-url") == [{"type": "source-url", "sourceId": "source-2", "url": "https://x.example/p"}]
    assert page.metadata["metadata"]["sources"] == sources  # with all that is known of them


# -- tool calls --------------------------------------------------------------------------------------------------------


def call_of(*pieces: str, reason: str = "done") -> dict[str, Any]:
    events = [ToolCall(index=0, id="call_1", name="f", arguments=pieces[0])]
    events += [ToolCall(index=0, arguments=piece) for piece in pieces[1:]]
    end = ended(reason=reason, finish_reason="tool_calls" if reason == "done" else None)
    [call] = page_of(*events, end=end).of("tool")
    return call


def test_a_tool_call_streams_and_is_there_at_the_end() -> None:
    call = call_of("", '{"city":', '"北京"}')
    assert (call["id"], call["name"], call["arguments"]) == ("call_1", "f", '{"city":"北京"}')
    assert (call["input"], call["failed"]) == ({"city": "北京"}, False)


@pytest.mark.parametrize("arguments", ["", " \n"])
def test_no_arguments_are_empty_ones(arguments: str) -> None:
    assert call_of(arguments)["input"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a":',
        "not JSON",
        '{"a":NaN}',
        '{"a":"\\ud83d"}',
        "[" * 300 + "]" * 300,  # whether it can be read would depend on the reader's stack
        '{"__proto__":{"a":1}}',  # at these two the package's parser throws the chunk away
        '{"a":[{"constructor": {"prototype":1}}]}',
    ],
)
def test_arguments_that_no_client_could_read_are_told_as_they_came(arguments: str) -> None:
    call = call_of(arguments)
    assert (call["input"], call["failed"]) == (arguments, True)


def test_a_value_that_only_looks_forbidden_is_none() -> None:
    value = {"a": '{"__proto__":1}', "constructor": "Ferrari", "b": "[" * 300}
    assert call_of(json.dumps(value))["input"] == value


@pytest.mark.parametrize("reason", ["stopped", "paused", "error", "abandoned", "interrupted"])
def test_a_call_is_for_nobody_to_run_unless_the_answer_is_done(reason: str) -> None:
    assert "input" not in call_of('{"a":1}', reason=reason)


def test_calls_are_kept_apart_whatever_the_upstream_calls_them() -> None:
    events = [
        ToolCall(index=0, id="same", name="f", arguments="1"),
        ToolCall(index=1, id="same", name="f", arguments="2"),
        ToolCall(index=2, name="f", arguments="3"),
        ToolCall(index=0, arguments="4"),
    ]
    calls = page_of(*events).of("tool")
    assert [(call["id"], call["input"]) for call in calls] == [("same", 14), (f"{RUN_ID}-1", 2), (f"{RUN_ID}-2", 3)]


def test_text_before_and_behind_a_call_is_two_blocks() -> None:
    page = page_of(Token(text="a"), ToolCall(index=0, id="c", name="f", arguments="1"), Token(text="b"))
    assert [part["type"] for part in page.parts] == ["text", "tool", "text"]


def test_a_call_waits_for_its_name() -> None:
    events = [ToolCall(index=0, arguments='{"a"'), ToolCall(index=0, id="c", name="f", arguments=":1}")]
    assert types(*events)[2:4] == ["tool-input-start", "tool-input-delta"]
    assert page_of(*events).of("tool")[0]["input"] == {"a": 1}
    [nameless] = page_of(events[0]).of("tool")
    assert (nameless["name"], nameless["input"], nameless["failed"]) == ("unknown", '{"a"', True)


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "finish_reason"),
    [
        ("stop", "stop"),
        (None, "stop"),
        ("succeeded", "stop"),
        ("length", "length"),
        ("content_filter", "content-filter"),
        ("tool_calls", "tool-calls"),
        ("function_call", "tool-calls"),
        ("eos", "other"),
    ],
)
def test_a_good_end_says_why_the_model_finished(word: str | None, finish_reason: str) -> None:
    assert page_of(end=ended(finish_reason=word)).finish_reason == finish_reason


def test_the_end_is_the_messages_metadata() -> None:
    told = page_of(Token(text="a")).metadata
    assert told["digest"] == {"bytes": 5, "crc32": "0a1b2c3d"}
    assert told["usage"]["total_tokens"] == 3
    assert told["upstream"] == {"name": "main", "model": "m", "tries": 1}
    assert "error" not in told  # absent, not null


def test_a_failure_is_told_before_the_error_and_still_finishes() -> None:
    """`useChat` reads no further than an error; WorkflowChatTransport asks again and again until it has a finish."""
    end = End(reason="error", error=Failure("upstream_busy", retry_after=7).as_end_error())
    assert types(Token(text="a"), end=end)[-5:] == ["text-end", "finish-step", "message-metadata", "error", "finish"]
    page = page_of(end=end)
    assert (page.error, page.finish_reason) == ("The upstream is busy; try again shortly.", "error")
    assert page.metadata["error"]["retry_after"] == 7


@pytest.mark.parametrize("reason", ["abandoned", "interrupted"])
def test_an_answer_that_was_given_up_is_an_error_too(reason: str) -> None:
    page = page_of(end=ended(reason=reason, finish_reason=None))
    assert page.finish_reason == "error"
    assert page.error


LOST = [*entries([START]), Entry(LOST_END_SKIP + 1, "end", b'{"reason":"interrupted"}')]


def test_a_lost_log_ends_too() -> None:
    page = read(encoded(LOST))
    assert (page.finish_reason, page.metadata["reason"]) == ("error", "interrupted")


def test_the_end_of_a_lost_log_is_told_to_who_has_more_of_it_than_was_kept() -> None:
    """WorkflowChatTransport would ask for it for ever."""
    types = [chunk["type"] for chunk in chunks_of(encoded(LOST, skip=50))]
    assert types == ["finish-step", "message-metadata", "error", "finish"]


def test_a_stopped_answer_is_aborted_and_a_paused_one_is_neither() -> None:
    assert types(end=ended(reason="stopped"))[-3:] == ["finish-step", "abort", "finish"]
    assert page_of(end=ended(reason="stopped")).finish_reason == "other"
    paused = page_of(end=ended(reason="paused", finish_reason=None, metadata={"form": {"form_id": "x"}}))
    assert (paused.finish_reason, paused.error, paused.aborted) == ("other", None, False)
    assert paused.metadata["metadata"] == {"form": {"form_id": "x"}}


def test_what_an_upstream_added_cannot_break_the_finish() -> None:
    page = page_of(end=ended(metadata={"outputs": [{"__proto__": 1}]}))
    assert page.finish_reason == "stop"
    assert page.metadata["metadata"] == {"omitted": "names that clients refuse"}
    assert page.metadata["usage"] == {**msgspec.to_builtins(END.usage), "details": None}
