"""Coming back after a cut, as EventSource does it, and every way in which that can go wrong."""

import json
import queue

import pytest
import requests

from tests.live import Call, Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import Response, request, sse_events

TEXTS = ["早上", "好", "！\n\n", "☀️ ", "👨‍👩‍👧", " end"]


def paced(release: "queue.Queue[None]") -> object:
    """A script that sends one token for each thing put into `release`, then ends well."""

    def script(call: Call) -> None:
        call.start()
        for text in TEXTS:
            release.get(timeout=20)
            call.chunk(token_chunk(text))
        call.chunk(FINISH + DONE)
        call.finish()

    return script


def read_events(response: Response, count: int) -> list[tuple[str, str, dict[str, object]]]:
    """Read until `count` events have come, then cut."""
    events: list[tuple[str, str, dict[str, object]]] = []
    chunks = response.chunks()
    while len(events) < count:
        events += [(event.id, event.type, json.loads(event.data)) for event in sse_events(next(chunks))]
    response.close()
    return events


def test_eventsource_reconnects_to_stream_and_misses_nothing(server: Relay, upstream: ScriptedUpstream) -> None:
    release: queue.Queue[None] = queue.Queue()
    upstream.script = paced(release)  # type: ignore[assignment]
    url = f"{server.url}/stream?prompt=hi"
    seen = read_events(request(url), 1)  # cut right after the first bytes
    for _ in TEXTS:
        release.put(None)
        seen += read_events(request(url, headers={"Last-Event-ID": seen[-1][0]}), 1)
    while seen[-1][1] != "end":
        seen += read_events(request(url, headers={"Last-Event-ID": seen[-1][0]}), 1)
    assert [int(id_.rpartition(".")[2]) for id_, _, _ in seen] == list(range(1, len(seen) + 1))
    assert [data["text"] for _, type_, data in seen if type_ == "message"] == TEXTS
    with request(url, headers={"Last-Event-ID": seen[-1][0]}) as after_the_end:
        assert after_the_end.status == 204
    assert len(upstream.calls) == 1


def test_a_cursor_works_as_header_and_as_query_on_get_and_post(server: Relay, upstream: ScriptedUpstream) -> None:
    with request(f"{server.url}/stream?prompt=hi") as response:
        run_id = response.headers["x-run-id"]
        tail = response.body().split(f"id: {run_id}.3\n".encode())[1]
    cursor = f"{run_id}.3"
    for asked in (
        request(f"{server.url}/stream", headers={"Last-Event-ID": cursor}),
        request(f"{server.url}/stream?last_event_id={cursor}"),
        request(f"{server.url}/stream", "POST", json_body={}, headers={"Last-Event-ID": cursor}),
    ):
        with asked as resumed:
            assert tail.endswith(resumed.body().partition(f"id: {run_id}.4\n".encode())[2])
    assert len(upstream.calls) == 1


@pytest.fixture
def ended_run(server: Relay) -> tuple[str, int]:
    """A run that has ended, and its last seq."""
    with request(f"{server.url}/stream?prompt=hi&format=ndjson") as response:
        lines = response.body().splitlines()
        return response.headers["x-run-id"], json.loads(lines[-1])["seq"]


def test_the_larger_of_two_cursors_wins(server: Relay, ended_run: tuple[str, int]) -> None:
    run_id, last = ended_run
    url = f"{server.url}/runs/{run_id}/events"
    for after, header in (("1", str(last - 1)), (str(last - 1), "1"), (f"{run_id}.1", f"{run_id}.{last - 1}")):
        with request(f"{url}?after={after}", headers={"Last-Event-ID": header}) as response:
            assert [event.type for event in response.events()] == ["end"]


def test_a_covered_end_answers_204_over_sse_and_nothing_elsewhere(server: Relay, ended_run: tuple[str, int]) -> None:
    run_id, last = ended_run
    url = f"{server.url}/runs/{run_id}/events"
    for after in (last, last + 5):
        with request(f"{url}?after={after}") as sse:
            assert sse.status == 204
            assert "content-type" not in sse.headers
        for format_name in ("ndjson", "text"):
            with request(f"{url}?after={after}&format={format_name}") as other:
                assert (other.status, other.body(), other.complete) == (200, b"", True)


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "٣", "9" * 40, "aaaaaaaaaaaaaaaaaaaaaaaaaa.1", ".", "1e3"])
def test_a_bad_cursor_is_refused(cursor: str, server: Relay, ended_run: tuple[str, int]) -> None:
    answer = requests.get(f"{server.url}/runs/{ended_run[0]}/events", params={"after": cursor}, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_cursor")


@pytest.mark.parametrize("cursor", ["3", "x", "x.3", ".3", "a" * 26 + ".", "a" * 26 + ".x", "-" + "a" * 25 + ".3"])
def test_on_stream_a_cursor_must_name_its_run(cursor: str, server: Relay, upstream: ScriptedUpstream) -> None:
    answer = requests.get(f"{server.url}/stream?prompt=hi", headers={"Last-Event-ID": cursor}, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_cursor")
    assert upstream.calls == []


def test_a_cursor_beyond_a_live_log_is_refused(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = lambda call: call.await_close()
    with request(f"{server.url}/stream?prompt=hi&on_disconnect=cancel") as response:
        run_id = response.headers["x-run-id"]
        upstream.next_call()
        for url in (f"/runs/{run_id}/events?after=99", f"/stream?last_event_id={run_id}.99"):
            assert requests.get(server.url + url, timeout=20).json()["error"]["code"] == "bad_cursor"


def test_a_lost_run_ends_interrupted_once_and_then_204(server: Relay, upstream: ScriptedUpstream) -> None:
    run_id = "a" * 26
    with request(f"{server.url}/stream?prompt=hi", headers={"Last-Event-ID": f"{run_id}.7"}) as response:
        assert response.status == 200
        (event,) = response.events()
    end = json.loads(event.data)
    assert (event.type, event.id, end["reason"]) == ("end", f"{run_id}.1000007", "interrupted")
    assert (end["usage"], end["digest"], end["timing"]) == (None, None, None)
    with request(f"{server.url}/stream?prompt=hi", headers={"Last-Event-ID": event.id}) as again:
        assert again.status == 204
    with request(f"{server.url}/stream?format=text", headers={"Last-Event-ID": f"{run_id}.7"}) as text:
        assert (text.status, text.json()["error"]["code"]) == (404, "other_instance")
    assert upstream.calls == []


def test_an_expired_run_is_410_and_its_stream_ends(upstream: ScriptedUpstream) -> None:
    settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "RUN_TTL_SECONDS": "0.1"}
    with relay(**settings) as server:
        with request(f"{server.url}/stream?prompt=hi") as response:
            run_id = response.headers["x-run-id"]
            response.body()
        wait_until(lambda: server.counts()["ended"] == 0, "the run expired")
        for path in ("", "/events", "/stop"):
            method = "POST" if path == "/stop" else "GET"
            with request(f"{server.url}/runs/{run_id}{path}", method) as gone:
                assert (gone.status, gone.json()["error"]["code"]) == (410, "run_expired")
        with request(f"{server.url}/stream", headers={"Last-Event-ID": f"{run_id}.2"}) as lost:
            assert json.loads(lost.events()[-1].data)["reason"] == "interrupted"


def test_a_stream_is_rolled_over_with_a_proper_end_and_text_is_not() -> None:
    with scripted(lambda call: (call.start(), call.chunk(token_chunk("a")), call.await_close())) as upstream:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
        with relay(STREAM_MAX_SECONDS="0.3", HEARTBEAT_SECONDS="0.1", **settings) as server:
            with request(f"{server.url}/stream?prompt=hi") as response:
                events = response.events()
                assert response.complete
                assert [event.type for event in events] == ["start", "upstream", "message"]
            url = f"{server.url}/runs/{response.headers['x-run-id']}"
            with request(f"{url}/events?format=text") as text, request(f"{url}/events?format=ndjson") as ndjson:
                assert ndjson.body().endswith(b"\n")
                assert ndjson.complete
                requests.post(f"{url}/stop", timeout=20)
                assert (text.body(), text.complete) == (b"a", True)
            assert len(upstream.calls) == 1


def test_a_client_that_leaves_ends_a_run_that_was_asked_to_cancel(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = lambda call: (call.start(), call.chunk(token_chunk("a")), call.await_close())
    with request(f"{server.url}/stream?prompt=hi&on_disconnect=cancel") as response:
        next(response.chunks())
        call = upstream.next_call()
        run_id = response.headers["x-run-id"]
    assert call.closed.wait(10)  # the next heartbeat finds the connection closed
    end = requests.get(f"{server.url}/runs/{run_id}", timeout=20).json()["end"]
    assert (end["reason"], end["upstream_stop"]) == ("abandoned", "closed")
