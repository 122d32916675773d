"""OpenAI's official clients, unchanged, at the relay: they get what they get from the server itself."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests import live
from tests.faults.proxy import TO_CLIENT, Fault, Proxy
from tests.live import ROOT, WAIT_SECONDS, Call, Relay, ScriptedUpstream, scripted
from tests.real import openai_clients
from tests.real.openai_clients import CLIENTS, WAYS, Outcome
from tests.real.servers import Aimock, LlamaCpp
from tests.real.test_aimock import ARGUMENTS, LONG, SPLIT, fixture, refusal

FIXTURES = ROOT / "tests" / "fixtures" / "dialects"
DIFY = json.loads((FIXTURES / "d1-dify-chatflow.json").read_text(encoding="utf-8"))
NOTICE_SECONDS = 2.0  # a second to notice that a client left, and one to hang up on the upstream
UPSTREAMS = """
[[upstream]]
name = "llama"
dialect = "openai"
url = "{llama.url}"
api_key_env = "LLAMA_KEY"
model = "tiny"

[[upstream]]
name = "aimock"
dialect = "openai"
url = "{aimock.url}"
api_key_env = "AIMOCK_KEY"
model = "mock"

[[upstream]]
name = "scripted"
dialect = "openai"
url = "{scripted.url}"
model = "m"

[[upstream]]
name = "app"
dialect = "dify"
url = "{scripted.url}"
"""
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    fixtures = [
        fixture("emoji", {"content": SPLIT}),
        fixture("think", {"content": "好👌", "reasoning": "嗯🤔…"}),
        fixture("tool", {"toolCalls": [{"name": "weather", "arguments": ARGUMENTS}]}),
        fixture("filtered", {"content": "好", "finishReason": "content_filter"}),
        fixture("cut", {"content": LONG}, latency=60, truncateAfterChunks=11),
        refusal("limit", 429, "rate_limit_exceeded", retryAfter=7),
        refusal("too long", 400, "context_length_exceeded"),
    ]
    with Aimock(fixtures, tmp_path_factory.mktemp("aimock")) as server:
        yield server


@pytest.fixture(scope="module")
def _upstream() -> Iterator[ScriptedUpstream]:
    with scripted(lambda call: None) as upstream:
        yield upstream


@pytest.fixture
def upstream(_upstream: ScriptedUpstream) -> ScriptedUpstream:
    """The upstream whose script each test sets; behind `scripted` and, as a Dify app, behind `app`."""
    _upstream.forget()
    return _upstream


@pytest.fixture(scope="module")
def relay(
    llama: LlamaCpp, aimock: Aimock, _upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Relay]:
    file = tmp_path_factory.mktemp("relay") / "upstreams.toml"
    file.write_text(UPSTREAMS.format(llama=llama, aimock=aimock, scripted=_upstream))
    keys = {"LLAMA_KEY": llama.key, "AIMOCK_KEY": aimock.key}
    with live.relay(UPSTREAMS_FILE=str(file), MAX_TRIES="1", CHAT_WAIT_SECONDS="3", **keys) as server:
        yield server


def body(prompt: str, model: str, **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, **options}


def ask(client: str, how: str, relay: Relay, upstream: str, prompt: str, **options: Any) -> Outcome:
    return openai_clients.ask(client, how, f"{relay.url}/v1", "any key", body(prompt, upstream, **options))


def directly(client: str, how: str, server: LlamaCpp | Aimock, prompt: str, **options: Any) -> Outcome:
    return openai_clients.ask(client, how, server.url, server.key, body(prompt, server.model, **options))


# -- the same as from the server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_real_engines_answer(client: str, how: str, llama: LlamaCpp, relay: Relay) -> None:
    mark = llama.mark()
    relayed = ask(client, how, relay, "llama", "早上好")
    assert llama.calls(mark) == 1
    direct = directly(client, how, llama, "早上好")
    assert "小王 👨‍👩‍👧!" in direct.text
    assert (relayed.text, relayed.finish, relayed.error) == (direct.text, direct.finish, None)
    assert relayed.model == "tiny"


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_bound_on_the_answer(client: str, how: str, llama: LlamaCpp, relay: Relay) -> None:
    relayed = ask(client, how, relay, "llama", "讲一个很长的故事", max_tokens=40)
    direct = directly(client, how, llama, "讲一个很长的故事", max_tokens=40)
    assert (relayed.text, relayed.finish) == (direct.text, direct.finish)
    if client == "python" and how == "helper":
        return  # it raises: the answer is not whole
    assert relayed.finish == "length"


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("prompt", ["emoji", "think", "tool", "filtered"])
def test_every_part_of_an_answer(prompt: str, client: str, how: str, aimock: Aimock, relay: Relay) -> None:
    options = {} if how == "object" else USAGE
    relayed = ask(client, how, relay, "aimock", prompt, **options)
    direct = directly(client, how, aimock, prompt, **options)
    assert direct.text or direct.tool_calls or direct.error
    assert (relayed.text, relayed.reasoning, relayed.finish) == (direct.text, direct.reasoning, direct.finish)
    assert [call[1:] for call in relayed.tool_calls] == [call[1:] for call in direct.tool_calls]
    assert all(call[0] for call in relayed.tool_calls)
    assert relayed.usage == direct.usage
    assert relayed.error == direct.error


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_dify_app_answers_as_if_it_were_openai(
    client: str, how: str, relay: Relay, upstream: ScriptedUpstream
) -> None:
    """A conversation of two turns, each with the same recorded answer of a chatflow."""
    upstream.script = dify
    text = dify_text("token")
    options = {} if how == "object" else USAGE
    first = ask(client, how, relay, "app", "hello", **options)
    assert (first.error, first.finish, first.model) == (None, "stop", "app")
    assert (first.text, first.usage["total_tokens"]) == (text, DIFY["verdict"]["usage"]["total_tokens"])
    assert first.reasoning == dify_text("reasoning")
    assert first.conversation_id
    order = body("and now?", "app")
    headers = {"X-Conversation-Id": first.conversation_id}
    second = openai_clients.ask(client, how, f"{relay.url}/v1", "any key", order, headers)
    assert (second.text, second.conversation_id) == (text, first.conversation_id)
    asked = [json.loads(call.body) for call in upstream.calls if call.path == "/v1/chat-messages"]
    assert [question["query"] for question in asked] == ["hello", "and now?"]
    assert [bool(question["conversation_id"]) for question in asked] == [False, True]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_tools_result_goes_back_with_the_whole_answer(client: str, relay: Relay, upstream: ScriptedUpstream) -> None:
    """Callers send the client's own message object back, with all its fields."""
    upstream.script = replay("o3-openai-tool-call")
    first = ask(client, "object", relay, "scripted", "weather?", tools=[TOOL])
    assert [(name, json.loads(arguments)) for _, name, arguments in first.tool_calls] == [
        ("get_weather", {"city": "北京"})
    ]
    result = {"role": "tool", "tool_call_id": first.tool_calls[0][0], "content": "sunny"}
    order = body("weather?", "scripted", tools=[TOOL])
    order["messages"] += [first.message, result]
    upstream.script = replay("o1-openai-usage")
    second = openai_clients.ask(client, "object", f"{relay.url}/v1", "any key", order)
    assert (second.error, second.finish) == (None, "stop")
    sent = json.loads(upstream.calls[-1].body)
    assert sent["tools"] == [TOOL]
    assert sent["messages"][1]["tool_calls"] == [
        {"id": "call_a1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"北京"}'}}
    ]
    assert sent["messages"][2] == result


@pytest.mark.parametrize("client", CLIENTS)
def test_the_models_can_be_listed(client: str, relay: Relay) -> None:
    ids = openai_clients.models(client, f"{relay.url}/v1")
    assert ids == ["llama", "tiny", "aimock", "mock", "scripted", "m", "app"]


# -- what must raise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("prompt", "name", "status", "code"),
    [
        ("limit", "InternalServerError", 503, "upstream_busy"),
        ("too long", "BadRequestError", 400, "upstream_rejected"),
    ],
)
def test_a_refusal_raises_and_costs_one_call(
    prompt: str, name: str, status: int, code: str, client: str, how: str, aimock: Aimock, relay: Relay
) -> None:
    """The clients would ask twice more, were they not told to leave it."""
    before = len(aimock.calls(prompt))
    outcome = ask(client, how, relay, "aimock", prompt)
    assert outcome.error == {"name": name, "status": status, "code": code}
    assert len(aimock.calls(prompt)) == before + 1
    assert ask(client, how, relay, "aimock", "think").error is None  # many failures in a row would open the breaker


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_that_breaks_off_raises_and_costs_one_call(
    client: str, how: str, aimock: Aimock, relay: Relay
) -> None:
    before = len(aimock.calls("cut"))
    outcome = ask(client, how, relay, "aimock", "cut", **({} if how == "object" else USAGE))
    assert outcome.error
    assert outcome.error["code"] == "upstream_truncated"
    assert (outcome.finish, outcome.usage) == (None, None)
    assert outcome.text == (LONG[:9] if how == "stream" else "")
    assert len(aimock.calls("cut")) == before + 1
    assert ask(client, how, relay, "aimock", "think").error is None


@pytest.mark.parametrize("client", CLIENTS)
def test_a_failure_behind_blank_lines_raises_and_costs_one_call(
    client: str, relay: Relay, upstream: ScriptedUpstream
) -> None:
    """The status has left. A connection that breaks would make the Python client ask, and pay, twice more."""

    def script(call: Call) -> None:
        call.start()
        call.chunk(b'data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n')
        time.sleep(4)  # longer than the relay keeps its headers back here
        call.finish()

    upstream.script = script
    outcome = ask(client, "object", relay, "scripted", "hello")
    assert outcome.error == {
        "name": "JSONDecodeError" if client == "python" else "SyntaxError",
        "status": None,
        "code": None,
    }
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_blank_lines_before_an_answer_are_none_of_it(client: str, relay: Relay, upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        call.start()
        time.sleep(4)
        call.chunk((FIXTURES / "o1-openai-usage.sse").read_bytes())
        call.finish()

    upstream.script = script
    outcome = ask(client, "object", relay, "scripted", "hello")
    assert (outcome.error, outcome.finish, outcome.usage["total_tokens"]) == (None, "stop", 36)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_unknown_model_raises(client: str, relay: Relay) -> None:
    outcome = ask(client, "stream", relay, "gpt-unknown", "hello")
    assert outcome.error == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}


# -- leaving and coming back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_leaving_the_stream_stops_the_generation(client: str, llama: LlamaCpp, relay: Relay) -> None:
    mark = llama.mark()
    outcome = ask(client, "leave", relay, "llama", "讲一个很长的故事")
    assert (outcome.error, outcome.finish) == (None, None)
    assert outcome.text
    llama.await_gone(mark, NOTICE_SECONDS)
    run = requests.get(f"{relay.url}/runs/{outcome.id}", timeout=WAIT_SECONDS).json()
    assert (run["end"]["reason"], run["end"]["upstream_stop"]) == ("abandoned", "closed")
    assert run["text"].startswith(outcome.text)


@pytest.mark.parametrize("cut_at", [None, 2500])
def test_the_example_goes_on_after_a_cut(cut_at: int | None, llama: LlamaCpp, relay: Relay) -> None:
    mark = llama.mark()
    with Proxy(relay.port) as proxy:
        if cut_at:
            proxy.faults.append(Fault("cut", TO_CLIENT, cut_at))
        command = [sys.executable, ROOT / "examples" / "openai_client.py", f"{proxy.url}/v1", "llama", "早上好"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert ("cut off" in done.stderr) == bool(cut_at)
    assert llama.calls(mark) == 1
    assert done.stdout == directly("python", "stream", llama, "早上好").text + "\n"


# -- scripts -----------------------------------------------------------------------------------------------------------


def replay(name: str) -> Callable[[Call], None]:
    def script(call: Call) -> None:
        call.start()
        call.chunk((FIXTURES / f"{name}.sse").read_bytes())
        call.finish()

    return script


def dify(call: Call) -> None:
    if call.path != "/v1/chat-messages":  # what the relay asks besides
        call.answer(404, b"{}")
        return
    replay("d1-dify-chatflow")(call)


def dify_text(type_: str) -> str:
    """Return the text of the events of a type in the recorded answer."""
    return "".join(fields["text"] for name, fields in DIFY["events"] if name == type_)
