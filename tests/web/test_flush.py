"""flush_ms on real sockets: who may set it, what it joins, what it never holds back. See also relay/test_cursor.py."""

import json
import queue
import time
import zlib
from collections.abc import Callable, Iterator

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.live import WAIT_SECONDS, Call, Relay, ScriptedUpstream, relay, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import Response, request, sse_events
from tests.web.conftest import quick
from tests.web.test_property import TEXTS, complete_events

LONGEST_MS = 5000


@pytest.fixture(scope="module")
def _holding(_upstream: ScriptedUpstream) -> Iterator[Relay]:
    names = {"UPSTREAM": "openai", "UPSTREAM_URL": _upstream.url, "UPSTREAM_MODEL": "m"}
    with relay(**names, FLUSH_MS=str(LONGEST_MS)) as server:
        yield server


@pytest.fixture
def holding(_holding: Relay, upstream: ScriptedUpstream) -> Iterator[Relay]:
    """A relay with the largest FLUSH_MS in front of `upstream`."""
    yield _holding
    upstream.script = quick  # what other fixtures expect
    wait_until(lambda: _holding.counts()["unfinished"] == 0, "every run has ended")


class Spoken:
    """An upstream's script: the test says the tokens, each one chunk; None ends well."""

    def __init__(self) -> None:
        self.say: queue.Queue[str | None] = queue.Queue()

    def __call__(self, call: Call) -> None:
        call.start()
        while (text := self.say.get(timeout=WAIT_SECONDS)) is not None:
            call.chunk(THOUGHT if text == "think" else token_chunk(text))
        call.chunk(FINISH + DONE)
        call.finish()


THOUGHT = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n'


def read_until(response: Response, text: bytes) -> None:
    """Read writes until one holds that text."""
    while text not in next(response.chunks()):
        pass


def await_event(server: Relay, run_id: str, seq: int) -> None:
    """Wait until the relay has logged that event: the next one is not part of the same reading."""

    def last_seq() -> int:
        with request(f"{server.url}/runs/{run_id}") as snapshot:
            return snapshot.json()["seq"]

    wait_until(lambda: last_seq() >= seq, f"event {seq} is logged")


def test_the_first_token_and_the_end_leave_at_once_and_what_is_between_leaves_together(
    holding: Relay, upstream: ScriptedUpstream
) -> None:
    begun = time.monotonic()
    for _ in range(5):
        upstream.script = script = Spoken()
        with request(f"{holding.url}/stream?prompt=hi") as response:
            script.say.put("think")
            read_until(response, b"hm")
            script.say.put("first")
            read_until(response, b"first")
            for number in range(10):
                script.say.put(f"{number} ")
                await_event(holding, response.headers["x-run-id"], 5 + number)
            script.say.put(None)
            writes = list(response.chunks())
            assert response.complete
        events = sse_events(b"".join(writes))
        assert "".join(json.loads(event.data)["text"] for event in events[:-1]) == "0 1 2 3 4 5 6 7 8 9 "
        assert events[-1].type == "end"
        assert len(writes) <= 3  # one, but on a machine that takes seconds for 10 tokens
    # Had the first token or the end of each run waited for its window, it would have been five windows at least.
    assert time.monotonic() - begun < 5 * LONGEST_MS / 1000


def ask_in_json(server: Relay) -> Response:
    return request(f"{server.url}/stream", "POST", json_body={"prompt": "hi", "flush_ms": 0})


def ask_in_a_form(server: Relay) -> Response:
    return request(f"{server.url}/stream", "POST", body=b"prompt=hi&flush_ms=0")


def ask_in_the_query(server: Relay) -> Response:
    return request(f"{server.url}/stream?prompt=hi&flush_ms=0")


def follow(server: Relay) -> Response:
    with request(f"{server.url}/runs", "POST", json_body={"prompt": "hi"}) as started:
        run_id = started.json()["run_id"]
    return request(f"{server.url}/runs/{run_id}/events?flush_ms=0")


def resume(server: Relay) -> Response:
    with request(f"{server.url}/runs", "POST", json_body={"prompt": "hi"}) as started:
        run_id = started.json()["run_id"]
    return request(f"{server.url}/stream?prompt=hi&flush_ms=0", headers={"Last-Event-ID": f"{run_id}.1"})


@pytest.mark.parametrize("ask", [ask_in_json, ask_in_a_form, ask_in_the_query, follow, resume])
def test_a_response_may_have_its_own(
    ask: Callable[[Relay], Response], holding: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.script = script = Spoken()
    with gevent.Timeout(WAIT_SECONDS), ask(holding) as response:  # held back, these would take 10 windows of 5 s
        for number in range(10):
            script.say.put(f"<{number}>")
            read_until(response, b"<%d>" % number)
        script.say.put(None)
        list(response.chunks())
        assert response.complete


@pytest.mark.parametrize("value", ["-1", "5001", "soon", "1.5", "0x10", "9" * 30])
def test_a_bad_one_is_refused_by_name(value: str, server: Relay, upstream: ScriptedUpstream) -> None:
    with request(f"{server.url}/runs", "POST", json_body={"prompt": "hi"}) as started:
        run_id = started.json()["run_id"]
    calls = len(upstream.calls)
    for target, headers in (
        (f"/runs/{run_id}/events?flush_ms={value}", {}),
        (f"/stream?flush_ms={value}", {"Last-Event-ID": f"{run_id}.1"}),
        (f"/stream?prompt=hi&flush_ms={value}", {}),
    ):
        with request(server.url + target, headers=headers) as response:
            assert response.status == 400
            error = response.json()["error"]
            assert (error["code"], "'flush_ms'" in error["message"]) == ("bad_request", True)
    wait_until(lambda: server.counts()["unfinished"] == 0, "the run has ended")
    assert len(upstream.calls) - calls <= 1  # the one that began here


VISITS = st.lists(
    st.tuples(st.sampled_from(["sse", "ndjson"]), st.sampled_from([0, 1, 2, 5, 40]), st.integers(1, 900)), max_size=8
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, visits=VISITS, last_ms=st.sampled_from([0, 3, 50]))
def test_whatever_waits_and_is_cut_nothing_is_lost_or_doubled(
    server: Relay, upstream: ScriptedUpstream, texts: list[str], visits: list[tuple[str, int, int]], last_ms: int
) -> None:
    def script(call: Call) -> None:
        call.start()
        for text in texts:
            call.chunk(token_chunk(text))
            gevent.sleep(0.001)  # so that windows open and close while somebody reads
        call.chunk(FINISH + DONE)
        call.finish()

    upstream.script = script
    with request(f"{server.url}/runs", "POST", json_body={"prompt": "hi"}) as started:
        url = f"{server.url}/runs/{started.json()['run_id']}/events"
    seen: list[tuple[int, str, dict[str, object]]] = []
    for format_, flush_ms, cut_after in [*visits, ("ndjson", last_ms, 0)]:
        after = seen[-1][0] if seen else 0
        with request(f"{url}?format={format_}&flush_ms={flush_ms}&after={after}") as response:
            data = b""
            for chunk in response.chunks() if response.status == 200 else ():
                data += chunk
                if cut_after and len(data) >= cut_after:
                    data = data[:cut_after]
                    break
            seen += complete_events(format_, data)
    said = "".join(str(fields["text"]) for _, type_, fields in seen if type_ == "token")
    assert said == "".join(texts)
    assert [seq for seq, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1:] == ("end", seen[-1][2])
    data = said.encode()
    assert seen[-1][2]["digest"] == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}
