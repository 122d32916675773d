"""Redis hangs, dies and comes back empty, is full: who watches a run on its own master notices nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
import requests

from streaming.relay.stores import names
from streaming.wire.journal import decode_stretch_until
from tests.faults.site import Follower, Paced, Site, site
from tests.live import WAIT_SECONDS, wait_until

pytestmark = pytest.mark.timeout(150)

OUTAGE_SECONDS = 10.0
QUICK_SECONDS = 8.0  # an answer on a loaded machine, while the store hangs


@contextmanager
def frozen(here: Site) -> Iterator[None]:
    with here.redis.frozen():
        yield


@contextmanager
def paused(here: Site) -> Iterator[None]:
    here.redis.command("CLIENT", "PAUSE", int(OUTAGE_SECONDS * 1000), "ALL")
    yield


@contextmanager
def killed(here: Site) -> Iterator[None]:
    here.redis.kill()
    try:
        yield
    finally:
        here.redis.start()


@contextmanager
def full(here: Site) -> Iterator[None]:
    here.redis.command("CONFIG", "SET", "maxmemory", 1)
    try:
        yield
    finally:
        here.redis.command("CONFIG", "SET", "maxmemory", 0)


def kept(here: Site, run_id: str) -> list[int]:
    with here.redis.client() as client:
        stretches = client.xrange(names.run(run_id))
    entries = (decode_stretch_until(int(id_.partition(b"-")[0]), fields[b"e"]) for id_, fields in stretches)
    return [entry.seq for stretch in entries for entry in stretch]


@pytest.mark.parametrize("outage", [frozen, paused, killed, full])
def test_an_outage_costs_local_subscribers_nothing_and_the_others_a_wait(outage: object) -> None:
    script = Paced(count=900, seconds=0.02)
    with site(script) as here:
        run_id = here.start(0)
        path = f"/runs/{run_id}/events"
        local, remote = (Follower(master.url + path, cuts=False) for master in here.masters)
        greenlets = [gevent.spawn(each.follow) for each in (local, remote)]
        wait_until(lambda: len(local.texts) > 30 and len(remote.texts) > 30, "both have begun")
        with outage(here):  # type: ignore[operator]
            begun, had = time.monotonic(), len(local.texts)
            gevent.sleep(1)
            asked = time.monotonic()
            refused = requests.post(f"{here.masters[0].url}/runs", json={"prompt": "hi"}, timeout=WAIT_SECONDS)
            assert time.monotonic() - asked < QUICK_SECONDS
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "store_unavailable"
            assert refused.headers["Retry-After"]
            assert requests.get(f"{here.masters[0].url}/healthz", timeout=5).status_code == 200
            gevent.sleep(max(0.0, begun + OUTAGE_SECONDS - time.monotonic()))
            assert len(local.texts) > had + 100  # it goes on all the time
        gevent.joinall(greenlets, raise_error=True)
        local.check(script)
        remote.check(script)
        assert (local.connections, local.seqs, local.end) == (1, remote.seqs, remote.end)
        again = Follower(here.masters[1].url + path, cuts=False).follow()
        assert again.seqs == local.seqs
        assert kept(here, run_id) == local.seqs  # whoever comes later is shown what Redis has
        wait_until(lambda: here.start(1), "new runs begin again")
