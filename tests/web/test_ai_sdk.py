"""The AI SDK face of a live relay: chats, exact resumes, whose chat is whose, and what is refused."""

import json
import queue
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.relay.remote import AHEAD_MAX_EVENTS, RemoteRun
from streaming.relay.stores.memory import MemoryStore
from streaming.web.ai_sdk import is_ahead
from streaming.wire.errors import Refusal
from streaming.wire.events import Token
from streaming.wire.formats.ai_sdk import count_chunks
from tests.live import Call, Relay, ScriptedUpstream, relay, scripted
from tests.redis_server import redis_server
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import Response, request
from tests.wire.ai_sdk_page import Page, chunks_of, read
from tests.wire.random_logs import START, entries

CHAT = "chat-0123456789abcdef"
TEXTS = ["早上", "好", "！\n\n", "☀️ ", "👨‍👩‍👧", " end"]


def text(words: str, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"id": "m", "role": role, "parts": [{"type": "text", "text": words}], **fields}


def ask(server: Relay, *messages: dict[str, Any], headers: dict[str, str] | None = None, **fields: Any) -> Response:
    body = {"messages": messages or [text("hi")], "trigger": "submit-message", **fields}
    return request(f"{server.url}/api/chat", "POST", json_body=body, headers=headers)


def resume(server: Relay, id_: str, index: object = None) -> Response:
    asked = "" if index is None else f"?startIndex={index}"
    return request(f"{server.url}/api/chat/{quote(id_, safe='')}/stream{asked}")


def code(response: Response) -> tuple[int, str]:
    with response:
        return response.status, response.json()["error"]["code"]


def held(call: Call) -> None:
    """A token, then silence until the relay hangs up."""
    call.start()
    call.chunk(token_chunk("a"))
    call.await_close()


def paced(release: "queue.Queue[None]") -> Callable[[Call], None]:
    """Return a script that sends one token for each thing put into `release`, then ends well."""

    def script(call: Call) -> None:
        call.start()
        for words in TEXTS:
            release.get(timeout=20)
            call.chunk(token_chunk(words))
        call.chunk(FINISH + DONE)
        call.finish()

    return script


def until(response: Response, ready: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Read whole writes until the chunks are what is awaited."""
    seen: list[dict[str, Any]] = []
    writes = response.chunks()
    while not ready(seen):
        seen += chunks_of(next(writes))
    return seen


def begun(seen: list[dict[str, Any]]) -> bool:
    """Return whether the answer's text has begun."""
    return any(chunk["type"] == "text-delta" for chunk in seen)


def end_of(server: Relay, run_id: str) -> dict[str, Any]:
    with request(f"{server.url}/runs/{run_id}/events?format=json") as response:
        end: dict[str, Any] = response.json()["end"]
        return end


# -- asking ------------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered(server: Relay, upstream: ScriptedUpstream) -> None:
    with ask(server, text("Hi"), text("Hello", "assistant"), text("?"), id=CHAT) as response:
        assert response.status == 200
        page = read(response.body())
    assert (page.text, page.finish_reason) == ("你好 👋", "stop")
    assert page.message_id == page.metadata["run_id"] == response.headers["x-run-id"]
    [call] = upstream.calls
    assert [message["content"] for message in json.loads(call.body)["messages"]] == ["Hi", "Hello", "?"]


def test_the_headers_are_those_that_clients_look_for(server: Relay) -> None:
    with ask(server) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert response.headers["x-workflow-run-id"] == response.headers["x-run-id"]
        assert response.headers["cache-control"] == "no-cache, no-store, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["connection"] == "close"
        response.body()
    assert response.complete


def test_the_media_type_does_not_matter(server: Relay) -> None:
    """WorkflowChatTransport sends none, and so `fetch` says text/plain."""
    with ask(server, headers={"Content-Type": "text/plain;charset=UTF-8"}) as response:
        assert read(response.body()).text == "你好 👋"


def test_a_run_that_fails_says_so_and_finishes(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = lambda call: call.answer(500, b"{}")
    with ask(server) as response:
        page = read(response.body())
    assert (page.error, page.finish_reason) == ("The upstream failed while answering.", "error")
    assert page.metadata["error"]["code"] == "upstream_failed"
    assert response.complete


def test_silence_is_filled_with_comments(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with ask(server, on_disconnect="cancel") as response:
        writes = response.chunks()
        while next(writes) != b": ping\n\n":
            pass
        upstream.next_call()


def test_a_key_attaches_to_the_first_run(server: Relay, upstream: ScriptedUpstream) -> None:
    release: queue.Queue[None] = queue.Queue()
    upstream.script = paced(release)
    key = {"Idempotency-Key": "ai-sdk-1"}
    with ask(server, id=CHAT, headers=key) as first, ask(server, id=CHAT, headers=key) as second:
        for _ in TEXTS:
            release.put(None)
        assert first.headers["x-run-id"] == second.headers["x-run-id"]
        assert read(first.body()).text == read(second.body()).text == "".join(TEXTS)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b'{"messages":"\xff"}', "UTF-8"),
        (b'{"messages":[]}', "messages"),
        (b"[]", "object"),
        (b'{"messages":' + b"[" * 2000 + b"]" * 2000 + b"}", "JSON"),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes, field: str, server: Relay, upstream: ScriptedUpstream) -> None:
    headers = {"Content-Type": "application/json"}
    with request(f"{server.url}/api/chat", "POST", body=body, headers=headers) as response:
        error = response.json()["error"]
    assert (response.status, error["code"]) == (400, "bad_request")
    assert field in error["message"]
    assert upstream.calls == []


def test_an_upstream_that_nobody_knows_is_refused(server: Relay) -> None:
    assert code(ask(server, upstream="nobody")) == (400, "unknown_upstream")


# -- resuming a run ----------------------------------------------------------------------------------------------------


def test_an_ended_run_is_told_again_from_any_chunk(server: Relay, upstream: ScriptedUpstream) -> None:
    with ask(server) as response:
        run_id, whole = response.headers["x-run-id"], chunks_of(response.body())
    for index in range(len(whole)):
        with resume(server, run_id, index) as rest:
            assert rest.headers["x-workflow-run-id"] == run_id
            assert chunks_of(rest.body()) == whole[index:]
        with resume(server, run_id, index - len(whole)) as rest:
            assert rest.headers["x-workflow-stream-tail-index"] == str(len(whole) - 1)
            assert chunks_of(rest.body()) == whole[index:]
    for index in (-len(whole) - 1, -1000):
        with resume(server, run_id, index) as rest:
            assert chunks_of(rest.body()) == whole
    for index in (len(whole), len(whole) + 1, 999_999_999_999):
        with resume(server, run_id, index) as nothing:
            assert nothing.status == 204
    with resume(server, run_id) as nothing:  # nothing is running
        assert nothing.status == 204
    assert len(upstream.calls) == 1


def test_a_running_run_is_followed_from_any_chunk(server: Relay, upstream: ScriptedUpstream) -> None:
    release: queue.Queue[None] = queue.Queue()
    upstream.script = paced(release)
    with ask(server) as first:
        run_id = first.headers["x-run-id"]
        seen = until(first, lambda chunks: len(chunks) == 2)  # start, start-step
    for _ in TEXTS:
        release.put(None)
        with resume(server, run_id, len(seen)) as response:
            seen += until(response, begun)
    with resume(server, run_id, len(seen)) as response:
        seen += chunks_of(response.body())
    page = Page()
    for chunk in seen:
        page.take(chunk)
    assert (page.text, page.finish_reason) == ("".join(TEXTS), "stop")
    assert len(upstream.calls) == 1


def test_the_tail_of_a_running_run(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with ask(server, on_disconnect="cancel") as first:
        run_id = first.headers["x-run-id"]
        seen = until(first, begun)
        with resume(server, run_id, -2) as tail:
            assert tail.headers["x-workflow-stream-tail-index"] == "3"
            assert until(tail, begun) == seen[2:]
        with resume(server, run_id, len(seen)) as silent:  # nothing yet: its headers leave all the same
            assert silent.status == 200
            assert next(silent.chunks()).startswith(b": resume")
        assert code(resume(server, run_id, len(seen) + 1)) == (400, "bad_cursor")
        assert code(resume(server, run_id, 999_999_999_999)) == (400, "bad_cursor")


def test_a_client_may_be_ahead_of_what_another_worker_has_left_behind() -> None:
    start, *tokens = entries([START, *[Token(text="a")] * 3])
    chunks = count_chunks([start, *tokens])
    run = RemoteRun("run", MemoryStore().new_log("run"), lambda run_id, what, by_us: None)
    run.offer([start, *tokens], from_stream=True)
    assert is_ahead(run, chunks + 5, chunks)  # what Redis does not have yet
    with pytest.raises(Refusal):
        is_ahead(run, chunks + AHEAD_MAX_EVENTS + 1, chunks)
    run.offer([run.lost_end()], from_stream=True)
    ended = count_chunks(run.entries())
    assert is_ahead(run, ended + 5, ended)  # and will never have: at least the end is told


@pytest.mark.parametrize("index", ["", "x", "1.5", "+1", "1e3", "--1", "١", "9" * 5000, "0x1", "%20", "1%00"])
def test_what_is_no_index_is_refused(index: str, server: Relay) -> None:
    assert code(resume(server, CHAT, quote(index, safe="%"))) == (400, "bad_cursor")


def test_an_exact_resume_of_what_is_not_there_says_why(server: Relay) -> None:
    with ask(server) as response:
        response.body()
    mine = response.headers["x-run-id"]
    assert code(resume(server, mine[:4] + "A" * 22, 3)) == (404, "run_not_found")
    other = ("B" if mine[0] == "A" else "A") + mine[1:]
    assert code(resume(server, other, 3)) == (404, "other_instance")
    assert code(resume(server, CHAT + "-unknown", 0)) == (404, "run_not_found")


def test_nobody_reads_a_head(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with ask(server, id=CHAT, on_disconnect="cancel") as response:
        until(response, begun)
        with request(f"{server.url}/api/chat/{CHAT}/stream", "HEAD") as head:
            assert head.status == 405
        assert server.counts()["unfinished"] == 1


# -- chats -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [CHAT, "0123456789abcdef", "我的聊天/一二三四五六七八九十 ?&#%", "A" * 26, "x" * 256])
def test_a_chats_running_answer_is_found_and_told_from_its_beginning(
    chat: str, server: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.script = held
    with ask(server, id=chat) as response:
        seen = until(response, begun)
        for index in (None, 0):
            with resume(server, chat, index) as again:
                assert again.headers["x-run-id"] == response.headers["x-run-id"]
                assert until(again, begun) == seen
        with resume(server, chat, 3) as rest:
            assert until(rest, begun) == seen[3:]
        with request(f"{server.url}/api/chat/{quote(chat, safe='')}/stop", "POST", body=b"") as stopped:
            assert stopped.json()["reason"] == "stopped"
    with resume(server, chat) as nothing:
        assert nothing.status == 204


@pytest.mark.parametrize("chat", ["1", "main", "0123456789abcde"])
def test_an_anonymous_chat_with_an_id_for_anybody_to_guess_is_nobodys(
    chat: str, server: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.script = held
    with ask(server, id=chat, on_disconnect="cancel") as response:
        until(response, begun)
        with resume(server, chat) as nothing:
            assert nothing.status == 204
        assert code(resume(server, chat, 0)) == (404, "run_not_found")
        with request(f"{server.url}/api/chat/{chat}/stop", "POST", body=b"") as nothing:
            assert nothing.status == 204
        with ask(server, id=chat, on_disconnect="cancel") as other:  # stops nobody else's answer
            until(other, begun)
            assert server.counts()["unfinished"] == 2
        with resume(server, response.headers["x-run-id"], 0) as mine:  # the run's id is a secret of its own
            assert until(mine, begun)


def test_a_chat_that_nothing_is_known_of_has_nothing_to_resume(server: Relay) -> None:
    with resume(server, "never-seen-before-0123") as nothing:
        assert nothing.status == 204
        assert "content-type" not in nothing.headers


def test_a_run_has_the_first_claim_on_its_id(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with ask(server, text("first")) as first:
        until(first, begun)
        run_id = first.headers["x-run-id"]
        with ask(server, text("second"), id=run_id, on_disconnect="cancel") as second:
            until(second, begun)
            with resume(server, run_id) as response:
                assert response.headers["x-run-id"] == run_id
    requests.post(f"{server.url}/runs/{run_id}/stop", timeout=20)


def test_an_answer_that_goes_on_with_a_message_says_so_to_everybody(server: Relay) -> None:
    answered = {"type": "tool-f", "toolCallId": "c", "state": "output-available", "input": {}, "output": 1}
    with ask(server, text("hi"), {"id": "msg-7", "role": "assistant", "parts": [answered]}, id=CHAT) as response:
        whole = chunks_of(response.body())
    assert whole[0]["messageId"] == "msg-7"
    for index in (0, -1000):
        with resume(server, response.headers["x-run-id"], index) as again:
            assert chunks_of(again.body()) == whole


# -- ending ------------------------------------------------------------------------------------------------------------


def test_a_page_that_hangs_up_does_not_end_the_run(server: Relay, upstream: ScriptedUpstream) -> None:
    """A reload looks the same: it must find the answer."""
    release: queue.Queue[None] = queue.Queue()
    upstream.script = paced(release)
    with ask(server, id=CHAT) as response:
        until(response, lambda chunks: len(chunks) == 2)
    for _ in TEXTS:
        release.put(None)
    assert end_of(server, response.headers["x-run-id"])["reason"] == "done"


def test_a_page_can_ask_for_the_end_of_what_it_hangs_up_on(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with ask(server, on_disconnect="cancel") as response:
        until(response, begun)
    assert end_of(server, response.headers["x-run-id"])["reason"] == "abandoned"


def test_a_stop_ends_the_chats_run(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    body = {"assistantMessage": text("a", "assistant"), "activeStreamId": None}  # what the AI SDK's manual sends
    with ask(server, id=CHAT) as response:
        seen = until(response, begun)
        with request(f"{server.url}/api/chat/{CHAT}/stop", "POST", json_body=body) as stopped:
            assert stopped.json()["reason"] == "stopped"
        seen += chunks_of(response.body())
    assert [chunk["type"] for chunk in seen[-4:]] == ["text-end", "finish-step", "abort", "finish"]
    assert response.complete
    assert upstream.next_call().closed.wait(20)
    with request(f"{server.url}/api/chat/{CHAT}/stop", "POST", json_body=body) as again:
        assert again.status == 204


def test_the_next_question_ends_the_answer_before_it(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with ask(server, id=CHAT) as first, ask(server, id=CHAT + "-2", on_disconnect="cancel") as other:
        until(first, begun)
        until(other, begun)
        with ask(server, id=CHAT, on_disconnect="cancel") as second:
            until(second, begun)
            assert read_rest(first)[-2:] == ["abort", "finish"]
            assert server.counts()["unfinished"] == 2  # the second one, and the other chat's


def read_rest(response: Response) -> list[str]:
    return [chunk["type"] for chunk in chunks_of(response.body())]


# -- cut anywhere ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=25),
    st.lists(st.integers(0, 1200), max_size=6),
)
def test_cut_anywhere_every_chunk_comes_once(
    server: Relay, upstream: ScriptedUpstream, texts: list[str], cuts: list[int]
) -> None:
    """As a client that counts the whole chunks it has."""

    def script(call: Call) -> None:
        call.start()
        for words in texts:
            call.chunk(token_chunk(words))
        call.chunk(FINISH + DONE)
        call.finish()

    upstream.script = script
    upstream.calls.clear()
    seen: list[dict[str, Any]] = []
    with ask(server) as response:
        run_id = response.headers["x-run-id"]
        seen += whole_chunks(response, cuts[0] if cuts else 0)
    for size_bytes in [*cuts[1:], 10_000_000]:
        if seen and seen[-1]["type"] == "finish":
            break
        with resume(server, run_id, len(seen)) as response:
            seen += whole_chunks(response, size_bytes)
    page = Page()
    for chunk in seen:
        page.take(chunk)
    assert (page.text, page.finish_reason) == ("".join(texts), "stop")
    assert len(upstream.calls) == 1


def whole_chunks(response: Response, size_bytes: int) -> list[dict[str, Any]]:
    """Return the whole chunks among the first bytes of a body."""
    data = b""
    for write in response.chunks():
        data += write
        if len(data) >= size_bytes:
            break
    cut = data[:size_bytes]
    return chunks_of(cut[: cut.rfind(b"\n\n") + 2]) if b"\n\n" in cut else []


# -- Dify --------------------------------------------------------------------------------------------------------------


def dify_event(event: str, **fields: Any) -> bytes:
    told = {"event": event, "task_id": "t-1", "conversation_id": "dify-1", **fields}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def dify_answers(call: Call) -> None:
    if call.path.endswith("/stop"):
        call.answer(200, b'{"result":"success"}')
        return
    call.start()
    call.chunk(dify_event("message", answer="ok") + dify_event("message_end", metadata={}))
    call.finish()


def questions(upstream: ScriptedUpstream) -> list[tuple[str, str]]:
    """Return the questions that reached Dify, and in which of its conversations."""
    bodies = [json.loads(call.body) for call in upstream.calls if call.path.endswith("/chat-messages")]
    return [(body["query"], body["conversation_id"]) for body in bodies]


@pytest.fixture(scope="module")
def _dify(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, ScriptedUpstream]]:
    with scripted(dify_answers) as upstream:
        apps = [
            f'[[upstream]]\nname = "{name}"\ndialect = "dify"\ndify_mode = "{mode}"\nurl = "{upstream.url}"\n'
            for name, mode in (("one", "chat"), ("two", "chat"), ("flow", "workflow"))
        ]
        path = tmp_path_factory.mktemp("dify") / "upstreams.toml"
        path.write_text("".join(apps))
        with relay(UPSTREAMS_FILE=str(path)) as server:
            yield server, upstream


@pytest.fixture
def dify(_dify: tuple[Relay, ScriptedUpstream]) -> tuple[Relay, ScriptedUpstream]:
    """A relay before three Dify apps, and what is behind them."""
    _, upstream = _dify
    upstream.script = dify_answers
    upstream.calls.clear()
    return _dify


HISTORY = [text("a"), text("ok", "assistant"), text("b")]
FLATTENED = "user: a\n\nassistant: ok\n\nuser: b"


def test_a_dify_app_keeps_the_chats_history(dify: tuple[Relay, ScriptedUpstream]) -> None:
    server, upstream = dify
    for messages in (HISTORY[:1], HISTORY, HISTORY):
        with ask(server, *messages, id=CHAT) as response:
            assert read(response.body()).text == "ok"
    assert questions(upstream) == [("a", ""), ("b", "dify-1"), ("b", "dify-1")]


def test_what_is_not_to_be_remembered_is_told_in_full(dify: tuple[Relay, ScriptedUpstream]) -> None:
    server, upstream = dify
    for messages in (HISTORY[:1], HISTORY):
        with ask(server, *messages, id="1") as response:
            response.body()
    assert questions(upstream) == [("a", ""), (FLATTENED, "")]


def test_a_dify_conversation_that_came_to_nothing_is_begun_anew(dify: tuple[Relay, ScriptedUpstream]) -> None:
    server, upstream = dify
    upstream.script = lambda call: call.answer(500, b"{}")
    with ask(server, id=CHAT + "-failing") as response:
        assert read(response.body()).error
    upstream.script = dify_answers
    with ask(server, id=CHAT + "-failing", trigger="regenerate-message") as response:
        assert read(response.body()).text == "ok"
    assert questions(upstream) == [("hi", ""), ("hi", "")]


def test_a_dify_apps_next_question_waits_for_the_end_of_the_one_before(dify: tuple[Relay, ScriptedUpstream]) -> None:
    server, upstream = dify
    stopped: queue.Queue[None] = queue.Queue()

    def script(call: Call) -> None:
        if call.path.endswith("/stop"):
            stopped.put(None)
        if call.path.endswith("/stop") or len(questions(upstream)) > 1:
            dify_answers(call)
            return
        call.start()
        call.chunk(dify_event("message", answer="a"))
        stopped.get(timeout=20)
        call.chunk(dify_event("message_end", metadata={}))
        call.finish()

    upstream.script = script
    with ask(server, text("one"), id=CHAT + "-stopped") as first:
        until(first, begun)
        with ask(server, text("one"), text("a", "assistant"), text("two"), id=CHAT + "-stopped") as second:
            assert read(second.body()).text == "ok"
        assert read_rest(first)[-2:] == ["abort", "finish"]
    assert questions(upstream) == [("one", ""), ("two", "dify-1")]


def test_another_upstream_is_told_the_history_of_the_one_before(dify: tuple[Relay, ScriptedUpstream]) -> None:
    server, upstream = dify
    for name in ("one", "two", "two"):
        with ask(server, *HISTORY, id=CHAT + "-moved", upstream=name) as response:
            assert read(response.body()).text == "ok"
    assert questions(upstream) == [(FLATTENED, ""), (FLATTENED, ""), ("b", "dify-1")]


def test_what_an_app_nests_too_deeply_is_the_same_for_everybody(dify: tuple[Relay, ScriptedUpstream]) -> None:
    """Readers have stacks of different heights: what one could still decode, another could not."""
    server, upstream = dify
    data = b'{"status":"succeeded","outputs":{"a":"ok","b":' + b"[" * 900 + b"]" * 900 + b"}}"
    event = b'data: {"event":"workflow_finished","task_id":"t-1","data":' + data + b"}\n\n"

    def script(call: Call) -> None:
        call.start()
        call.chunk(event)
        call.finish()

    upstream.script = script
    with ask(server, upstream="flow") as response:
        whole = chunks_of(response.body())
    with resume(server, response.headers["x-run-id"], 0) as again:
        assert chunks_of(again.body()) == whole
    assert whole[-1]["messageMetadata"]["metadata"] == {"omitted": "too large"}
    assert end_of(server, response.headers["x-run-id"])["reason"] == "done"


# -- over a shared store -----------------------------------------------------------------------------------------------


def test_another_worker_goes_on_where_one_was_cut(upstream: ScriptedUpstream) -> None:
    release: queue.Queue[None] = queue.Queue()
    upstream.script = paced(release)
    shared = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
    with (
        redis_server() as redis,
        relay(**shared, REDIS_URL=redis.url) as one,
        relay(**shared, REDIS_URL=redis.url) as two,
    ):
        with ask(one, id=CHAT) as first:
            run_id = first.headers["x-run-id"]
            seen = until(first, lambda chunks: len(chunks) == 2)
        for number, _ in enumerate(TEXTS):
            release.put(None)
            with resume((one, two)[number % 2], (run_id, CHAT)[number // 2 % 2], len(seen)) as response:
                seen += until(response, begun)
        with resume(two, CHAT, len(seen)) as response:
            seen += chunks_of(response.body())
        with resume(two, CHAT) as nothing:
            assert nothing.status == 204
        page = Page()
        for chunk in seen:
            page.take(chunk)
        assert (page.text, page.finish_reason) == ("".join(TEXTS), "stop")
        assert len(upstream.calls) == 1
        upstream.script = held
        with ask(one, id=CHAT) as before:
            until(before, begun)
            with ask(two, id=CHAT) as after:  # stops what the other worker was doing for this chat
                until(after, begun)
                assert read_rest(before)[-2:] == ["abort", "finish"]
            with request(f"{one.url}/api/chat/{CHAT}/stop", "POST", body=b"") as stopped:
                assert stopped.json()["reason"] == "stopped"
        redis.kill()
        assert code(resume(one, CHAT + "-2")) == (503, "store_unavailable")  # not "nothing is running"
