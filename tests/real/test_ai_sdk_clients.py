"""Pages made with the AI SDK's own packages: what they show, and what becomes of it when connections break."""

import queue
import random
import re
import subprocess
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings

from streaming.wire.events import Entry
from streaming.wire.formats.ai_sdk import AiSdk
from tests import live
from tests.faults.proxy import TO_CLIENT, Fault, Proxy
from tests.live import WAIT_SECONDS, Call, Relay, ScriptedUpstream, scripted
from tests.real import clients
from tests.real.clients import GREEDY, ask_directly
from tests.real.pages import Page, text_of
from tests.real.servers import HERE, NODE, Aimock, LlamaCpp
from tests.real.servers import settings as settings_for
from tests.relay.support import DONE, FINISH, token_chunk
from tests.wire import ai_sdk_page
from tests.wire.dialect_fixtures import load, names
from tests.wire.logs import log_of
from tests.wire.random_logs import random_logs

TRANSPORTS = ["default", "workflow"]
EXAMPLE = HERE.parent.parent / "examples" / "ai_sdk.mjs"
# Random, so that they stay long when the relay compresses what it tells again.
WORDS = [f"{random.Random(number).getrandbits(256):064x} 号👨‍👩‍👧\n" for number in range(400)]
HEAD_MAX_BYTES = 1000  # a cut inside the head is no cut stream: there is no run's id to come back with


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Page() as each:
        yield each


@pytest.fixture
def chat() -> str:
    """An id as an app makes it."""
    return str(uuid.uuid4())


@pytest.fixture(scope="module")
def _upstream() -> Iterator[ScriptedUpstream]:
    with scripted(lambda call: None) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def _server(_upstream: ScriptedUpstream) -> Iterator[Relay]:
    with live.relay(UPSTREAM="openai", UPSTREAM_URL=_upstream.url, UPSTREAM_MODEL="m", MAX_TRIES="1") as server:
        yield server


@pytest.fixture
def upstream(_upstream: ScriptedUpstream) -> ScriptedUpstream:
    """An upstream that says what the test lets it say; `calls` are this test's own."""
    _upstream.forget()
    return _upstream


@pytest.fixture
def server(_server: Relay, upstream: ScriptedUpstream) -> Relay:
    """A relay before `upstream`."""
    return _server


def fluent(call: Call) -> None:
    """Say everything at once."""
    call.start()
    for words in WORDS:
        call.chunk(token_chunk(words))
    call.chunk(FINISH + DONE)
    call.finish()


def paused(release: "queue.Queue[None]") -> Callable[[Call], None]:
    """Return a script that says the first half and waits before the other."""

    def script(call: Call) -> None:
        call.start()
        for number, words in enumerate(WORDS):
            if number == len(WORDS) // 2:
                release.get(timeout=WAIT_SECONDS)
            call.chunk(token_chunk(words))
        call.chunk(FINISH + DONE)
        call.finish()

    return script


def held(call: Call) -> None:
    """A token, then silence until the relay hangs up."""
    call.start()
    call.chunk(token_chunk("a"))
    call.await_close()


def uncut(server: Relay, page: Page, run_id: str) -> dict[str, Any]:
    """Return the message that the package makes of a run's whole stream."""
    url = f"{server.url}/api/chat/{run_id}/stream?startIndex=0"
    told = page.read(requests.get(url, timeout=clients.TIMEOUT).content.decode())
    assert told["errors"] == []
    message: dict[str, Any] = told["message"]
    return message


def assert_whole(message: dict[str, Any], text: str) -> None:
    """Assert that the message is a good answer with this text, and that its digest says so."""
    data = text.encode()
    assert text_of(message) == text
    assert message["metadata"]["reason"] == "done"
    assert message["metadata"]["digest"] == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}


# -- what the package reads --------------------------------------------------------------------------------------------


def assert_read(page: Page, log: list[Entry]) -> None:
    """Assert that the package reads what our own reader of the protocol does."""
    encoder = AiSdk()
    body = b"".join(encoder.encode(entry) for entry in log)
    ours, told = ai_sdk_page.read(body), page.read(body.decode())
    assert told["errors"] == ([ours.error] if ours.error else [])
    message = told["message"]
    assert text_of(message) == "".join(part["text"] for part in ours.of("text"))
    assert [part["text"] for part in message["parts"] if part["type"] == "reasoning"] == [
        part["text"] for part in ours.of("reasoning")
    ]
    inputs = [part.get("input") for part in message["parts"] if part["type"].startswith("tool-")]
    assert [call["input"] for call in ours.of("tool") if "input" in call] in (inputs, [])
    assert (message["id"], message["metadata"]) == (ours.message_id, ours.metadata)


@settings(max_examples=150, deadline=None)
@given(random_logs())
def test_the_package_reads_every_log(page: Page, log: list[Entry]) -> None:
    assert_read(page, log)


@pytest.mark.parametrize("name", names())
def test_the_package_reads_every_recorded_answer(page: Page, name: str) -> None:
    assert_read(page, log_of(load(name)))


# -- an engine behind the relay ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_page_shows_what_the_official_client_gets(
    llama: LlamaCpp, relay: Relay, page: Page, chat: str, transport: str
) -> None:
    mark = llama.mark()
    page.open(transport, relay.url, chat)
    first = page.ask("早上好", options=GREEDY)["messages"][-1]
    state = page.ask("Hello", options=GREEDY)
    assert (state["status"], len(state["messages"])) == ("ready", 4)
    assert llama.calls(mark) == len(state["requests"]) == 2
    assert_whole(first, ask_directly(llama, "早上好").text)
    assert_whole(state["messages"][-1], ask_directly(llama, "早上好", text_of(first), "Hello").text)


def test_a_page_regenerates(llama: LlamaCpp, relay: Relay, page: Page, chat: str) -> None:
    page.open("default", relay.url, chat)
    first = page.ask("早上好", options=GREEDY)["messages"][-1]
    page.do("regenerate", body={"options": GREEDY})
    user, second = page.do("settle")["messages"]
    assert (text_of(user), text_of(second)) == ("早上好", text_of(first))
    assert first["id"] != second["id"]


# -- cut connections ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut", "reset"])
@pytest.mark.parametrize("seed", range(5))
def test_the_workflow_transport_cut_at_random_misses_nothing(
    server: Relay, upstream: ScriptedUpstream, page: Page, chat: str, seed: int, kind: str
) -> None:
    upstream.script = fluent
    rng = random.Random(seed)
    with Proxy(server.port) as proxy:
        proxy.faults.extend(Fault(kind, TO_CLIENT, HEAD_MAX_BYTES + rng.randrange(1_000)) for _ in range(8))
        page.open("workflow", proxy.url, chat, options={"maxConsecutiveErrors": 20})
        state = page.ask("hi")
        assert sum(link.happened.is_set() for link in proxy.links) == 8
    assert (state["status"], len(state["requests"])) == ("ready", 9)
    [_, message] = state["messages"]
    assert_whole(message, "".join(WORDS))
    assert message == uncut(server, page, message["id"])
    assert len(upstream.calls) == 1


def test_use_chat_resumes_what_was_cut(server: Relay, upstream: ScriptedUpstream, page: Page, chat: str) -> None:
    release: queue.Queue[None] = queue.Queue()
    upstream.script = paused(release)
    with Proxy(server.port) as proxy:
        proxy.faults.append(Fault("cut", TO_CLIENT, 5_000))
        page.open("default", proxy.url, chat)
        cut = page.ask("hi")
        assert cut["status"] == "error"  # a cut is no end
        assert 0 < len(text_of(cut["messages"][-1])) < len("".join(WORDS))
        page.do("resume")
        page.do("until", characters=1, status="streaming")
        release.put(None)
        state = page.do("settle")
    assert state["status"] == "ready"
    [_, message] = state["messages"]
    assert_whole(message, "".join(WORDS))
    assert message == uncut(server, page, message["id"])
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_reloaded_page_finds_the_answer_that_is_running(
    server: Relay, upstream: ScriptedUpstream, page: Page, chat: str, transport: str
) -> None:
    release: queue.Queue[None] = queue.Queue()
    upstream.script = paused(release)
    page.open("default", server.url, chat)
    page.do("send", text="hi")
    before = page.do("until", characters=100)["messages"]
    page.do("hangUp")
    page.do("settle")
    page.open(transport, server.url, chat, messages=before)
    page.do("resume")
    page.do("until", characters=1, status="streaming")
    release.put(None)
    state = page.do("settle")
    assert state["status"] == "ready"
    assert [message["role"] for message in state["messages"]] == ["user", "assistant"]
    assert_whole(state["messages"][-1], "".join(WORDS))
    assert len(upstream.calls) == 1


def test_a_reloaded_page_without_a_running_answer_stays_as_it_is(
    server: Relay, upstream: ScriptedUpstream, page: Page, chat: str
) -> None:
    upstream.script = fluent
    page.open("default", server.url, chat)
    before = page.ask("hi")["messages"]
    page.open("default", server.url, chat, messages=before)
    page.do("resume")
    state = page.do("settle")
    assert (state["status"], state["messages"]) == ("ready", before)


def test_the_tail_of_a_run_cut_again(server: Relay, upstream: ScriptedUpstream, page: Page, chat: str) -> None:
    upstream.script = fluent
    page.open("default", server.url, chat)
    run_id = page.ask("hi")["messages"][-1]["id"]
    with Proxy(server.port) as proxy:
        proxy.faults.append(Fault("cut", TO_CLIENT, 3_000))
        page.open("workflow", proxy.url, run_id, options={"initialStartIndex": -100})
        page.do("resume")
        state = page.do("settle")
    first, second = (int(path.partition("startIndex=")[2]) for path in state["requests"])
    assert first == -100
    assert len(WORDS) - 100 < second < len(WORDS)
    # The transport drops deltas whose start it has not seen: only the end of the message is left.
    assert state["status"] == "ready"
    assert state["messages"][-1]["metadata"]["reason"] == "done"


# -- endings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stopped_answer_ends_for_good(
    server: Relay, upstream: ScriptedUpstream, page: Page, chat: str, transport: str
) -> None:
    upstream.script = held
    page.open(transport, server.url, chat, says=True)
    page.do("send", text="hi")
    page.do("until", characters=1)
    stopped = requests.post(f"{server.url}/api/chat/{chat}/stop", timeout=clients.TIMEOUT)
    assert stopped.json()["reason"] == "stopped"
    state = page.do("settle")
    assert (state["status"], len(state["requests"])) == ("ready", 1)
    assert text_of(state["messages"][-1]) == "a"
    assert state["messages"][-1]["metadata"]["reason"] == "stopped"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_failed_answer_ends_for_good(
    server: Relay, upstream: ScriptedUpstream, page: Page, chat: str, transport: str
) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("a") + b'data: {"error":{"message":"secret detail"}}\n\n')

    upstream.script = script
    page.open(transport, server.url, chat)
    state = page.ask("hi")
    assert (state["status"], state["error"]) == ("error", "The upstream failed while answering.")
    assert state["requests"] == ["POST /api/chat"]
    assert text_of(state["messages"][-1]) == "a"
    assert state["messages"][-1]["metadata"]["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_refusal_is_shown(server: Relay, page: Page, chat: str, transport: str) -> None:
    page.open(transport, server.url, chat)
    state = page.ask("hi", options={"temperature": 9})
    assert state["status"] == "error"
    assert "options.temperature" in state["error"]


# -- an upstream with thoughts and tools -------------------------------------------------------------------------------

ARGUMENTS = '{"city":"北京 🏯"}'
WEATHER = {"toolCalls": [{"name": "weather", "arguments": ARGUMENTS}]}
FIXTURES: list[dict[str, Any]] = [
    {"match": {"userMessage": "think"}, "response": {"content": "好👌", "reasoning": "嗯🤔…"}, "chunkSize": 1},
    {"match": {"userMessage": "filtered"}, "response": {"content": "好", "finishReason": "content_filter"}},
]
for name in TRANSPORTS:
    FIXTURES += [
        {"match": {"userMessage": f"weather {name}", "sequenceIndex": 0}, "response": WEATHER, "chunkSize": 1},
        {"match": {"userMessage": f"weather {name}"}, "response": {"content": "7 度 🧥"}, "chunkSize": 1},
    ]


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    with Aimock(FIXTURES, tmp_path_factory.mktemp("aimock")) as mock:
        yield mock


@pytest.fixture(scope="module")
def mocked(aimock: Aimock) -> Iterator[Relay]:
    with live.relay(**settings_for(aimock)) as server:
        yield server


def test_thinking_is_a_part_of_its_own(aimock: Aimock, mocked: Relay, page: Page, chat: str) -> None:
    page.open("default", mocked.url, chat)
    parts = page.ask("think")["messages"][-1]["parts"]
    direct = ask_directly(aimock, "think")
    assert [(part["type"], part.get("text")) for part in parts] == [
        ("step-start", None),
        ("reasoning", direct.reasoning),
        ("text", direct.text),
    ]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tool_of_the_page_is_called_and_its_output_answered(
    aimock: Aimock, mocked: Relay, page: Page, chat: str, transport: str
) -> None:
    page.open(transport, mocked.url, chat, auto=True)
    [call] = page.ask(f"weather {transport}")["calls"]
    assert (call["toolName"], call["input"]) == ("weather", {"city": "北京 🏯"})
    page.do("tool", tool="weather", toolCallId=call["toolCallId"], output={"degrees": 7})  # the page sends it by itself
    state = page.do("until", characters=len("7 度 🧥"), status="ready")
    assert len(state["requests"]) == 2
    [_, message] = state["messages"]  # the answer goes on with the message that called
    assert [part["type"] for part in message["parts"]] == ["step-start", "tool-weather", "step-start", "text"]
    assert text_of(message) == "7 度 🧥"
    asked = [body["messages"] for body in aimock.journal()]
    [_, called, result] = next(
        messages for messages in asked if messages[-1]["role"] == "tool" and transport in str(messages)
    )
    assert called["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"北京 🏯"}'}
    assert (result["tool_call_id"], result["content"]) == (call["toolCallId"], '{"degrees":7}')


def test_a_filtered_answer_says_so(mocked: Relay, page: Page, chat: str) -> None:
    page.open("default", mocked.url, chat)
    message = page.ask("filtered")["messages"][-1]
    assert message["metadata"]["finish_reason"] == "content_filter"


# -- the example -------------------------------------------------------------------------------------------------------


def test_the_example_prints_the_answer(llama: LlamaCpp, relay: Relay, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")  # as if its user had installed them
    (tmp_path / EXAMPLE.name).write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    command = [NODE, tmp_path / EXAMPLE.name, relay.url, "想一想：1+1=?"]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=3 * WAIT_SECONDS, check=True)
    answer = ask_directly(llama, "想一想：1+1=?", temperature=0).text
    assert re.fullmatch(re.escape(answer) + r"\n\[done, run [\w-]{26}\]\n", ran.stdout)
