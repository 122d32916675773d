"""Somebody's trace goes on at the upstream, whatever it is called for."""

import json
import queue

import pytest
import requests
from websocket import create_connection

from tests.live import Call, Relay, ScriptedUpstream, relay, scripted
from tests.scripted_dify import Dify, as_json, event
from tests.web.conftest import quick

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "congo=t61rcWkgMzE"}


def span_told_to(call: Call) -> str:
    """Return our part of the trace, as the upstream was told it."""
    version, trace_id, span_id, flags = call.headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert call.headers["tracestate"] == HEADERS["tracestate"]
    assert span_id != PARENT
    assert len(span_id) == 16
    return span_id


def test_each_run_is_a_part_of_its_own(server: Relay, upstream: ScriptedUpstream) -> None:
    for _ in range(2):
        requests.get(f"{server.url}/stream?prompt=x", headers=HEADERS, timeout=20)
    assert len({span_told_to(upstream.next_call()) for _ in range(2)}) == 2


def test_over_a_websocket_too(server: Relay, upstream: ScriptedUpstream) -> None:
    given = [f"{name}: {value}" for name, value in HEADERS.items()]
    socket = create_connection(server.url.replace("http", "ws") + "/ws", header=given, timeout=20)
    for _ in range(2):
        socket.send(json.dumps({"type": "ask", "prompt": "x"}))
        while json.loads(socket.recv())["type"] != "end":
            pass
    socket.close()
    assert len({span_told_to(upstream.next_call()) for _ in range(2)}) == 2


def test_every_try_tells_it() -> None:
    answers = iter([lambda call: call.answer(503, b"{}", "Retry-After: 0"), quick])
    with scripted(lambda call: next(answers)(call)) as upstream:
        with relay(UPSTREAM="openai", UPSTREAM_URL=upstream.url, UPSTREAM_MODEL="m") as server:
            answer = requests.post(f"{server.url}/chat", json={"prompt": "x"}, headers=HEADERS, timeout=20)
            assert answer.json()["end"]["reason"] == "done"
        assert len({span_told_to(call) for call in upstream.calls}) == 1
        assert len(upstream.calls) == 2


@pytest.mark.parametrize("traceparent", ["", "00-x", f"00-{TRACE}-{'0' * 16}-01"])
def test_no_trace_is_made_up(server: Relay, upstream: ScriptedUpstream, traceparent: str) -> None:
    headers = {**HEADERS, "traceparent": traceparent}
    requests.get(f"{server.url}/stream?prompt=x", headers=headers, timeout=20)
    told = upstream.next_call().headers
    assert "traceparent" not in told
    assert "tracestate" not in told


def test_difys_other_calls_belong_to_it(dify_server: Relay, dify: Dify) -> None:
    answer = requests.post(f"{dify_server.url}/chat", json={"prompt": "x"}, headers=HEADERS, timeout=20)
    run = f"{dify_server.url}/runs/{answer.json()['run_id']}"
    assert requests.post(f"{run}/feedback", json={"rating": "like"}, headers=HEADERS, timeout=20).ok
    form = {"file": ("a.png", b"x")}
    assert requests.post(f"{dify_server.url}/files", files=form, headers=HEADERS, timeout=20).ok
    for route in ("chat-messages", "feedbacks", "upload"):
        span_told_to(dify.arrived[route].get(timeout=20))


def test_difys_stop_belongs_to_the_run_that_it_stops(dify_server: Relay, dify: Dify) -> None:
    stopped: queue.Queue[None] = queue.Queue()

    def answer(call: Call) -> None:
        call.start()
        call.chunk(event("message", answer="x"))
        stopped.get(timeout=20)
        call.chunk(event("message_end", metadata={}))
        call.finish()

    def stop(call: Call) -> None:
        stopped.put(None)
        as_json(call, 200, {"result": "success"})

    dify.routes |= {"chat-messages": answer, "stop": stop}
    dify.arrived["stop"] = queue.Queue()
    run_id = requests.post(f"{dify_server.url}/runs", json={"prompt": "x"}, headers=HEADERS, timeout=20).json()[
        "run_id"
    ]
    call = dify.arrived["chat-messages"].get(timeout=20)
    assert requests.post(f"{dify_server.url}/runs/{run_id}/stop", timeout=20).json()["upstream_stop"] == "confirmed"
    assert span_told_to(dify.arrived["stop"].get(timeout=20)) == span_told_to(call)
