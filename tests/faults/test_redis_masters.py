"""Two masters on one Redis, behind a proxy without affinity: cut, killed, told to stop."""

import json
import os
import signal
import time

import gevent
import pytest
import requests
import websocket

from tests.faults.site import Follower, Paced, Site, site
from tests.live import WAIT_SECONDS, Call, wait_until
from tests.relay.support import token_chunk

pytestmark = pytest.mark.timeout(150)

DEAD_SECONDS = 10.0  # from the death of an owner to the ends of its runs


def followed(here: Site, runs: int) -> tuple[list[Follower], list[gevent.Greenlet]]:
    """Begin runs at both masters in turn; follow each with cuts, through the proxy."""
    starts = [gevent.spawn(here.start, n % 2) for n in range(runs)]
    followers = [Follower(f"{here.proxy.url}/runs/{start.get(timeout=30)}/events") for start in starts]
    return followers, [gevent.spawn(each.follow) for each in followers]


def test_every_subscriber_gets_every_event_once_wherever_it_reconnects() -> None:
    script = Paced(count=150, seconds=0.02)
    with site(script) as here:
        followers, greenlets = followed(here, 100)
        gevent.joinall(greenlets, raise_error=True)
        for follower in followers:
            follower.check(script)
        assert sum(each.connections for each in followers) > 200
        assert len(here.upstream.calls) == 100


def test_a_killed_masters_runs_end_interrupted_and_the_others_go_on() -> None:
    script = Paced(count=300, seconds=0.02)
    with site(script) as here:
        followers, greenlets = followed(here, 20)
        wait_until(lambda: all(len(each.texts) > 30 for each in followers), "all have begun")
        begun = time.monotonic()
        here.masters[0].kill()
        gevent.joinall(greenlets[0::2], raise_error=True)
        assert time.monotonic() - begun < DEAD_SECONDS
        gevent.joinall(greenlets, raise_error=True)
        for follower in followers[0::2]:
            follower.check(script, interrupted=True)
        for follower in followers[1::2]:
            follower.check(script)
        # It was written once, and stays.
        again = Follower(followers[0].url, cuts=False).follow()
        assert again.end == followers[0].end
        assert again.seqs[-1] == followers[0].seqs[-1]


def test_a_deploy_loses_nothing() -> None:
    script = Paced(count=200, seconds=0.02)
    with site(script, SHUTDOWN_GRACE_SECONDS="20") as here:
        followers, greenlets = followed(here, 20)
        for follower in followers:
            follower.cuts = False  # from their next connection on they stay until they are sent away
        wait_until(lambda: all(len(each.texts) > 30 for each in followers), "all have begun")
        here.masters[0].process.send_signal(signal.SIGTERM)
        gevent.joinall(greenlets, raise_error=True)
        for follower in followers:
            follower.check(script)
        assert here.masters[0].process.wait(WAIT_SECONDS) == 0
        assert "ERROR" not in here.masters[0].log(), here.masters[0].log()


def test_a_websocket_is_told_to_come_back_and_goes_on_elsewhere() -> None:
    script = Paced(count=200, seconds=0.02)
    with site(script, SHUTDOWN_GRACE_SECONDS="20") as here:
        run_id, texts, after = here.start(0), [], 0
        for master in (0, 1):
            socket = websocket.create_connection(here.masters[master].url.replace("http", "ws") + "/ws", timeout=30)
            socket.send(json.dumps({"type": "follow", "run_id": run_id, "after": after}))
            while True:
                opcode, data = socket.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    assert int.from_bytes(data[:2], "big") == 1012
                    break
                event = json.loads(data)
                after = event.get("seq", after)
                texts += [event["text"]] if event["type"] == "token" else []
                if len(texts) == 30 and master == 0:
                    here.masters[0].process.send_signal(signal.SIGTERM)
                if event["type"] == "end":
                    break
            socket.shutdown()  # close() leaves a socket open whose other side has said goodbye
        assert "".join(texts) == script.text
        assert event["reason"] == "done"


def test_a_stalled_master_that_wakes_up_cannot_write_behind_the_end() -> None:
    script = Paced(count=2000, seconds=0.02)
    with site(script) as here:
        run_id = here.start(0)
        follower = Follower(f"{here.masters[1].url}/runs/{run_id}/events", cuts=False)
        following = gevent.spawn(follower.follow)
        wait_until(lambda: len(follower.texts) > 20, "it has begun")
        os.killpg(here.masters[0].process.pid, signal.SIGSTOP)
        try:
            following.get(timeout=2 * DEAD_SECONDS)
        finally:
            os.killpg(here.masters[0].process.pid, signal.SIGCONT)
        follower.check(script, interrupted=True)
        wait_until(lambda: here.masters[0].counts()["unfinished"] == 0, "the owner has given it up")
        assert requests.get(f"{here.masters[0].url}/runs/{run_id}", timeout=5).json()["end"]["reason"] == "interrupted"
        again = Follower(follower.url, cuts=False).follow()
        assert (again.seqs, again.end) == (follower.seqs, follower.end)


def test_a_stop_is_heard_at_once_wherever_it_is_said() -> None:
    def held(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("a"))
        call.await_close()

    with site(held) as here:
        took = []
        for n in range(40):
            run_id = here.start(n % 2)
            here.upstream.next_call()
            begun = time.monotonic()
            answer = requests.post(f"{here.masters[(n + 1) % 2].url}/runs/{run_id}/stop", timeout=WAIT_SECONDS)
            took.append(time.monotonic() - begun)
            assert (answer.status_code, answer.json()["reason"]) == (200, "stopped")
        assert all(call.closed.wait(1) for call in here.upstream.calls)
        assert sorted(took)[len(took) // 2] < 0.5  # a poll would take it; bench tells the real figure
