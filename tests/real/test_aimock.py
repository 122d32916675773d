"""The relay before aimock, which misbehaves on demand: every ending is told as what it is, and costs one call."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests import live
from tests.live import Relay
from tests.real import clients
from tests.real.clients import ask, ask_directly, post
from tests.real.servers import Aimock, settings

SPLIT = '水💧、家👨‍👩‍👧 "q" \\n 🧥\n\n```\n<b>𠮷</b>\u2028&\x7f\n```\n'
ARGUMENTS = '{"city": "北京 🏯"}'
LONG = "一二三四五六七八九十" * 5
CUT = LONG[:9]  # of eleven events, the first has no text, and the last is lost with the connection


def fixture(prompt: str, response: dict[str, Any], **behaviour: Any) -> dict[str, Any]:
    """Return what aimock does with a prompt. `chunkSize` 1 cuts every emoji into two events of half a character."""
    return {"match": {"userMessage": prompt}, "response": response, "chunkSize": 1, **behaviour}


def refusal(prompt: str, status: int, code: str, **headers: int) -> dict[str, Any]:
    return fixture(prompt, {"error": {"message": "secret detail", "code": code}, "status": status, **headers})


FIXTURES = [
    fixture("emoji", {"content": SPLIT}),
    fixture("think", {"content": "好👌", "reasoning": "嗯🤔…"}),
    fixture("tool", {"toolCalls": [{"name": "weather", "arguments": ARGUMENTS}]}),
    fixture("filtered", {"content": "好", "finishReason": "content_filter"}),
    fixture("turn one", {"content": "第一 1️⃣"}),
    fixture("turn two", {"content": "第二 2️⃣"}),
    *(fixture(f"crowd {number:02}", {"content": f"{number} 号 🚀 " * 30}, latency=2) for number in range(20)),
    # Latency lets the first chunks leave before the connection is cut.
    fixture("cut", {"content": LONG}, latency=20, truncateAfterChunks=11),
    fixture("disconnect", {"content": LONG}, latency=20, disconnectAfterMs=300),
    fixture("silence", {"content": LONG}, streamingProfile={"ttft": 0, "tps": 0.1}),
    fixture("nothing", {"content": "-"}, chaos={"disconnectRate": 1}),
    fixture("malformed", {"content": "-"}, chaos={"malformedRate": 1}),
    fixture("crash", {"content": "-"}, chaos={"dropRate": 1}),
    fixture("flood", {"content": "-"}, chaos={"rateLimitRate": 1}),
    fixture("broken for good", {"content": "-"}, chaos={"dropRate": 1}),
    {**refusal("recovers", 503, "overloaded"), "match": {"userMessage": "recovers", "sequenceIndex": 0}},
    fixture("recovers", {"content": SPLIT}),
    refusal("limit", 429, "rate_limit_exceeded", retryAfter=7),
    refusal("quota", 429, "insufficient_quota"),
    refusal("overload", 503, "overloaded"),
    refusal("locked", 401, "invalid_api_key"),
    refusal("too long", 400, "context_length_exceeded"),
]

REFUSED = {  # prompt -> code, status, retry_after
    "flood": ("upstream_busy", 503, 1),
    "limit": ("upstream_busy", 503, 7),
    "overload": ("upstream_busy", 503, 5),  # our advice where the upstream gives none
    "quota": ("upstream_rejected", 502, None),
    "too long": ("upstream_rejected", 400, None),
    "a prompt without a fixture": ("upstream_rejected", 502, None),
    "locked": ("upstream_auth", 502, None),
    "crash": ("upstream_failed", 502, None),
    "malformed": ("upstream_invalid", 502, None),
}


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    with Aimock(FIXTURES, tmp_path_factory.mktemp("aimock")) as server:
        yield server


@pytest.fixture(scope="module")
def relay(aimock: Aimock) -> Iterator[Relay]:
    with live.relay(**settings(aimock)) as server:
        yield server


@pytest.mark.parametrize("format_name", clients.ACCEPT)
def test_characters_cut_in_halves_arrive_whole(aimock: Aimock, relay: Relay, format_name: str) -> None:
    before = len(aimock.calls("emoji"))
    relayed = ask(relay, "emoji", format_name)
    assert relayed.end["reason"] == "done"
    assert len(aimock.calls("emoji")) == before + 1
    assert relayed.text == SPLIT == ask_directly(aimock, "emoji").text


def test_thinking_comes_apart_from_the_answer(aimock: Aimock, relay: Relay) -> None:
    relayed, direct = ask(relay, "think"), ask_directly(aimock, "think")
    assert (relayed.text, relayed.reasoning) == (direct.text, direct.reasoning) == ("好👌", "嗯🤔…")


def test_a_tool_call_comes_whole(aimock: Aimock, relay: Relay) -> None:
    relayed, direct = ask(relay, "tool"), ask_directly(aimock, "tool")
    assert relayed.tool_calls == direct.tool_calls == [("weather", ARGUMENTS)]
    assert relayed.finish == direct.finish == "tool_calls"


def test_the_upstreams_own_count_is_passed_on(aimock: Aimock, relay: Relay) -> None:
    relayed, direct = ask(relay, "emoji"), ask_directly(aimock, "emoji")
    assert direct.usage
    assert relayed.end["usage"] == {**direct.usage, "exact": True, "details": direct.usage}


def test_a_filtered_answer_says_so(relay: Relay) -> None:
    relayed = ask(relay, "filtered")
    assert (relayed.end["reason"], relayed.finish) == ("done", "content_filter")


def test_a_second_turn_sends_the_first_along(aimock: Aimock, relay: Relay) -> None:
    first = ask(relay, "turn one")
    second = ask(relay, "turn two", conversation_id=first.conversation_id)
    assert second.text == "第二 2️⃣"
    (call,) = aimock.calls("turn two")
    assert [(message["role"], message["content"]) for message in call["messages"]] == [
        ("user", "turn one"),
        ("assistant", "第一 1️⃣"),
        ("user", "turn two"),
    ]


def test_many_at_once_each_get_their_own(relay: Relay) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: ask(relay, f"crowd {number:02}"), range(20)))
    assert [answer.text for answer in answers] == [f"{number} 号 🚀 " * 30 for number in range(20)]


@pytest.mark.parametrize("format_name", clients.ACCEPT)
def test_a_cut_answer_is_no_success_in_any_format(aimock: Aimock, relay: Relay, format_name: str) -> None:
    before = len(aimock.calls("cut"))
    with post(relay, format_name, {"prompt": "cut"}) as response:
        if format_name == "text":
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                response.content  # noqa: B018
        elif format_name == "json":
            assert response.status_code == 502
            assert_cut(clients.relayed(response.json()), CUT)
        else:
            assert_cut(clients.relayed(clients.fold(clients.events(response))), CUT)
    assert_cut(clients.whole_run(relay, response.headers["X-Run-Id"]), CUT)
    assert len(aimock.calls("cut")) == before + 1


def test_a_dropped_connection_keeps_what_had_come(aimock: Aimock, relay: Relay) -> None:
    relayed = ask(relay, "disconnect")
    assert 0 < len(relayed.text) < len(LONG)
    assert_cut(relayed, LONG[: len(relayed.text)])
    assert len(aimock.calls("disconnect")) == 1


def test_a_connection_dropped_before_the_first_byte(aimock: Aimock) -> None:
    """A relay of its own: on a kept connection, which may have been dead before, the call is made once more."""
    with live.relay(**settings(aimock)) as fresh:
        assert_cut(ask(fresh, "nothing"), "")
    assert len(aimock.calls("nothing")) == 1


def test_silence_has_an_end(aimock: Aimock) -> None:
    with live.relay(**settings(aimock, IDLE_TIMEOUT_SECONDS="1")) as impatient:
        relayed = ask(impatient, "silence")
    assert (relayed.end["reason"], relayed.code) == ("error", "upstream_timeout")
    assert LONG.startswith(relayed.text)
    assert len(aimock.calls("silence")) == 1


@pytest.mark.parametrize("prompt", REFUSED)
def test_a_refusal_is_named_and_costs_one_call(aimock: Aimock, relay: Relay, prompt: str) -> None:
    code, status, retry_after = REFUSED[prompt]
    ask(relay, "filtered")  # one that succeeds: many failures in a row would keep the relay from calling at all
    with post(relay, "json", {"prompt": prompt}) as response:
        relayed = clients.relayed(response.json())
    error = relayed.end["error"]
    assert (relayed.end["reason"], error["code"], error["status"]) == ("error", code, status)
    assert error["retry_after"] == retry_after
    assert response.status_code == status
    assert response.headers.get("Retry-After") == (retry_after and str(retry_after))
    assert "secret detail" not in response.text  # upstream texts leak
    assert len(aimock.calls(prompt)) == 1


def test_a_busy_server_is_asked_again(aimock: Aimock) -> None:
    with live.relay(**settings(aimock, MAX_TRIES="3")) as patient:
        with post(patient, "sse", {"prompt": "recovers"}) as response:
            seen = list(clients.events(response))
    assert [event["tries"] for event in seen if event["type"] == "upstream"] == [2]
    assert clients.relayed(clients.fold(seen)).text == SPLIT
    assert len(aimock.calls("recovers")) == 2


def test_a_server_that_keeps_failing_is_left_alone(aimock: Aimock) -> None:
    with live.relay(**settings(aimock)) as relay:
        codes = [ask(relay, "broken for good").code for _ in range(6)]
    assert codes == ["upstream_failed"] * 5 + ["upstream_busy"]
    assert len(aimock.calls("broken for good")) == 5


def assert_cut(relayed: clients.Relayed, text: str) -> None:
    """Assert that a run was cut off after this text."""
    assert (relayed.end["reason"], relayed.code, relayed.finish) == ("error", "upstream_truncated", None)
    assert relayed.text == text
    assert relayed.end["usage"]["exact"] is False
