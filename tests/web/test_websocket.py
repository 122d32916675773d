"""`GET /ws` of a live relay: many turns and runs on one socket, the same runs over HTTP, and what is refused how."""

import json
import queue
import socket
import threading
import zlib
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from websocket import ABNF

from tests.live import Call, Relay, ScriptedUpstream, relay, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import request
from tests.web.ws_client import Client, connected, masked, text_of

ANSWER = "你好 👋"
NOWHERE = "x" * 26  # has the form of a run's id


@pytest.fixture
def ws(server: Relay) -> Any:
    with connected(server) as client:
        yield client


def held(call: Call) -> None:
    """A token, then silence until the relay hangs up."""
    call.start()
    call.chunk(token_chunk("a"))
    call.await_close()


def log_over_http(server: Relay, run_id: str) -> list[dict[str, Any]]:
    """Return the events of an ended run."""
    with request(f"{server.url}/runs/{run_id}/events?format=ndjson") as response:
        lines = [json.loads(line) for line in response.body().splitlines()]
    return [line for line in lines if line != {"type": "ping"}]


def begin_over_http(server: Relay, **ask: object) -> str:
    return requests.post(f"{server.url}/runs", json={"prompt": "hi", **ask}, timeout=20).json()["run_id"]


# -- asking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["question 1", 7, None, " \u2028\1\"', 👋"])
def test_an_answer_is_the_runs_log_with_its_id_and_the_askers_ref(
    ref: str | int | None, ws: Client, server: Relay, upstream: ScriptedUpstream
) -> None:
    ws.say(type="ask", prompt="hi", **({} if ref is None else {"ref": ref}))
    frames = ws.frames()
    run_id = frames[0]["run_id"]
    assert frames == [{"run_id": run_id, "ref": ref, **event} for event in log_over_http(server, run_id)]
    assert (text_of(frames), frames[0]["type"], frames[-1]["reason"]) == (ANSWER, "start", "done")
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert len(upstream.calls) == 1


def test_every_character_arrives(ws: Client, upstream: ScriptedUpstream) -> None:
    texts = ["\u2028", "\u0085", "\0", "\r\n", "\ufeff", "x" * 1_000_000, "好" * 30_000, "x" * 70]

    def script(call: Call) -> None:
        call.start()
        for text in texts:
            call.chunk(token_chunk(text))
        for half in (rb"\ud83d", rb"\udca7"):
            call.chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % half)
        call.chunk(FINISH + DONE)
        call.finish()

    upstream.script = script
    ws.say(type="ask", prompt="hi")
    frames = ws.frames()
    assert [frame["text"] for frame in frames if frame["type"] == "token"] == [*texts, "💧"]
    data = text_of(frames).encode()
    assert frames[-1]["digest"] == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}


def turns(upstream: ScriptedUpstream) -> list[list[str]]:
    """Return the messages of each call that reached the upstream."""
    return [[message["content"] for message in json.loads(call.body)["messages"]] for call in upstream.calls]


def ask(ws: Client, **message: object) -> list[dict[str, Any]]:
    ws.say(type="ask", **message)
    return ws.frames()


def test_an_ask_goes_on_with_the_sockets_conversation(ws: Client, server: Relay, upstream: ScriptedUpstream) -> None:
    first = ask(ws, prompt="1")[0]["conversation_id"]
    assert ask(ws, prompt="2")[0]["conversation_id"] == first
    assert ask(ws, prompt="2b", replace_last=True)[0]["conversation_id"] == first
    assert ask(ws, messages=[{"role": "user", "content": "beside"}])[0]["conversation_id"] is None
    second = ask(ws, prompt="3", conversation_id=None)[0]["conversation_id"]
    ask(ws, prompt="4")
    ask(ws, prompt="5", conversation_id=first)
    ask(ws, prompt="6")
    with connected(server) as other:
        assert ask(other, prompt="7")[0]["conversation_id"] not in {first, second}
    assert turns(upstream) == [
        ["1"],
        ["1", ANSWER, "2"],
        ["1", ANSWER, "2b"],
        ["beside"],
        ["3"],
        ["3", ANSWER, "4"],
        ["1", ANSWER, "2b", ANSWER, "5"],
        ["1", ANSWER, "2b", ANSWER, "5", ANSWER, "6"],
        ["7"],
    ]


def test_tokens_wait_for_each_other_where_that_is_asked(ws: Client, server: Relay, upstream: ScriptedUpstream) -> None:
    steps: queue.Queue[bytes] = queue.Queue()

    def script(call: Call) -> None:
        call.start()
        while chunk := steps.get(timeout=20):
            call.chunk(chunk)
        call.finish()

    upstream.script = script
    steps.put(token_chunk("1"))
    ws.say(type="ask", prompt="hi", flush_ms=5000)
    run_id = ws.frames("token")[0]["run_id"]
    with connected(server) as other:
        other.say(type="follow", run_id=run_id, flush_ms=0)
        other.frames("token")
        steps.put(token_chunk("2"))
        assert other.frame()["text"] == "2"  # it is in the log
        assert ws.answer(type="ping")["type"] == "pong"
        steps.put(FINISH + DONE)
        steps.put(b"")
        assert [frame["type"] for frame in ws.frames()] == ["token", "end"]
        other.frames()


def test_large_frames_of_several_runs_do_not_mix(server: Relay, upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        call.start()
        letter = json.loads(call.body)["messages"][0]["content"]
        for _ in range(3):
            call.chunk(token_chunk(letter * 500_000))
        call.chunk(FINISH + DONE)
        call.finish()

    upstream.script = script
    with connected(server, sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]) as ws:
        for letter in "abc":
            ws.say(type="ask", ref=letter, prompt=letter, conversation_id=None)
        ws.library.ping("x")  # its answer too has to wait for a frame's end
        frames: list[dict[str, Any]] = []
        while [frame["type"] for frame in frames].count("end") < 3:
            frames.append(ws.frame())
    for letter in "abc":
        assert text_of([frame for frame in frames if frame["ref"] == letter]) == letter * 1_500_000


def test_after_a_first_turn_that_failed_the_next_ask_begins_a_new_conversation(
    ws: Client, upstream: ScriptedUpstream
) -> None:
    upstream.script = lambda call: (call.start(), call.chunk(token_chunk("half")), call.finish())
    failed = ask(ws, prompt="1")
    assert failed[-1]["error"]["code"] == "upstream_truncated"
    assert ask(ws, prompt="2", replace_last=True)[0]["conversation_id"] != failed[0]["conversation_id"]
    refused = ws.answer(type="ask", prompt="3", conversation_id=failed[0]["conversation_id"])
    assert refused["error"]["code"] == "conversation_not_found"  # this one was named


def test_several_runs_go_on_at_once_and_one_conversation_answers_one_question_at_a_time(
    ws: Client, upstream: ScriptedUpstream
) -> None:
    steps: dict[str, queue.Queue[bytes]] = {name: queue.Queue() for name in "ab"}

    def script(call: Call) -> None:
        call.start()
        step = steps[json.loads(call.body)["messages"][0]["content"]]
        while chunk := step.get(timeout=20):
            call.chunk(chunk)
        call.finish()

    upstream.script = script
    ws.say(type="ask", ref="a", prompt="a")
    assert ws.frame()["type"] == "start"
    busy = ws.answer(type="ask", ref="b", prompt="b") if ws.frame()["type"] == "upstream" else {}
    assert (busy["ref"], busy["error"]["code"]) == ("b", "conversation_busy")
    ws.say(type="ask", ref="b", prompt="b", conversation_id=None)
    assert [ws.frame()["ref"], ws.frame()["ref"]] == ["b", "b"]
    for number in range(3):
        for name in "ab":
            steps[name].put(token_chunk(f"{name}{number} "))
            frame = ws.frame()
            assert (frame["ref"], frame["text"]) == (name, f"{name}{number} ")
    for name in "ba":
        steps[name].put(FINISH + DONE)
        steps[name].put(b"")
        assert [frame["ref"] for frame in ws.frames()] == [name]
    assert len(upstream.calls) == 2


def test_a_repeated_key_starts_nothing_new(ws: Client, server: Relay, upstream: ScriptedUpstream) -> None:
    message = {"prompt": "hi", "idempotency_key": "key of the socket test"}
    once = ask(ws, ref=1, **message)
    again = ask(ws, ref=2, **message)  # although the socket has a conversation by now
    with connected(server) as other:
        elsewhere = ask(other, ref=1, **message)
        mismatch = other.answer(type="ask", **(message | {"prompt": "another"}))
    assert once == elsewhere == [frame | {"ref": 1} for frame in again]
    assert (mismatch["error"]["code"], mismatch["error"]["status"]) == ("idempotency_mismatch", 422)
    assert len(upstream.calls) == 1


def test_a_thousand_asks_at_once_are_all_answered(ws: Client, server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    ask = {"type": "ask", "prompt": "hi", "conversation_id": None, "on_disconnect": "cancel"}
    ws.raw(b"".join(masked(json.dumps({**ask, "ref": number})) for number in range(1000)))
    answers: dict[int, dict[str, Any]] = {}
    while len(answers) < 1000:
        frame = ws.frame()
        if frame["type"] in {"start", "refused"}:
            assert frame["ref"] not in answers
            answers[frame["ref"]] = frame
    refused = [frame["error"] for frame in answers.values() if frame["type"] == "refused"]
    assert len(refused) == 900
    assert {(error["code"], error["status"], error["retryable"]) for error in refused} == {("too_many_runs", 503, True)}
    assert all(error["retry_after"] > 0 for error in refused)
    assert ws.answer(type="follow", run_id=answers[0]["run_id"])["type"] in {"refused", "upstream", "token"}
    with connected(server) as other:  # what one socket may have takes nothing from another
        assert other.answer(type="follow", run_id=answers[0]["run_id"])["type"] == "start"
    assert server.counts()["unfinished"] == 100
    ws.cut()
    wait_until(lambda: len(upstream.calls) == 100, "every run has called")  # the next test gets none of them


# -- following and stopping --------------------------------------------------------------------------------------------


def test_a_run_can_be_cut_and_followed_crosswise_and_misses_nothing(server: Relay, upstream: ScriptedUpstream) -> None:
    texts = [f"{number} 好👋\u2028" for number in range(12)]
    steps: queue.Queue[str] = queue.Queue()

    def script(call: Call) -> None:
        call.start()
        for _ in texts:
            call.chunk(token_chunk(steps.get(timeout=20)))
        steps.get(timeout=20)
        call.chunk(FINISH + DONE)
        call.finish()

    upstream.script = script
    run_id = begin_over_http(server)
    seen: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        steps.put(text)
        after = seen[-1]["seq"] if seen else 0
        if number % 3 == 2:
            with request(f"{server.url}/runs/{run_id}/events?format=ndjson&after={after}") as response:
                body = b""
                while text.encode() not in body:
                    body += next(response.chunks())
            lines = [json.loads(line) for line in body.split(b"\n") if line and b'"seq"' in line]
            seen += [{"run_id": run_id, "ref": None, **line} for line in lines]
        else:
            with connected(server) as ws:
                ws.say(type="follow", run_id=run_id, after=f"{run_id}.{after}" if number % 2 else after)
                frames = ws.frames("token")
                while frames[-1].get("text") != text:
                    frames += ws.frames("token")
                seen += frames
                ws.cut()
    with connected(server) as ws:
        ws.say(type="follow", run_id=run_id, after=str(seen[-1]["seq"]))
        steps.put("")
        seen += ws.frames()
    assert [frame["seq"] for frame in seen] == list(range(1, len(seen) + 1))
    assert text_of(seen) == "".join(texts)
    assert [frame["type"] for frame in seen].count("end") == 1
    assert len(upstream.calls) == 1


def test_one_socket_asks_another_follows_a_third_stops(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    with connected(server) as asking, connected(server) as following, connected(server) as stopping:
        asking.say(type="ask", ref="asked", prompt="hi")
        run_id = asking.frames("token")[0]["run_id"]
        following.say(type="follow", ref="followed", run_id=run_id)
        following.frames("token")
        end = stopping.answer(type="stop", ref="stopped", run_id=run_id)
        assert (end["reason"], end["upstream_stop"]) == ("stopped", "closed")
        assert asking.frame() == {**end, "ref": "asked"}
        assert following.frame() == {**end, "ref": "followed"}
        assert following.answer(type="stop", ref="again", run_id=run_id) == {**end, "ref": "again"}
        assert stopping.answer(type="ping") == {"run_id": None, "ref": None, "type": "pong"}  # no second end
        assert upstream.next_call().closed.wait(10)


def test_who_follows_a_run_gets_one_end_when_it_stops_it(ws: Client, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    ws.say(type="ask", ref=1, prompt="hi")
    run_id = ws.frames("token")[0]["run_id"]
    stops = [masked(json.dumps({"type": "stop", "ref": ref, "run_id": run_id})) for ref in (2, 3)]
    ws.raw(b"".join(stops))  # in one write: a stop that comes behind the end is answered with it again
    end = ws.frame()
    assert (end["ref"], end["type"], end["reason"]) == (1, "end", "stopped")
    assert ws.answer(type="ping", ref=4)["ref"] == 4


@pytest.mark.parametrize("after", [4, 5, "5", "{run_id}.5", 10**14])
def test_following_past_the_end_says_so(after: int | str, ws: Client, upstream: ScriptedUpstream) -> None:
    frames = ask(ws, prompt="hi")
    run_id, last = frames[0]["run_id"], frames[-1]["seq"]
    assert last == 5
    after = after.format(run_id=run_id) if isinstance(after, str) else after
    answer = ws.answer(type="follow", ref="f", run_id=run_id, after=after)
    ended = {"run_id": run_id, "ref": "f", "type": "ended"}
    assert answer == (ended if after != 4 else {**frames[-1], "ref": "f"})


@pytest.mark.parametrize(
    "after", [-1, 6, "-1", "x", "1e1", "٣", "1" * 16, 10**17, "other.3", f"{NOWHERE}.1", ".1"], ids=str
)
def test_a_bad_cursor_is_refused(after: int | str, ws: Client, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    ws.say(type="ask", prompt="hi", on_disconnect="cancel")
    run_id = ws.frames("token")[0]["run_id"]
    refused = ws.answer(type="follow", ref=1, run_id=run_id, after=after)
    assert (refused["type"], refused["ref"], refused["run_id"]) == ("refused", 1, run_id)
    assert refused["error"]["code"] == "bad_cursor"
    ws.say(type="stop", run_id=run_id)
    assert ws.frame()["reason"] == "stopped"  # nothing in between


def test_a_run_is_left_when_its_socket_goes_even_in_silence(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    for how in ("close", "reset"):
        with connected(server) as asking, connected(server) as following:
            asking.say(type="ask", prompt="hi", on_disconnect="cancel")
            run_id = asking.frames("token")[0]["run_id"]
            following.say(type="follow", run_id=run_id)
            following.frames("token")
            call = upstream.next_call()
            asking.library.close() if how == "close" else asking.cut()
            assert following.answer(type="ping")["type"] == "pong"
            assert not call.closed.wait(0.3)  # somebody is left
            following.library.sock.close() if how == "close" else following.cut()
            assert call.closed.wait(10)
        end = requests.get(f"{server.url}/runs/{run_id}", timeout=20).json()["end"]
        assert (end["reason"], end["upstream_stop"]) == ("abandoned", "closed")


def test_what_a_client_said_just_before_it_left_is_done(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    run_id = begin_over_http(server, on_disconnect="finish")
    call = upstream.next_call()
    with connected(server) as ws:
        ws.raw(masked(json.dumps({"type": "stop", "run_id": run_id})) + masked(b"\x03\xe8", ABNF.OPCODE_CLOSE))
        assert call.closed.wait(10)


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no type": ({"prompt": "hi"}, "bad_request", "'type'"),
    "unknown type": ({"type": "subscribe"}, "bad_request", "ask, follow, stop, ping"),
    "type of another type": ({"type": ["ask"]}, "bad_request", "'type'"),
    "no question": ({"type": "ask"}, "bad_request", "'prompt' is missing"),
    "empty question": ({"type": "ask", "prompt": " "}, "bad_request", "'prompt' is empty"),
    "question of another type": ({"type": "ask", "prompt": 1}, "bad_request", "'prompt'"),
    "misspelt field": ({"type": "ask", "promt": "hi"}, "bad_request", "did you mean 'prompt'?"),
    "blocking": ({"type": "ask", "prompt": "hi", "response_mode": "blocking"}, "bad_request", "'response_mode'"),
    "flush for ever": ({"type": "ask", "prompt": "hi", "flush_ms": 10**6}, "bad_request", "'flush_ms'"),
    "unknown upstream": ({"type": "ask", "prompt": "hi", "upstream": "no"}, "unknown_upstream", "openai"),
    "unknown conversation": ({"type": "ask", "prompt": "hi", "conversation_id": "no"}, "conversation_not_found", ""),
    "nothing to replace": ({"type": "ask", "prompt": "hi", "replace_last": True}, "bad_request", "conversation_id"),
    "follow nothing": ({"type": "follow"}, "bad_request", "run_id"),
    "follow a number": ({"type": "follow", "run_id": 1}, "bad_request", "'run_id'"),
    "follow what never was": ({"type": "follow", "run_id": "no"}, "run_not_found", ""),
    "follow another's": ({"type": "follow", "run_id": NOWHERE}, "other_instance", "REDIS_URL"),
    "follow from a flag": ({"type": "follow", "run_id": NOWHERE, "after": True}, "bad_request", "'after'"),
    "follow from a fraction": ({"type": "follow", "run_id": NOWHERE, "after": 1.5}, "bad_request", "'after'"),
    "unknown field": ({"type": "follow", "run_id": NOWHERE, "from": 1}, "bad_request", "from"),
    "stop nothing": ({"type": "stop"}, "bad_request", "run_id"),
    "stop what never was": ({"type": "stop", "run_id": "no"}, "run_not_found", ""),
    "stop with more": ({"type": "stop", "run_id": NOWHERE, "after": 1}, "bad_request", "after"),
    "ping with more": ({"type": "ping", "data": 1}, "bad_request", "data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_message_is_refused_and_the_socket_stays(case: str, ws: Client, upstream: ScriptedUpstream) -> None:
    message, code, word = REFUSED[case]
    refused = ws.answer(ref=case, **message)
    assert (refused["type"], refused["ref"], refused["error"]["code"]) == ("refused", case, code)
    assert word in refused["error"]["message"]
    assert ws.answer(type="ping")["type"] == "pong"
    assert upstream.calls == []


@pytest.mark.parametrize("ref", [[], {}, True, 1.5, 2**60, "x" * 129])
def test_a_ref_that_is_none_is_refused(ref: Any, ws: Client, upstream: ScriptedUpstream) -> None:
    refused = ws.answer(type="ask", prompt="hi", ref=ref)
    assert (refused["type"], refused["ref"], refused["error"]["code"]) == ("refused", None, "bad_request")
    assert "'ref'" in refused["error"]["message"]
    assert upstream.calls == []


@pytest.mark.parametrize("text", [r'{"type":"ask","ref":1,"prompt":"\ud83d"}', '{"type":"ask","ref":1,"prompt":NaN}'])
def test_json_that_cannot_be_passed_on_is_refused(text: str, ws: Client, upstream: ScriptedUpstream) -> None:
    ws.library.send(text)
    refused = ws.frame()
    assert (refused["type"], refused["ref"], refused["error"]["code"]) == ("refused", 1, "bad_request")
    assert upstream.calls == []


@pytest.mark.parametrize("text", ["", "hi", "{", "[]", "null", '"ask"', "{}{}", '{"a":' * 100_000, "\ufeff{}"])
def test_what_is_no_json_object_closes_the_socket(text: str, ws: Client, upstream: ScriptedUpstream) -> None:
    ws.raw(masked(text) + masked('{"type":"ask","prompt":"what comes behind it is not heard"}'))
    assert ws.closed() == 4400
    assert upstream.calls == []


def test_who_is_sent_away_may_come_back_to_its_run(ws: Client, server: Relay, upstream: ScriptedUpstream) -> None:
    """`cancel` is for clients that leave; this one was closed by us."""
    upstream.script = held
    ws.say(type="ask", prompt="hi", on_disconnect="cancel")
    run_id = ws.frames("token")[0]["run_id"]
    ws.library.send("no JSON")
    assert ws.closed() == 4400
    assert not upstream.next_call().closed.wait(0.3)
    with connected(server) as back:
        assert back.answer(type="stop", run_id=run_id)["reason"] == "stopped"


# -- the handshake -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["same", "SAME", "https, same host", None])
def test_own_pages_and_what_is_no_browser_are_welcome(origin: str | None, server: Relay) -> None:
    origins = {
        "same": server.url,
        "SAME": server.url.upper(),
        "https, same host": server.url.replace("http:", "https:"),
    }
    options = {"suppress_origin": True} if origin is None else {"suppress_origin": False, "origin": origins[origin]}
    with connected(server, **options) as ws:
        assert ws.answer(type="ping")["type"] == "pong"


def test_a_default_port_makes_no_other_origin(server: Relay) -> None:
    with connected(server, suppress_origin=False, host="chat.example", origin="https://chat.example:443") as ws:
        assert ws.answer(type="ping")["type"] == "pong"


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1:1", "http://{host}.evil.example", "http://x@[", "{host}"],
)
def test_other_pages_learn_that_they_are_not(origin: str, server: Relay, upstream: ScriptedUpstream) -> None:
    host = server.url.removeprefix("http://")
    with connected(server, suppress_origin=True, header=[f"Origin: {origin.format(host=host)}"]) as ws:
        ws.say(type="ask", prompt="hi")
        assert ws.closed() == 1008
    assert upstream.calls == []


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "a" * 24,
}
NO_HANDSHAKES = {
    "plain HTTP": ({}, "GET", 400),
    "another version": ({**UPGRADE, "Sec-WebSocket-Version": "8"}, "GET", 400),
    "no version": ({**UPGRADE, "Sec-WebSocket-Version": ""}, "GET", 400),
    "no key": ({name: value for name, value in UPGRADE.items() if name != "Sec-WebSocket-Key"}, "GET", 400),
    "a host that is none": ({**UPGRADE, "Host": "xn--a"}, "GET", 400),
    "POST": (UPGRADE, "POST", 405),
    "POST without an upgrade": ({}, "POST", 405),
}


@pytest.mark.parametrize("case", NO_HANDSHAKES)
def test_what_is_no_handshake_gets_a_clear_answer(case: str, server: Relay) -> None:
    headers, method, status = NO_HANDSHAKES[case]
    with request(f"{server.url}/ws", method, headers=headers) as response:
        assert (response.status, response.headers["content-type"]) == (status, "application/json")
        error = response.json()["error"]
        assert error["code"] == {400: "bad_request", 405: "method_not_allowed"}[status]
        assert status == 405 or "WebSocket" in error["message"]


def test_a_head_opens_nothing(server: Relay) -> None:
    with request(f"{server.url}/ws", "HEAD", headers=UPGRADE) as response:
        assert response.status == 400


def test_a_handshake_is_answered_with_the_requests_id(server: Relay) -> None:
    with connected(server, header={"X-Request-Id": "abc-1"}) as ws:
        assert ws.library.getheaders()["x-request-id"] == "abc-1"


def test_nothing_of_it_reaches_the_log(server: Relay, upstream: ScriptedUpstream) -> None:
    with connected(server) as ws:
        run_id = ask(ws, prompt="a secret of the socket test")[0]["run_id"]
        ws.answer(type="ask", prompt="a secret of the socket test", unknown="a secret of the socket test")
        ws.library.send("a secret of the socket test")
        assert ws.closed() == 4400
    log = server.log()
    assert "secret" not in log
    assert run_id not in log
    assert "Traceback" not in log
    assert "ERROR" not in log


# -- a deploy ----------------------------------------------------------------------------------------------------------


def test_idle_sockets_go_at_once_and_those_that_follow_a_run_when_it_has_ended(upstream: ScriptedUpstream) -> None:
    finish = threading.Event()

    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("first "))
        finish.wait(20)
        call.chunk(token_chunk("last") + FINISH + DONE)
        call.finish()

    upstream.script = script
    with relay(UPSTREAM="openai", UPSTREAM_URL=upstream.url, UPSTREAM_MODEL="m") as server, ExitStack() as sockets:
        fresh, used, asking, following = (sockets.enter_context(connected(server)) for _ in range(4))
        asking.say(type="ask", prompt="hi")
        run_id = asking.frames("token")[0]["run_id"]
        following.say(type="follow", run_id=run_id)
        following.frames("token")
        assert used.answer(type="ping")["type"] == "pong"
        server.process.terminate()
        assert (fresh.closed(), used.closed()) == (1012, 1012)
        refused = asking.answer(type="ask", ref=2, prompt="hi", conversation_id=None)
        assert (refused["ref"], refused["error"]["code"], refused["error"]["retryable"]) == (2, "draining", True)
        asking.say(type="follow", ref=3, run_id=run_id)  # a resume is refused to nobody
        assert {frame["ref"] for frame in asking.frames("token")} == {3}
        finish.set()
        for ws in (asking, following):
            frames = ws.frames()
            assert frames[-1]["reason"] == "done"
            assert ws.closed() == 1012
        assert server.process.wait(10) == 0
        assert "ERROR" not in server.log()
        assert "Traceback" not in server.log()
    assert len(upstream.calls) == 1


def test_at_the_windows_end_runs_are_interrupted_and_stuck_sockets_hold_nobody(upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("x" * 1_000_000))
        call.await_close()

    upstream.script = script
    settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
    with relay(SHUTDOWN_GRACE_SECONDS="4", **settings) as server, ExitStack() as sockets:
        reader = sockets.enter_context(connected(server))
        stuck = sockets.enter_context(connected(server, sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]))
        for ws in (stuck, reader):
            ws.say(type="ask", prompt="hi")
        reader.frames("token")
        server.process.terminate()
        assert reader.frame()["reason"] == "interrupted"
        assert reader.closed() == 1012
        assert server.process.wait(10) == 0
        assert "ERROR" not in server.log()
        assert "Traceback" not in server.log()
