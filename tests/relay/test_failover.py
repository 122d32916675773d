"""A Redis server dies and a replica takes its place: what was running goes on, what comes finds the new master."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from streaming.relay.stores import names
from streaming.wire.ask import Ask
from streaming.wire.errors import Refusal
from tests.live import Call, scripted, wait_until
from tests.redis_server import AT_ONCE, RedisServer, Sentinel, redis_cluster, redis_server
from tests.relay.sites import Worker, worker
from tests.relay.support import CALLER, DONE, FINISH, ended, token_chunk

FAILOVER_SECONDS = 40.0
TOKENS = 400

Site = tuple[str, Callable[[str], RedisServer]]
"""The URL, and who holds a key."""


def paced(call: Call) -> None:
    call.start()
    for number in range(TOKENS):
        call.chunk(token_chunk(f"{number} "))
        call.connection.settimeout(0.05)
        try:
            call.connection.recv(1)  # nothing comes: a pause that ends with the connection
            return
        except TimeoutError:
            pass
    call.chunk(FINISH + DONE)
    call.finish()


@contextmanager
def behind_sentinel() -> Iterator[Site]:
    with redis_server(*AT_ONCE) as master, redis_server("--replicaof", f"127.0.0.1 {master.port}") as replica:
        wait_until(lambda: link_of(replica) == "up", "the replica follows")
        sentinel = Sentinel(master)
        try:
            wait_until(lambda: replicas_known(sentinel) == 1, "the sentinel knows the replica", FAILOVER_SECONDS)
            yield f"redis+sentinel://127.0.0.1:{sentinel.port}/main", lambda key: master
        finally:
            sentinel.close()


@contextmanager
def in_a_cluster() -> Iterator[Site]:
    with redis_cluster() as cluster:
        yield cluster.url, cluster.master_of


def link_of(replica: RedisServer) -> str:
    with replica.client() as client:
        return str(client.info("replication")["master_link_status"])


def replicas_known(sentinel: RedisServer) -> int:
    with sentinel.client() as client:
        return int(client.info("sentinel")["master0"]["slaves"])


def begins(one: Worker) -> bool:
    try:
        run = one.runs.start(Ask(prompt="again"), CALLER)
    except Refusal:
        return False
    run.end_early("stopped")
    return True


@pytest.mark.timeout(180)
@pytest.mark.parametrize("setup", [behind_sentinel, in_a_cluster])
def test_a_failover_loses_nothing(setup: Any) -> None:
    with setup() as (url, holder), scripted(paced) as upstream:
        with worker(upstream.url, url) as here, worker(upstream.url, url) as there:
            run = here.runs.start(Ask(prompt="hi"), CALLER)
            copy = there.runs.get(run.id)
            cursor = copy.follow(0)
            wait_until(lambda: copy.last_seq > 20, "it is followed elsewhere")
            holder(names.run(run.id)).kill()
            text = "".join(f"{number} " for number in range(TOKENS))
            assert (ended(run, FAILOVER_SECONDS).reason, run.answer().text) == ("done", text)
            assert (ended(copy, FAILOVER_SECONDS), copy.answer().text) == (run.end, text)
            cursor.close()
            for one in (here, there):
                wait_until(lambda one=one: begins(one), "new runs begin", FAILOVER_SECONDS)
            assert "".join(entry.type for entry in there.runs.get(run.id).entries()).endswith("end")
