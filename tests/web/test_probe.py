"""`/probe`: frames at known times, sent as every stream is, and at no upstream's cost."""

import json
from collections import Counter
from itertools import pairwise

import gevent
import pytest

from tests.live import Relay, ScriptedUpstream, relay, wait_until
from tests.web.client import request, sse_events


def test_frames_leave_one_by_one_in_the_headers_of_a_stream(server: Relay, upstream: ScriptedUpstream) -> None:
    with request(f"{server.url}/probe?frames=3&interval_ms=50") as response:
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache, no-store, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert len(response.headers["x-request-id"]) == 32
        opening, *frames, end = list(response.chunks())
        assert response.complete
    assert opening.startswith(b": resume with")
    assert b"retry: 2000\n" in opening
    (start,) = sse_events(opening)
    facts = json.loads(start.data)
    assert (start.type, facts["seq"], facts["protocol"]) == ("start", 0, "HTTP/1.1")
    assert facts["host"] == f"127.0.0.1:{server.port}"
    assert (facts["heartbeat_seconds"], facts["shared_store"], facts["compress"]) == (0.2, False, "auto")
    events = [event for frame in frames for event in sse_events(frame)]
    assert [event.id for event in events] == [f"{facts['instance']}.{seq}" for seq in (1, 2, 3)]
    sent = [json.loads(event.data)["sent_ms"] for event in events]
    assert all(after - before >= 49 for before, after in pairwise(sent))
    assert [event.type for event in sse_events(end)] == ["end"]
    assert upstream.calls == []


def test_its_ids_begin_like_those_of_the_instances_runs(server: Relay) -> None:
    with request(f"{server.url}/probe?frames=1") as response:
        instance = json.loads(response.events()[0].data)["instance"]
    with request(f"{server.url}/stream", "POST", json_body={"prompt": "hi"}) as response:
        assert response.events()[0].id.startswith(instance)


def test_a_silence_has_heartbeats_and_frames_go_on_behind_it(server: Relay) -> None:
    with request(f"{server.url}/probe?frames=3&interval_ms=10&silence_seconds=0.7") as response:
        kinds = Counter("ping" if chunk == b": ping\n\n" else "frame" for chunk in list(response.chunks())[1:-1])
    assert kinds == {"frame": 3, "ping": 3}  # HEARTBEAT_SECONDS=0.2


@pytest.mark.parametrize("how", ["header", "query"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_it_goes_on_behind_a_cursor_of_any_instance(server: Relay, how: str, method: str) -> None:
    headers = {"Last-Event-ID": "zzzz.3"} if how == "header" else {}
    query = "&last_event_id=zzzz.3" if how == "query" else ""
    with request(f"{server.url}/probe?frames=5&interval_ms=10{query}", method, headers=headers) as response:
        start, *frames, end = response.events()
    assert json.loads(start.data)["seq"] == 3
    assert [json.loads(frame.data)["seq"] for frame in frames] == [4, 5]
    assert end.type == "end"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("frames=0", "frames"),
        ("frames=1001", "frames"),
        ("interval_ms=9", "interval_ms"),
        ("interval_ms=5001", "interval_ms"),
        ("silence_seconds=301", "silence_seconds"),
        ("silence_seconds=nan", "silence_seconds"),
        ("frames=x", "frames"),
        ("last_event_id=run.x", "cursor"),
        ("last_event_id=run.1234567", "cursor"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(server: Relay, query: str, named: str) -> None:
    with request(f"{server.url}/probe?{query}") as response:
        assert response.status == 400
        assert named in response.json()["error"]["message"]


def test_head_is_refused(server: Relay) -> None:
    with request(f"{server.url}/probe", "HEAD") as response:
        assert response.status == 405


def test_only_so_many_at_once_and_who_leaves_in_silence_makes_room() -> None:
    with relay(HEARTBEAT_SECONDS="25") as quiet:
        url = f"{quiet.url}/probe?frames=2&silence_seconds=100"
        held = [request(url) for _ in range(16)]
        try:
            assert {response.status for response in held} == {200}
            with request(url) as response:
                assert (response.status, response.headers["retry-after"]) == (503, "5")
                assert response.json()["error"]["code"] == "too_many_runs"
        finally:
            for response in held:
                response.close()
        wait_until(lambda: _status(f"{quiet.url}/probe?frames=1") == 200, "there is room again", seconds=5)


def _status(url: str) -> int:
    gevent.sleep(0)
    with request(url) as response:
        return response.status
