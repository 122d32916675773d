"""What upstream answers mean: every known answer, cut in every way, and answers that nobody has seen yet."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streaming.wire import jsontext
from streaming.wire.dialects import Reader
from streaming.wire.errors import Failure
from streaming.wire.sse import Comment, Decoder, ServerSentEvent
from tests.wire.dialect_fixtures import EventPair, Fixture, event_pair, load, names, verdict_fields

NAMES = names()


def whole(raw: bytes) -> Iterator[bytes]:
    yield raw


def byte_by_byte(raw: bytes) -> Iterator[bytes]:
    for position in range(len(raw)):
        yield raw[position : position + 1]


def random_pieces(raw: bytes) -> Iterator[bytes]:
    rng = random.Random(len(raw))
    while raw:
        size = rng.choice((1, 2, 3, 7, 64, 300, 1500))
        yield raw[:size]
        raw = raw[size:]


def sse_events(pieces: Iterator[bytes]) -> list[ServerSentEvent]:
    decoder = Decoder()
    return [item for piece in pieces for item in decoder.feed(piece) if not isinstance(item, Comment)]


def read(fixture: Fixture, pieces: Iterator[bytes]) -> tuple[list[EventPair], bool, dict[str, Any], Reader, int]:
    """Read as the relay does: up to the last word. Also returns how many SSE events that took."""
    reader = fixture.dialect().reader(fixture.context())
    shown: list[EventPair] = []
    count = 0
    try:
        for event in sse_events(pieces):
            count += 1
            shown += [event_pair(ours) for ours in reader.feed(event)]
            if reader.complete:
                break
    except Failure as failure:
        verdict = {"reason": "error", "finish_reason": None, "failure": failure.code, "usage": None, "metadata": {}}
        return shown, False, verdict, reader, count
    return shown, reader.complete, verdict_fields(reader.eof()), reader, count


@pytest.mark.parametrize("cut", [whole, byte_by_byte, random_pieces])
@pytest.mark.parametrize("name", NAMES)
def test_a_known_answer_means_the_same_however_it_is_cut(name: str, cut: Callable[[bytes], Iterator[bytes]]) -> None:
    fixture = load(name)
    shown, complete, verdict, _, _ = read(fixture, cut(fixture.raw))
    assert shown == fixture.events
    assert verdict == fixture.verdict
    assert complete is fixture.complete


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_trails_the_last_word_is_shown_or_changes_how_it_ended(name: str) -> None:
    fixture = load(name)
    _, complete, verdict, reader, count = read(fixture, whole(fixture.raw))
    if complete:
        for event in sse_events(whole(fixture.raw))[count:]:
            assert reader.feed(event) == []
        assert verdict_fields(reader.eof())["reason"] == verdict["reason"]


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_cut_before_its_first_terminal_sign_is_truncated_and_never_a_success(name: str) -> None:
    """Each fixture is cut after each of its events: what came before the cut is shown, and the verdict is honest."""
    fixture = load(name)
    events = sse_events(whole(fixture.raw))
    for length in range(len(events)):
        reader = fixture.dialect().reader(fixture.context())
        shown: list[EventPair] = []
        for event in events[:length]:
            shown += [event_pair(ours) for ours in reader.feed(event)]
        assert shown == fixture.events[: len(shown)]
        assert (verdict_fields(reader.eof())["failure"] == "upstream_truncated") == (not reader.ending)


@pytest.mark.parametrize("name", ["d1-dify-chatflow", "d4-dify-workflow", "dify-1.15-chatflow-blocked-input"])
def test_progress_never_takes_back_a_terminal_sign(name: str) -> None:
    fixture = load(name)
    reader = fixture.dialect().reader(fixture.context())
    seen = False
    for event in sse_events(whole(fixture.raw)):
        reader.feed(event)
        assert reader.ending >= seen
        seen = reader.ending
    assert seen


# What a field can turn into in a version that nobody has read: the JSON types, empty and full, and hostile texts.
ODD_VALUES: list[Any] = [
    None,
    True,
    -1,
    10**30,
    0.5,
    "",
    "x",
    "\ud83d",
    "http://[",
    [],
    [None],
    ["x"],
    [[]],
    {},
    {"a": {}},
]
RICH = [
    "d1-dify-chatflow",
    "d3-dify-agent",
    "dify-chat-sources-and-files",
    "dify-1.15-chatflow-paused",
    "dify-chat-replace-again-after-text",
    "dify-new-agent-closing-message-differs",
    "dify-workflow-progress",
    "dify-workflow-outputs-only",
    "dify-workflow-reasoning",
    "dify-1.15-chat-provider-quota",
    "o1-openai-usage",
    "o2-openai-error",
    "o3-openai-tool-call",
    "ds1-deepseek-reasoning",
    "openai-error-quota",
]


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*path, key))


def changed(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return value


def assert_can_be_relayed(events: list[Any]) -> None:
    """The log keeps JSON in UTF-8, and the digest is over UTF-8: a lone surrogate must not come that far."""
    for event in events:
        jsontext.dumps(event)
        for field in ("text", "arguments"):
            getattr(event, field, "").encode()


@pytest.mark.parametrize("name", RICH)
def test_any_field_of_any_other_type_is_skipped_or_invalid_but_never_breaks_the_reader(name: str) -> None:
    fixture = load(name)
    events = sse_events(whole(fixture.raw))
    for number, event in enumerate(events):
        if event.data == "[DONE]":
            continue
        original = json.loads(event.data)
        for path in paths(original):
            for odd in ODD_VALUES:
                odd_event = ServerSentEvent(json.dumps(changed(original, path, odd)))
                reader = fixture.dialect().reader(fixture.context())
                code = None
                try:
                    for fed in (*events[:number], odd_event, *events[number + 1 :]):
                        assert_can_be_relayed(reader.feed(fed))
                except Failure as failure:
                    code = failure.code
                assert code in {None, "upstream_invalid"}, (path, odd)
                verdict = reader.eof()
                assert (verdict.failure is not None) == (verdict.reason == "error"), (path, odd)
                jsontext.dumps([verdict.usage, verdict.metadata])


@pytest.mark.parametrize("name", ["d2-dify-chat-legacy", "o1-openai-usage"])
@pytest.mark.parametrize(
    "data",
    ["null", "[]", "1", '"text"', "{", "<html></html>", "[" * 100_000, '{"a":' * 100_000, '{"event":"message",}'],
    ids=lambda data: data[:12],
)
def test_data_that_is_no_json_object_is_invalid(name: str, data: str) -> None:
    fixture = load(name)
    with pytest.raises(Failure) as caught:
        fixture.dialect().reader(fixture.context()).feed(ServerSentEvent(data))
    assert caught.value.code == "upstream_invalid"


@pytest.mark.parametrize(
    ("base", "told", "shown"),
    [
        ("https://dify.example/v1", "/files/a.png?sign=1", "https://dify.example/files/a.png?sign=1"),
        ("https://dify.example/v1", "https://cdn.example/a.png", "https://cdn.example/a.png"),
        ("http://10.0.0.1:5001", "//cdn.example/a.png", "http://cdn.example/a.png"),
    ],
)
def test_a_relative_file_url_is_resolved_against_the_upstream(base: str, told: str, shown: str) -> None:
    fixture = load("dify-chat-sources-and-files")
    reader = fixture.dialect(base).reader(fixture.context())
    event = {"event": "message_file", "id": "f-1", "type": "image", "url": told}
    [file] = reader.feed(ServerSentEvent(json.dumps(event)))
    assert event_pair(file) == ("file", {"id": "f-1", "kind": "image", "url": shown})


def test_the_upstreams_conversation_is_remembered_for_the_next_turn() -> None:
    fixture = load("dify-1.15-chatflow-new-conversation")
    _, _, _, reader, _ = read(fixture, whole(fixture.raw))
    assert fixture.asked_conversation_id != reader.conversation_id
    assert reader.conversation_id == json.loads(sse_events(whole(fixture.raw))[0].data)["conversation_id"]


@pytest.mark.parametrize(
    ("name", "stop_path"),
    [
        ("d2-dify-chat-legacy", "/v1/chat-messages/{task}/stop"),
        ("dify-completion", "/v1/completion-messages/{task}/stop"),
        ("d4-dify-workflow", "/v1/workflows/tasks/{task}/stop"),
    ],
)
def test_dify_is_stopped_by_a_call_for_the_task_with_the_user_that_asked(name: str, stop_path: str) -> None:
    fixture = load(name)
    reader = fixture.dialect().reader(fixture.context())
    assert reader.stop_request() is None  # the task is not known before the first event
    first = sse_events(whole(fixture.raw))[0]
    reader.feed(first)
    request = reader.stop_request()
    assert request is not None
    assert request.url == "https://upstream.example" + stop_path.replace("{task}", json.loads(first.data)["task_id"])
    assert json.loads(request.body) == {"user": "abc-123"}
    assert request.headers["Authorization"] == "Bearer app-key"
    assert request.headers["Content-Type"] == "application/json"


BAD_IDS = ["../../v1/admin", "a/b", "a?b=1", "a#b", "a%2fb", "a b", "a\n", "", "x" * 129, "{task}", "é"]


@pytest.mark.parametrize("task", BAD_IDS)
def test_a_task_id_that_could_change_the_stop_url_is_refused(task: str) -> None:
    fixture = load("d2-dify-chat-legacy")
    reader = fixture.dialect().reader(fixture.context())
    reader.feed(ServerSentEvent(json.dumps({"event": "message", "task_id": task, "answer": "x"})))
    assert reader.stop_request() is None


@pytest.mark.parametrize("message", [*BAD_IDS, 5, None])
def test_a_message_id_that_could_change_a_url_is_not_told(message: object) -> None:
    fixture = load("d2-dify-chat-legacy")
    reader = fixture.dialect().reader(fixture.context())
    reader.feed(ServerSentEvent(json.dumps({"event": "message_end", "message_id": message})))
    assert reader.eof().metadata == {}


def test_openai_has_no_stop_call_because_closing_the_connection_stops_it() -> None:
    fixture = load("o1-openai-usage")
    dialect = fixture.dialect()
    assert not dialect.stops_by_request
    assert dialect.reader(fixture.context()).stop_request() is None
