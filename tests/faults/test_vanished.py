"""Clients that go away without a word, a thousand at a time, while nothing is being said."""

import contextlib
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import requests

from tests.faults.namespaces import namespace
from tests.leaks import descriptors, worker_pid
from tests.live import ROOT, Call, Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.relay.support import token_chunk

CROWD = 1000
NOTICED_WITHIN_SECONDS = 20.0  # after the last token: before a heartbeat of 25 s could find out
POLICIES = ("on_disconnect=cancel", "on_disconnect=grace")  # the grace is short
FORMATS = ("sse", "ndjson", "text", "json")
MARKERS = ("second", "second", "second", "")  # json says nothing before the end, text nothing in silence
HALF_A_FORM = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nprompt="
HALF_A_BODY = (f"POST /stream HTTP/1.1\r\nHost: x\r\n{HALF_A_FORM}", "")
OPEN_FILES = 6 * CROWD  # both ends of the upstream connections are in this process's and the relay's tables


@pytest.fixture(autouse=True)
def _many_open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, OPEN_FILES), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Silence:
    """A script: one token, at the word a second one, and then nothing until the relay hangs up."""

    def __init__(self) -> None:
        self.word = threading.Event()

    def __call__(self, call: Call) -> None:
        call.start()
        call.chunk(token_chunk("first"))
        self.word.wait(120)
        call.chunk(token_chunk("second"))
        call.await_close(120)


class Crowd:
    """The clients' process; see crowd.py."""

    def __init__(self, server: Relay, wanted: list[tuple[str, str]], prefix: tuple[str, ...] = ()) -> None:
        host = server.url.removeprefix("http://").rsplit(":", 1)[0]
        command = [*prefix, sys.executable, "-m", "tests.faults.crowd", host, str(server.port)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._say(json.dumps(wanted))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def run_ids(self) -> list[str]:
        """Wait until every client has what it waits for; return their runs."""
        ids: list[str] = json.loads(self._hear())
        return ids

    def vanish(self, how: str) -> None:
        """Close all connections."""
        self._say(how)
        assert self._hear() == "gone\n"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def crowd(server: Relay, wanted: list[tuple[str, str]], prefix: tuple[str, ...] = ()) -> Iterator[Crowd]:
    clients = Crowd(server, wanted, prefix)
    try:
        yield clients
    finally:
        clients.close()


def get(target: str, marker: str) -> tuple[str, str]:
    return f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n", marker


@contextlib.contextmanager
def silent_relay(**settings: str) -> Iterator[tuple[Relay, ScriptedUpstream, Silence]]:
    silence = Silence()
    with scripted(silence) as upstream:
        patient = {"IDLE_TIMEOUT_SECONDS": "300"}  # the upstream's silence ends nothing here
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", **patient, **settings}
        with relay(**settings) as server:
            yield server, upstream, silence


def open_files(server: Relay) -> int:
    return len(descriptors(worker_pid(server)))


def assert_all_gone(server: Relay, upstream: ScriptedUpstream, baseline: int, seconds: float) -> None:
    """Nothing is left: no run, no upstream connection, no descriptor; and it was nobody's error."""
    deadline = time.monotonic() + seconds
    wait_until(lambda: server.counts()["unfinished"] == 0, "no run is unfinished", seconds)
    for call in upstream.calls:
        assert call.closed.wait(max(0.1, deadline - time.monotonic())), "an upstream connection is still open"
    wait_until(lambda: open_files(server) <= baseline, "every descriptor is closed")
    log = server.log()
    for word in ("ERROR", "CRITICAL", "Traceback"):
        assert word not in log, log


def assert_abandoned(server: Relay, run_ids: list[str]) -> None:
    for run_id in run_ids:
        end = requests.get(f"{server.url}/runs/{run_id}", timeout=20).json()["end"]
        assert (end["reason"], end["upstream_stop"]) == ("abandoned", "closed")


def speak(upstream: ScriptedUpstream, silence: Silence) -> float:
    """Let the upstream say its last once all runs have begun; return when: heartbeats count from then on, or later."""
    wait_until(lambda: len(upstream.calls) == CROWD, "all runs have begun", 60)
    said = time.monotonic()
    silence.word.set()
    return said


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_thousand_clients_that_leave_in_silence_are_noticed_before_any_heartbeat(how: str) -> None:
    with silent_relay(HEARTBEAT_SECONDS="25", DISCONNECT_GRACE_SECONDS="0.5") as (server, upstream, silence):
        baseline = open_files(server)
        wanted = [get(f"/stream?prompt=hi&{POLICIES[n % 2]}", "second") for n in range(CROWD)]
        with crowd(server, wanted) as clients:
            said = speak(upstream, silence)
            run_ids = clients.run_ids()
            assert server.counts()["unfinished"] == CROWD
            left = time.monotonic()
            clients.vanish(how)
            assert_all_gone(server, upstream, baseline, said + NOTICED_WITHIN_SECONDS - time.monotonic())
            print(f"{CROWD} clients, {how}: all noticed within {time.monotonic() - left:.1f} s")
        assert_abandoned(server, run_ids[:: CROWD // 20])


@pytest.mark.timeout(240)
def test_a_thousand_clients_that_vanish_without_a_fin_are_noticed_by_the_kernel() -> None:
    settings = {"HEARTBEAT_SECONDS": "0.5", "WRITE_TIMEOUT_SECONDS": "2", "DISCONNECT_GRACE_SECONDS": "0.5"}
    with namespace() as space, silent_relay(HOST=space.here, **settings) as (server, upstream, silence):
        baseline = open_files(server)
        wanted = [
            get(f"/stream?prompt=hi&{POLICIES[n % 2]}&format={FORMATS[n // 2 % 4]}", MARKERS[n // 2 % 4])
            for n in range(CROWD)
        ]
        with crowd(server, [*wanted, *[HALF_A_BODY] * 50], space.prefix) as clients:
            speak(upstream, silence)
            run_ids = clients.run_ids()
            assert server.counts()["unfinished"] == CROWD
            left = time.monotonic()
            space.swallow()
            assert_all_gone(server, upstream, baseline, 60)
            print(f"{CROWD} clients, no FIN: all noticed within {time.monotonic() - left:.1f} s")
        assert_abandoned(server, [run_id for run_id in run_ids if run_id][::20])
