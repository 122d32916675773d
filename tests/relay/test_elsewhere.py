"""What workers know of each other: who is dead and who only seems so, and what becomes of their runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest

from streaming.relay import elsewhere, leases
from streaming.relay.remote import RemoteRun
from streaming.relay.stores import names
from streaming.wire.ask import Ask
from streaming.wire.errors import Refusal
from streaming.wire.events import LOST_END_SKIP
from tests.live import Call, ScriptedUpstream, scripted, wait_until
from tests.redis_server import RedisServer, redis_server
from tests.relay.sites import worker
from tests.relay.support import CALLER, ended, token_chunk


def held(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("你好 "))
    call.await_close()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with scripted(held) as upstream:
        yield upstream


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (elsewhere, leases):
        monkeypatch.setattr(module, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(elsewhere, "TICK_SECONDS", 0.1)


@contextmanager
def stalled(redis: RedisServer, one: elsewhere.Elsewhere | None) -> Iterator[None]:
    """Let a worker's lease disappear, as if it had stalled, and come back after the `with` block."""
    assert one is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one._leases, "renew", lambda watched: [])
        redis.command("DEL", names.lease(one.tag))
        yield


def last_id(redis: RedisServer, run_id: str) -> bytes:
    with redis.client() as client:
        return bytes(client.xrevrange(names.run(run_id), count=1)[0][0])


@pytest.mark.usefixtures("short_leases")
def test_a_dead_workers_conversation_is_not_busy_for_ever(redis: RedisServer, upstream: ScriptedUpstream) -> None:
    with worker(upstream.url, redis.url) as here, worker(upstream.url, redis.url) as there:
        run = here.runs.start(Ask(prompt="one"), CALLER)
        again = Ask(prompt="two", conversation_id=run.turn.conversation_id)
        assert there.others is not None
        with pytest.raises(Refusal, match="conversation_busy"):
            there.runs.start(again, CALLER)
        link = there.others._link
        wait_until(lambda: link.unbroken_seconds > 1, "a lease has passed")
        wait_until(lambda: last_id(redis, run.id) == b"3-0", "nothing is left to write: writing finds an end, too")
        with stalled(redis, here.others):
            with pytest.raises(Refusal, match="conversation_not_found"):  # its first turn never was one
                there.runs.start(again, CALLER)
            assert ended(there.runs.get(run.id)).reason == "interrupted"
        wait_until(lambda: run.ended, "the owner, which only seemed dead, gives the run up")
        assert run.end is not None
        assert run.end.reason == "interrupted"


@pytest.mark.usefixtures("short_leases")
def test_the_end_is_written_once_whoever_notices(redis: RedisServer, upstream: ScriptedUpstream) -> None:
    with (
        worker(upstream.url, redis.url) as owner,
        worker(upstream.url, redis.url) as one,
        worker(upstream.url, redis.url) as two,
    ):
        run = owner.runs.start(Ask(prompt="hi"), CALLER)
        copies = [each.runs.get(run.id) for each in (one, two)]
        cursors = [copy.follow(0) for copy in copies]
        wait_until(lambda: all(copy.last_seq == 3 for copy in copies), "both have the first token")
        with stalled(redis, owner.others):
            ends = [ended(copy) for copy in copies]
        assert ends[0] == ends[1]
        assert {copy.last_seq for copy in copies} == {3 + LOST_END_SKIP}
        assert ends[0].digest.bytes == len("你好 ".encode())
        with redis.client() as client:
            entries = client.xrange(names.run(run.id))
        assert entries[-1][0] == f"{3 + LOST_END_SKIP}-0".encode()
        assert sum(int(id_.partition(b"-")[0]) > LOST_END_SKIP for id_, _ in entries) == 1
        for cursor in cursors:
            assert [entry.type for entry in cursor.read(5)][-1] == "end"
            cursor.close()
        assert ended(run) == ends[0]  # the owner's own subscribers see that one too, and no second
        assert run.last_seq == copies[0].last_seq


def test_an_end_is_not_written_over_what_the_owner_said_meanwhile(
    redis: RedisServer, upstream: ScriptedUpstream
) -> None:
    with worker(upstream.url, redis.url) as owner, worker(upstream.url, redis.url) as there:
        assert there.others is not None
        run = owner.runs.start(Ask(prompt="hi"), CALLER)
        copy = there.runs.get(run.id)
        wait_until(lambda: copy.last_seq == 3, "it is known elsewhere")
        assert isinstance(copy, RemoteRun)
        others = there.others
        others._leases.end(copy, lambda copy: b"0-1")  # what was last when it looked is no longer
        assert not copy.ended
        others._leases.end(copy, others._reader.refresh)
        assert ended(copy).reason == "interrupted"
        assert owner.others is not None
        owner.others._journal.doubt()
        assert ended(run) == copy.end


def test_nobody_is_dead_to_who_has_just_come_back_to_redis(redis: RedisServer, upstream: ScriptedUpstream) -> None:
    with worker(upstream.url, redis.url) as here, worker(upstream.url, redis.url) as there:
        assert here.others is not None
        assert there.others is not None
        watched, leases_there = [here.others.tag], there.others._leases
        there.others._link.broke("as after an outage, when all leases are gone")
        with stalled(redis, here.others):
            assert leases_there.renew(watched) == []
            wait_until(lambda: leases_there.renew(watched) == watched, "a whole lease without a break", 20)


@pytest.mark.usefixtures("short_leases")
def test_nobody_is_dead_to_who_has_just_been_cut_off_from_redis(redis: RedisServer, upstream: ScriptedUpstream) -> None:
    with worker(upstream.url, redis.url) as here, worker(upstream.url, redis.url) as there:
        run = here.runs.start(Ask(prompt="hi"), CALLER)
        cursor = there.runs.get(run.id).follow(0)
        for _ in range(2):  # all leases are gone at once
            redis.kill()
            redis.start()
            gevent.sleep(1.0)
        assert not run.ended
        assert not there.runs.get(run.id).ended
        cursor.close(by_us=True)


def test_a_long_outage_refuses_new_runs_and_says_so(
    redis: RedisServer, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "OUTAGE_SECONDS", 0.5)
    with worker(upstream.url, redis.url) as here:
        run = here.runs.start(Ask(prompt="hi"), CALLER)
        upstream.next_call()
        redis.kill()
        bare = Ask(messages=[], prompt="x")
        wait_until(lambda: run.last_seq >= 3, "it goes on")
        run.log.append("token", b'{"text":"x"}')
        wait_until(lambda: here.runs.state == "store_unavailable", "it is said")
        with pytest.raises(Refusal, match="store_unavailable"):
            here.runs.start(bare, CALLER)
        redis.start()
        wait_until(lambda: here.runs.state == "ready", "it is back")
