"""Workers of one site, put together as app.py does: `n` Runs that share a store, and one upstream for all."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from streaming.relay.conversations import Conversations
from streaming.relay.elsewhere import Elsewhere
from streaming.relay.exchange import HttpUpstream
from streaming.relay.owners import Owners
from streaming.relay.runs import Runs
from streaming.relay.store import Store
from streaming.relay.stores.memory import MemoryStore
from streaming.relay.upstream import Session
from tests.live import wait_until
from tests.relay.support import BOUNDS, LIMITS, allowance, openai


class Worker:
    """One worker: its runs, its store and, over Redis, what it knows of the others."""

    def __init__(self, url: str, redis_url: str | None, **bounds: float) -> None:
        all_bounds = msgspec.structs.replace(BOUNDS, **bounds)
        self.others: Elsewhere | None = None
        self.store: Store = MemoryStore()
        if redis_url is not None:
            self.others = Elsewhere(
                redis_url, run_seconds=all_bounds.run_max_seconds, ttl_seconds=all_bounds.run_ttl_seconds
            )
            self.store = self.others.store
            self.others.start()
        conversations = Conversations(
            self.store,
            ttl_seconds=60,
            max_turns=50,
            claim_seconds=120,
            is_over=self.others.is_over if self.others else lambda run_id: False,
        )
        self._session = Session()
        upstream = HttpUpstream("u0", "openai", openai(url), self._session, LIMITS)
        self.runs = Runs(
            upstreams=[upstream],
            store=self.store,
            conversations=conversations,
            bounds=all_bounds,
            allowance=allowance(self.store),
            owners=Owners(self.store, ttl_seconds=60),
            others=self.others,
        )
        try:
            wait_until(lambda: self.runs.state == "ready", "the worker is ready")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End what still runs, and stop."""
        self.runs.interrupt(within_seconds=0)
        wait_until(lambda: not self.runs.counts()["unfinished"], "every run has ended")
        self.runs.close()
        self._session.close()


@contextmanager
def worker(url: str, redis_url: str | None, **bounds: float) -> Iterator[Worker]:
    """Be a worker in front of the upstream at `url` for the length of a `with` block; None = it is alone."""
    one = Worker(url, redis_url, **bounds)
    try:
        yield one
    finally:
        one.close()
