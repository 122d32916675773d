"""`GET /metrics`: what several workers counted is what clients saw, exactly."""

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests

from tests.live import Call, Relay, ScriptedUpstream, free_port, relay, scripted, wait_until
from tests.redis_server import RedisServer, redis_server
from tests.relay.support import DONE, FINISH, token_chunk
from tests.scraping import Scraped
from tests.web.client import Response, request, sse_events

TOKENS, ROUNDS = 7, 40
USAGE = {"prompt_tokens": 5, "completion_tokens": TOKENS, "total_tokens": TOKENS + 5}


def answering(call: Call) -> None:
    """Answer in TOKENS pieces; refuse, fall silent or break off where the question says so."""
    asked = json.loads(call.body)["messages"][-1]["content"]
    if asked == "reject":
        call.answer(400, b'{"error":{"message":"no"}}')
        return
    call.start()
    for n in range(TOKENS):
        call.chunk(token_chunk(f"{n}词 "))
        gevent.sleep(0.002)
    if asked == "hang":
        call.await_close()
        call.connection.close()
        return
    if asked == "cut":
        call.connection.close()
        return
    usage = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    call.chunk(FINISH + usage + DONE)
    call.finish()


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Relay, ScriptedUpstream, RedisServer]]:
    """Two workers of one master."""
    with scripted(answering) as upstream, redis_server() as redis:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "MAX_RUNS": "100"}
        with relay(**settings, REDIS_URL=redis.url, WEB_CONCURRENCY="2") as server:
            wait_until(lambda: len(workers(server)) == 2, "both workers run")
            wait_until(lambda: Scraped(server.url).total("sluice_runs_limit") == 200, "both workers have begun")
            yield server, upstream, redis


def workers(server: Relay) -> list[int]:
    pid = server.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Load:
    """A load generator that counts what it sees."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ends: list[dict[str, Any]] = []
        self.run_ids: list[str] = []
        self.tokens = 0
        self.sent_bytes = 0
        self.resumes: Counter[str] = Counter()

    def stream(self, prompt: str, stop: bool = False) -> None:
        """Ask over SSE, read to the end; `stop`: after the last token stop it, from another connection."""
        with request(f"{self.url}/stream", "POST", json_body={"prompt": prompt}) as response:
            body, tokens = b"", 0
            for chunk in response.chunks():
                body += chunk
                tokens += chunk.count(b'data: {"text"')
                if stop and tokens == TOKENS:
                    stop = False
                    answer = requests.post(f"{self.url}/runs/{response.headers['x-run-id']}/stop", timeout=20)
                    assert answer.json()["reason"] == "stopped"
            assert response.complete
        self._count(response.headers["x-run-id"], body, tokens)

    def stream_in_two(self) -> None:
        """Ask, and read the answer a second time from its third event on, over NDJSON, then once too often."""
        run_id = requests.post(f"{self.url}/runs", json={"prompt": "hi"}, timeout=20).json()["run_id"]
        whole = requests.get(f"{self.url}/runs/{run_id}/events", timeout=20)
        self._count(run_id, whole.content, whole.content.count(b'data: {"text"'))
        rest = requests.get(f"{self.url}/runs/{run_id}/events?after=3&format=ndjson", timeout=20)
        self.sent_bytes += len(rest.content)
        last = sse_events(whole.content)[-1].id
        assert requests.get(f"{self.url}/stream?last_event_id={run_id}.{last}", timeout=20).status_code == 204
        lost = requests.get(f"{self.url}/stream?last_event_id=zzzz{run_id[4:]}.{last}", timeout=20)
        assert b"interrupted" in lost.content
        self.resumes.update(["followed", "over", "lost"])

    def _count(self, run_id: str, body: bytes, tokens: int) -> None:
        self.run_ids.append(run_id)
        self.ends.append(json.loads(sse_events(body)[-1].data))
        self.tokens += tokens
        self.sent_bytes += len(body)

    def everything(self) -> None:
        """Ask in every way, in turns, several at once."""
        ways = [
            lambda: self.stream("hi"),
            lambda: self.stream("cut"),
            lambda: self.stream("reject"),
            lambda: self.stream("hang", stop=True),
            self.stream_in_two,
        ]
        for _ in range(ROUNDS // 8):
            jobs = [gevent.spawn(ways[n % len(ways)]) for n in range(8)]
            gevent.joinall(jobs, raise_error=True)
        jobs = [gevent.spawn(way) for way in ways]
        gevent.joinall(jobs, raise_error=True)


def test_two_workers_add_up_to_what_clients_counted(site: tuple[Relay, ScriptedUpstream, RedisServer]) -> None:
    server, upstream, _ = site
    before, calls_before = Scraped(server.url), len(upstream.calls)
    load = Load(server.url)
    while len({run_id[:4] for run_id in load.run_ids}) < 2:  # the kernel chooses who serves a connection
        load.everything()
    after = Scraped(server.url)

    def grown(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    by_reason = Counter((end["reason"], (end["error"] or {}).get("code", "")) for end in load.ends)
    assert set(by_reason) == {
        ("done", ""),
        ("stopped", ""),
        ("error", "upstream_truncated"),
        ("error", "upstream_rejected"),
    }
    for (reason, code), count in by_reason.items():
        assert grown("sluice_runs_total", upstream="openai", reason=reason, code=code) == count
    runs = len(load.ends)
    assert grown("sluice_runs_total") == grown("sluice_run_seconds_count") == runs
    assert grown("sluice_upstream_calls_total") == len(upstream.calls) - calls_before == runs
    told = sum(end["timing"]["first_token"] is not None for end in load.ends)
    assert grown("sluice_first_token_seconds_count") == told
    assert grown("sluice_token_gap_seconds_count") == load.tokens - told
    assert grown("sluice_stop_seconds_count", upstream_stop="closed") == by_reason["stopped", ""]
    for kind in ("prompt", "completion"):
        for exact in (True, False):
            paid = sum(end["usage"][f"{kind}_tokens"] or 0 for end in load.ends if end["usage"]["exact"] is exact)
            assert grown("sluice_tokens_total", kind=kind, exact=str(exact).lower()) == paid
    assert grown("sluice_answer_bytes_total") == sum(end["digest"]["bytes"] for end in load.ends)
    assert grown("sluice_sent_bytes_total") == load.sent_bytes
    for result, count in load.resumes.items():
        assert grown("sluice_resumes_total", result=result) == count
    assert grown("sluice_refusals_total") == 0


def test_levels_are_those_of_all_workers(site: tuple[Relay, ScriptedUpstream, RedisServer]) -> None:
    server, upstream, _ = site
    upstream.script = lambda call: (call.start(), call.await_close())
    streams: list[Response] = []
    try:
        with requests.Session() as session:  # the other worker is never asked, and tells its levels all the same

            def level(name: str) -> float:
                return Scraped(server.url, session).total(name)

            while len({stream.headers["x-run-id"][:4] for stream in streams}) < 2:
                streams.append(request(f"{server.url}/stream?prompt=x&on_disconnect=cancel"))
            wait_until(lambda: level("sluice_runs_unfinished") == len(streams), "all runs are measured")
            wait_until(lambda: level("sluice_subscribers") == len(streams), "all subscribers are measured")
            assert level("sluice_connections") == len(streams) + 1
            assert level("sluice_log_bytes") > 0
            for stream in streams:
                stream.close()
            wait_until(lambda: level("sluice_subscribers") == 0, "nobody follows any more")
            wait_until(lambda: level("sluice_runs_unfinished") == 0, "nothing runs any more")
    finally:
        upstream.script = answering


def test_what_dead_workers_counted_stays_and_what_they_held_goes(
    site: tuple[Relay, ScriptedUpstream, RedisServer],
) -> None:
    server, _, _ = site
    Load(server.url).stream("hi")
    before, old = Scraped(server.url), workers(server)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(set(workers(server)) - set(old)) == 2, "other workers run")
    wait_until(lambda: Scraped(server.url).total("sluice_runs_limit") == 200, "their levels alone are told")
    assert Scraped(server.url).total("sluice_runs_total") == before.total("sluice_runs_total") > 0


def test_redis_is_measured(site: tuple[Relay, ScriptedUpstream, RedisServer]) -> None:
    server, upstream, redis = site
    before = Scraped(server.url)
    Load(server.url).stream("hi")
    after = Scraped(server.url)
    trips = after.total("sluice_redis_round_trip_seconds_count") - before.total("sluice_redis_round_trip_seconds_count")
    commands = after.total("sluice_redis_commands_total") - before.total("sluice_redis_commands_total")
    assert commands > trips > 0
    upstream.script = lambda call: (call.start(), call.chunk(token_chunk("x")), call.await_close())
    try:
        with request(f"{server.url}/stream?prompt=x&on_disconnect=cancel") as response:
            assert any(b"data: {" in chunk for chunk in response.chunks())
            upstream.next_call()
            with redis.frozen():
                requests.post(f"{server.url}/runs/{response.headers['x-run-id']}/stop", timeout=20)
                wait_until(lambda: Scraped(server.url).total("sluice_redis_lag_seconds") > 1, "an end waits for Redis")
    finally:
        upstream.script = answering
    wait_until(lambda: Scraped(server.url).total("sluice_redis_lag_seconds") < 0.5, "nothing waits any more")


def test_a_client_that_takes_nothing_is_counted_when_it_is_dropped() -> None:
    def answer(call: Call) -> None:
        call.start()
        for _ in range(100):
            call.chunk(token_chunk("x" * 20_000))
        call.chunk(FINISH + DONE)
        call.finish()

    with scripted(answer) as upstream:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
        with relay(**settings, WRITE_TIMEOUT_SECONDS="0.3") as server:
            run_id = requests.post(f"{server.url}/chat", json={"prompt": "x"}, timeout=20).json()["run_id"]
            for number in (1, 2):
                with socket.socket() as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    client.connect(("127.0.0.1", server.port))
                    client.sendall(f"GET /runs/{run_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    wait_until(
                        lambda: Scraped(server.url).total("sluice_slow_clients_dropped_total") == number,  # noqa: B023
                        "it is dropped",
                    )


def test_nothing_is_left_of_it() -> None:
    with redis_server() as redis, relay(UPSTREAM="demo", REDIS_URL=redis.url, WEB_CONCURRENCY="2") as server:
        maps = Path(f"/proc/{workers(server)[0]}/maps").read_text()
        (directory,) = {Path(line.split()[-1]).parent for line in maps.splitlines() if "/sluice-metrics-" in line}
        assert directory.is_dir()
        assert server.stop() == 0
        assert not directory.exists()


def test_one_worker_counts_what_is_rare(server: Relay, upstream: ScriptedUpstream) -> None:
    before = Scraped(server.url)
    run_id = requests.post(f"{server.url}/chat", json={"prompt": "hi"}, timeout=20).json()["run_id"]
    requests.get(f"{server.url}/runs/{run_id}?mismatch=1", timeout=20)
    requests.get(f"{server.url}/runs/{run_id}?mismatch=no", timeout=20)
    requests.get(f"{server.url}/stream?promt=x", timeout=20)
    requests.get(f"{server.url}/nothing/here", timeout=20)
    with request(f"{server.url}/" + "x" * 9000) as response:
        assert response.status == 414
    upstream.script = lambda call: (call.start(), call.await_close())
    with request(f"{server.url}/stream?prompt=x&on_disconnect=cancel") as response:
        assert any(b": ping" in chunk for chunk in response.chunks())
    wait_until(lambda: server.counts()["unfinished"] == 0, "the run has ended")
    after = Scraped(server.url)

    def grown(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    assert grown("sluice_digest_mismatches_total") == 1
    assert grown("sluice_refusals_total", endpoint="relay.stream", code="bad_request") == 1
    assert grown("sluice_refusals_total", endpoint="none", code="not_found") == 1
    assert grown("sluice_refusals_total", endpoint="none", code="uri_too_long") == 1
    assert grown("sluice_heartbeats_total") >= 1
    assert grown("sluice_runs_total", reason="abandoned") == 1
    assert after.total("sluice_breakers", upstream="openai", state="closed") == 1


def test_retries_and_breakers() -> None:
    down = f"http://127.0.0.1:{free_port()}/v1"
    with relay(UPSTREAM="openai", UPSTREAM_URL=down, UPSTREAM_MODEL="m", MAX_TRIES="2") as server:
        jobs = [gevent.spawn(requests.post, f"{server.url}/chat", json={"prompt": "hi"}, timeout=20) for _ in range(5)]
        gevent.joinall(jobs, raise_error=True)
        assert {job.value.status_code for job in jobs} == {502}
        scraped = Scraped(server.url)
        assert scraped.total("sluice_upstream_calls_total", upstream="openai", result="upstream_unreachable") == 10
        assert scraped.total("sluice_retries_total", upstream="openai") == 5
        assert scraped.total("sluice_runs_total", upstream="openai", code="upstream_unreachable") == 5
        assert scraped.total("sluice_breakers", upstream="openai", state="open") == 1
        assert scraped.total("sluice_breakers", upstream="openai", state="closed") == 0


def test_only_this_machine_and_who_has_a_key_may_read_them() -> None:
    key = "k" * 20
    with relay(UPSTREAM="demo", API_KEYS=key) as server:
        url, elsewhere = f"{server.url}/metrics", {"X-Forwarded-For": "192.0.2.1"}
        answer = requests.get(url, headers=elsewhere, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert "sluice_" not in answer.text
        for headers in ({}, {**elsewhere, "Authorization": f"Bearer {key}"}):
            assert requests.get(url, headers=headers, timeout=20).status_code == 200
