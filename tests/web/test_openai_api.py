"""The OpenAI-compatible face of a live relay, before OpenAI-compatible, Dify and demo upstreams."""

import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from streaming.wire.answer import fold
from streaming.wire.formats.openai import Chunks
from tests.leaks import nothing_kept
from tests.live import Call, Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.openai_reader import read_chat
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import Response, read_head, request
from tests.web.conftest import quick
from tests.wire import dialect_fixtures
from tests.wire.dialect_fixtures import Fixture
from tests.wire.logs import log_of

STOP_SECONDS = 5.0  # a second is meant, a loaded machine takes longer; the grace would be 20
UPSTREAMS = """
[[upstream]]
name = "main"
dialect = "openai"
url = "{url}"
model = "org/m-1"
models = ["m-2"]

[[upstream]]
name = "open"
dialect = "openai"
url = "{url}"
model = "m-1"
models = ["*"]
"""
DIFY = """
[[upstream]]
name = "{mode}"
dialect = "dify"
dify_mode = "{mode}"
url = "{url}"
"""
ENDS_WELL = [
    fixture
    for fixture in map(dialect_fixtures.load, dialect_fixtures.names())
    if fixture.verdict["reason"] == "done" and fixture.asked_conversation_id is None
]
ANSWER = "你好 👋"
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


@pytest.fixture(scope="module")
def _upstream() -> Iterator[ScriptedUpstream]:
    with scripted(quick) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def _relay(_upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """Wait half a second for an upstream's acceptance, and fill silence five times a second."""
    file: Path = tmp_path_factory.mktemp("openai") / "upstreams.toml"
    apps = [DIFY.format(mode=mode, url=_upstream.url) for mode in ("chat", "completion", "workflow")]
    file.write_text(UPSTREAMS.format(url=_upstream.url) + "".join(apps))
    settings = {"HEARTBEAT_SECONDS": "0.2", "CHAT_WAIT_SECONDS": "0.5", "DISCONNECT_GRACE_SECONDS": "20"}
    with relay(UPSTREAMS_FILE=str(file), MAX_TRIES="1", **settings) as server:
        with nothing_kept(server, kept_to=[_upstream.port]):
            yield server


def ask(server: Relay, messages: list[dict[str, Any]] | None = None, headers: Any = None, **body: Any) -> Response:
    body = {"model": "main", "messages": messages or HI, **body}
    return request(f"{server.url}/v1/chat/completions", "POST", json_body=body, headers=headers)


def error_of(response: Response) -> dict[str, Any]:
    """Return the error object of a refused request, whose shape is checked."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]  # type: ignore[no-any-return]


def replay(fixture: Fixture) -> Any:
    def script(call: Call) -> None:
        call.start()
        call.chunk(fixture.raw)
        call.finish()

    return script


def leave(response: Response) -> None:
    """Go away, and wait until the relay has noticed: it closes its side."""
    response.connection.shutdown(socket.SHUT_WR)
    for _ in response.chunks():
        pass


def held(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("a"))
    call.await_close()


# -- models ------------------------------------------------------------------------------------------------------------


def test_the_models_are_the_upstreams_and_what_they_offer(server: Relay) -> None:
    models = requests.get(f"{server.url}/v1/models", timeout=20).json()
    assert models["object"] == "list"
    assert [(model["id"], model["owned_by"]) for model in models["data"]] == [
        ("main", "main"),
        ("org/m-1", "main"),
        ("m-2", "main"),
        ("open", "open"),
        ("m-1", "open"),
        ("chat", "chat"),
        ("completion", "completion"),
        ("workflow", "workflow"),
    ]
    for model in models["data"]:
        assert requests.get(f"{server.url}/v1/models/{model['id']}", timeout=20).json() == model
        assert (model["object"], type(model["created"])) == ("model", int)


@pytest.mark.parametrize(
    ("model", "asked", "told"),
    [
        ("main", "org/m-1", "org/m-1"),  # an upstream's name
        ("org/m-1", "org/m-1", "org/m-1"),  # an upstream's model
        ("m-2", "m-2", "m-2"),  # one that callers may choose
        ("m-1", "m-1", "m-1"),
        ("gpt-of-the-future", "gpt-of-the-future", "gpt-of-the-future"),  # where they may choose any
        (None, "org/m-1", "org/m-1"),
    ],
)
def test_the_model_says_who_answers(
    model: str | None, asked: str, told: str, server: Relay, upstream: ScriptedUpstream
) -> None:
    with ask(server, model=model) as response:
        assert response.json()["model"] == told
    assert json.loads(upstream.next_call().body)["model"] == asked


def test_nobody_may_choose_a_model_that_the_operator_did_not_offer(upstream: ScriptedUpstream) -> None:
    """Each costs what it costs."""
    with relay(UPSTREAM="openai", UPSTREAM_URL=upstream.url, UPSTREAM_MODEL="m-1", UPSTREAM_MODELS="m-2") as server:
        with ask(server, model="m-3") as response:
            assert response.status == 404
            assert error_of(response)["code"] == "model_not_found"
        assert upstream.calls == []
        assert requests.get(f"{server.url}/v1/models/m-3", timeout=20).status_code == 404


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_stream_begins_as_a_stream_and_carries_the_run(server: Relay) -> None:
    with ask(server, stream=True) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["connection"] == "close"
        assert response.headers["x-accel-buffering"] == "no"
        chat = read_chat(response.body())
        assert (chat.text, chat.finish_reason, chat.done) == (ANSWER, "stop", True)
        assert {chunk["id"] for chunk in chat.chunks} == {response.headers["x-run-id"]}
        assert response.complete


def test_each_token_leaves_when_it_comes(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with ask(server, stream=True) as response:
        seen = b""
        for chunk in response.chunks():  # the upstream has said no more than one token
            seen += chunk
            if read_chat(seen).text == "a":
                break
        while next(response.chunks()) != b": ping\n\n":
            pass


def test_a_broken_stream_goes_on_at_the_runs_own_address(server: Relay, upstream: ScriptedUpstream) -> None:
    """With a key the run lives on; `id` and X-Run-Id both say where."""
    ended: list[Call] = []

    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("one "))
        ended.append(call)

    upstream.script = script
    with ask(server, stream=True, headers={"Idempotency-Key": "goes on"}) as response:
        seen = b""
        while read_chat(seen).text != "one ":
            seen += next(response.chunks())
        run_id = read_chat(seen).chunks[0]["id"]
        leave(response)
    ended[0].chunk(token_chunk("two") + FINISH + DONE)
    ended[0].finish()
    events = requests.get(f"{server.url}/runs/{run_id}/events?after=3&format=ndjson", timeout=20)
    lines = [json.loads(line) for line in events.text.splitlines()]
    assert [line["text"] for line in lines if line["type"] == "token"] == ["two"]
    assert lines[-1]["reason"] == "done"
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("fixture", ENDS_WELL, ids=lambda fixture: fixture.name)
def test_recorded_answers_arrive_as_the_upstream_meant_them(
    fixture: Fixture, server: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.script = replay(fixture)
    model = fixture.mode if fixture.kind == "dify" else "main"
    answer, format_ = fold(log_of(fixture)), Chunks(include_usage=True)
    expected = read_chat(b"".join(map(format_.encode, log_of(fixture))))
    with ask(server, model=model) as response:
        whole = response.json()
    choice = whole["choices"][0]
    assert (choice["message"]["content"] or "") == answer.text
    assert choice["message"].get("reasoning_content", "") == answer.reasoning
    if fixture.verdict["usage"]:
        assert whole["usage"] == expected.usage or expected.error
    else:
        assert whole["usage"]["exact"] is False
    with ask(server, model=model, stream=True, stream_options={"include_usage": True}) as response:
        chat = read_chat(response.body())
    assert (chat.text, chat.reasoning, chat.tool_calls) == (expected.text, expected.reasoning, expected.tool_calls)
    assert (chat.finish_reason, chat.done, chat.error) == (expected.finish_reason, expected.done, expected.error)
    assert chat.usage == (whole["usage"] if chat.done else None)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "body", "headers", "told", "code"),
    [
        (401, b"{}", "", 502, "upstream_auth"),
        (429, b"{}", "\r\nRetry-After: 7", 503, "upstream_busy"),
        (400, b'{"error":{"code":"context_length_exceeded"}}', "", 400, "upstream_rejected"),
        (200, b"{}", "", 502, "upstream_invalid"),
    ],
)
def test_a_failure_before_the_answer_has_a_status_and_is_not_tried_again(
    status: int,
    body: bytes,
    headers: str,
    told: int,
    code: str,
    stream: bool,
    server: Relay,
    upstream: ScriptedUpstream,
) -> None:
    upstream.script = lambda call: call.answer(status, body, f"Content-Type: application/json{headers}")
    with ask(server, model="open", stream=stream) as response:
        assert response.status == told
        error = error_of(response)
        assert (error["code"], error["type"]) == (code, "invalid_request_error" if told == 400 else "server_error")
        assert response.headers["x-should-retry"] == "false"
        assert response.headers.get("retry-after") == ("7" if headers else None)
        run_id = response.headers["x-run-id"]
    assert requests.get(f"{server.url}/runs/{run_id}", timeout=20).json()["end"]["error"]["code"] == code
    assert len(upstream.calls) == 1
    upstream.script = quick
    with ask(server, model="open") as response:  # many failures in a row would keep the relay from calling at all
        assert response.status == 200


def test_a_failure_in_the_middle_never_ends_as_a_success(server: Relay, upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("half"))
        seen.wait(20)
        call.finish()

    seen = threading.Event()
    upstream.script = script
    with ask(server, stream=True, stream_options={"include_usage": True}) as response:
        chunks, data = response.chunks(), b""
        while read_chat(data).text != "half":
            data += next(chunks)
        seen.set()
        chat = read_chat(data + b"".join(chunks))
        assert chat.error["code"] == "upstream_truncated"
        assert (chat.finish_reason, chat.usage, chat.done) == (None, None, False)
        assert response.complete  # a proxy that sees a break may drop the error that came before it
    with ask(server) as response:  # it has failed before anything was sent
        assert response.status == 502
        assert error_of(response)["code"] == "upstream_truncated"


def test_a_run_that_someone_stops_is_not_called_whole(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with ask(server, stream=True) as response:
        chunks, seen = response.chunks(), b""
        while read_chat(seen).text != "a":
            seen += next(chunks)
        requests.post(f"{server.url}/runs/{response.headers['x-run-id']}/stop", timeout=20)
        chat = read_chat(seen + b"".join(chunks))
    assert (chat.text, chat.finish_reason, chat.done) == ("a", "length", True)
    assert chat.chunks[-1]["end_reason"] == "stopped"


# -- slow upstreams ----------------------------------------------------------------------------------------------------


def test_a_stream_begins_without_its_upstream_where_that_takes_too_long(
    server: Relay, upstream: ScriptedUpstream
) -> None:
    """Half a second here, 20 s by default: routers cut at 30."""

    def script(call: Call) -> None:
        pinged.get(timeout=20)
        quick(call)

    pinged: queue.Queue[None] = queue.Queue()
    upstream.script = script
    with ask(server, stream=True) as response:
        chunks = response.chunks()
        first = next(chunks)
        assert first.startswith(b": ")
        assert next(chunks) == b": ping\n\n"
        pinged.put(None)
        chat = read_chat(first + b"".join(chunks))
    assert (chat.text, chat.done) == (ANSWER, True)


def test_an_answer_that_takes_long_is_preceded_by_blank_lines(server: Relay, upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        call.start()
        while not blank.wait(0.05):  # there is no silence at the upstream: tokens alone must not keep the blanks away
            call.chunk(token_chunk("."))
        call.chunk(FINISH + DONE)
        call.finish()

    blank = threading.Event()
    upstream.script = script
    with ask(server, headers={"X-Request-Id": "r-1"}) as response:
        assert (response.status, response.headers["content-type"]) == (200, "application/json")
        assert response.headers["x-request-id"] == "r-1"
        chunks = response.chunks()
        assert [next(chunks), next(chunks), next(chunks)] == [b"\n"] * 3
        blank.set()
        whole = json.loads(b"".join(chunks))
    assert set(whole["choices"][0]["message"]["content"]) == {"."}
    assert whole["id"] == response.headers["x-run-id"]


def test_a_late_failure_is_no_json(server: Relay, upstream: ScriptedUpstream) -> None:
    """The 200 has left: only the body can still be no answer."""

    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("half"))
        blank.wait(20)
        call.finish()

    blank = threading.Event()
    upstream.script = script
    with ask(server) as response:
        assert response.status == 200
        chunks = response.chunks()
        assert next(chunks) == b"\n"
        blank.set()
        body = b"".join(chunks).strip()
        assert response.complete  # after a break official clients would ask, and pay, again
    status, error = body.split(b"\n")
    assert status == b"HTTP 502"
    assert json.loads(error)["error"]["code"] == "upstream_truncated"


# -- going away --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stage", ["before the headers", "in the answer"])
def test_closing_the_connection_stops_the_upstream(
    stage: str, stream: bool, server: Relay, upstream: ScriptedUpstream
) -> None:
    went: queue.Queue[bool] = queue.Queue()

    def script(call: Call) -> None:
        if stage == "in the answer":
            call.start()
            call.chunk(token_chunk("a"))
        reached.set()
        went.put(call.await_close(20))

    reached = threading.Event()
    upstream.script = script
    body = json.dumps({"model": "main", "messages": HI, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert reached.wait(20)
        if stage == "in the answer":
            response = read_head(connection)  # comes at once with `stream`, after half a second without
            assert next(response.chunks())
        left = time.monotonic()
    assert went.get(timeout=20)
    assert time.monotonic() - left < STOP_SECONDS
    wait_until(lambda: server.counts()["unfinished"] == 0, "the run has ended")


def test_who_sent_a_key_may_come_back(server: Relay, upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("a"))
        gone.wait(20)
        call.chunk(token_chunk("b") + FINISH + DONE)
        call.finish()

    gone = threading.Event()
    upstream.script = script
    key = {"Idempotency-Key": "come back"}
    with ask(server, stream=True, headers=key) as response:
        next(response.chunks())
        run_id = response.headers["x-run-id"]
        leave(response)
    gone.set()
    with ask(server, headers=key) as response:
        assert response.headers["x-run-id"] == run_id
        assert response.json()["choices"][0]["message"]["content"] == "ab"
    with ask(server, headers=key, temperature=1) as response:
        assert response.status == 422
        assert error_of(response)["code"] == "idempotency_mismatch"
    assert len(upstream.calls) == 1


# -- Dify --------------------------------------------------------------------------------------------------------------


def dify_answer(call: Call) -> None:
    if call.method == "GET":  # what a chat page would like to know besides
        call.answer(404, b"{}")
        return
    call.start()
    fields = {"task_id": "t-1", "message_id": "m-1", "conversation_id": "theirs"}
    for event in ({"event": "message", "answer": "hello"}, {"event": "message_end", "metadata": {}}):
        call.chunk(b"data: " + json.dumps({**event, **fields}).encode() + b"\n\n")
    call.finish()


def test_a_conversation_with_dify_goes_on_by_header_or_field(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = dify_answer
    with ask(server, model="chat") as response:
        ours = response.headers["x-conversation-id"]
        assert response.json()["conversation_id"] == ours
    history = [*HI, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "and now?"}]
    with ask(server, history, model="chat", headers={"X-Conversation-Id": ours}, stream=True) as response:
        assert response.headers["x-conversation-id"] == ours
        assert read_chat(response.body()).chunks[0]["conversation_id"] == ours
    with ask(server, history, model="chat", conversation_id=ours) as response:
        assert response.status == 200
    with ask(server, history, model="chat") as response:
        assert response.json()["conversation_id"] != ours
    calls = [call for call in upstream.calls if call.method == "POST"]
    bodies = [json.loads(call.body) for call in calls]
    assert [(body["query"], body["conversation_id"]) for body in bodies] == [
        ("hi", ""),
        ("and now?", "theirs"),
        ("and now?", "theirs"),
        ("user: hi\n\nassistant: hello\n\nuser: and now?", ""),
    ]
    assert {call.path for call in calls} == {"/v1/chat-messages"}


def test_an_unknown_conversation_is_not_passed_to_dify(server: Relay, upstream: ScriptedUpstream) -> None:
    with ask(server, model="chat", conversation_id="theirs") as response:
        assert response.status == 404
        assert error_of(response)["code"] == "conversation_not_found"
    assert upstream.calls == []


def test_what_a_dify_app_cannot_do_is_refused(server: Relay, upstream: ScriptedUpstream) -> None:
    for model in ("chat", "completion", "workflow"):
        with ask(server, model=model, tools=[TOOL]) as response:
            assert (response.status, error_of(response)["param"]) == (400, "tools")
    with ask(server, model="workflow", conversation_id="c") as response:
        assert error_of(response)["code"] == "conversation_not_found"
    assert upstream.calls == []


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"),
        ({"model": {}}, "model"),
        ({"conversation_id": "c"}, "conversation_id"),
    ],
)
def test_a_mistake_names_its_field(body: dict[str, Any], param: str, server: Relay, upstream: ScriptedUpstream) -> None:
    with ask(server, **body) as response:
        assert response.status == 400
        error = error_of(response)
        assert (error["param"], error["type"], error["code"]) == (param, "invalid_request_error", "bad_request")
        assert f"'{param}'" in error["message"]
        assert "x-should-retry" not in response.headers
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "code"),
    [
        ("POST", "chat/completions", {"Content-Type": "application/json"}, b"{", 400, "bad_request"),
        ("POST", "chat/completions", {"Content-Type": "application/json"}, b'"\xff"', 400, "bad_request"),
        ("POST", "chat/completions", {"Content-Type": "application/json"}, b"[" * 100_000, 400, "bad_request"),
        ("POST", "chat/completions", {"Content-Type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
        ("POST", "chat/completions", {"Content-Type": "application/json"}, b" " * 2_000_000, 413, "body_too_large"),
        ("GET", "chat/completions", {}, None, 405, "method_not_allowed"),
        ("POST", "embeddings", {"Content-Type": "application/json"}, b"{}", 404, "not_found"),
        ("GET", "models/nobody", {}, None, 404, "model_not_found"),
    ],
)
def test_every_refusal_has_openais_shape(
    method: str, path: str, headers: dict[str, str], body: bytes | None, status: int, code: str, server: Relay
) -> None:
    with request(f"{server.url}/v1/{path}", method, body=body, headers=headers) as response:
        assert response.status == status
        error = error_of(response)
        assert (error["code"], error["type"]) == (code, "invalid_request_error")
        assert response.headers["x-request-id"]


def test_fields_that_nobody_here_knows_are_ignored(server: Relay, upstream: ScriptedUpstream) -> None:
    with ask(server, store=True, metadata={"a": "b"}, something_new=5, user="u-1", temperature=0) as response:
        assert response.status == 200
    assert json.loads(upstream.next_call().body) == {
        "model": "org/m-1",
        "messages": HI,
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "u-1",
        "temperature": 0.0,
    }


def test_tools_reach_the_upstream_as_they_are(server: Relay, upstream: ScriptedUpstream) -> None:
    call = {"id": "c-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "content": "sunny", "tool_call_id": "c-1"},
    ]
    options = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    with ask(server, messages, **options) as response:
        assert response.status == 200
    sent = json.loads(upstream.next_call().body)
    assert {name: sent[name] for name in options} == options
    assert sent["messages"] == [*HI, {name: value for name, value in messages[1].items() if value}, messages[2]]
