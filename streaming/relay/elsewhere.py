"""The other workers of this site, over Redis: their runs, and what they want of ours."""

import logging
import time
from collections.abc import Callable

import gevent
import msgspec

from streaming.relay.conversations import CLAIMS
from streaming.relay.cursor import Sleeper
from streaming.relay.leases import LEASE_SECONDS, Leases
from streaming.relay.observing import Observer, nobody
from streaming.relay.others import TAG_CHARACTERS, new_tag
from streaming.relay.own_run import OwnRun
from streaming.relay.reader import Reader
from streaming.relay.remote import RemoteRun
from streaming.relay.stores.journal import OUTAGE_SECONDS, Journal
from streaming.relay.stores.link import Link, unavailable
from streaming.relay.stores.outbox import Outbox
from streaming.relay.stores.redis import RedisStore
from streaming.wire.events import Entry

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
CLOSE_SECONDS = 1.0
MARK_SECONDS = 6.0  # how long a follower elsewhere counts without saying so again
FIRST_EVENT_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.4)  # a run is known elsewhere a moment after its id is

_decode = msgspec.msgpack.Decoder(tuple[str, str, list[str], bool]).decode


class Elsewhere:
    """See others.Others. `start` before use."""

    def __init__(
        self,
        url: str,
        *,
        tls_insecure: bool = False,
        run_seconds: float,
        ttl_seconds: float,
        observer: Observer = nobody,
    ) -> None:
        self.tag = new_tag()
        self._link = link = Link(url, tls_insecure=tls_insecure, observer=observer)
        self._outbox = Outbox(link)
        self.store = store = RedisStore(link, self._outbox)
        self._journal = Journal(self.tag, link, run_seconds=run_seconds, ttl_seconds=ttl_seconds)
        self._journal.lost = _end_lost
        self._reader = Reader(self.tag, link, store.new_log, self._heard)
        self._leases = Leases(
            self.tag, link, ttl_seconds=ttl_seconds, claims=store.keys(CLAIMS), lapsed=self._journal.doubt
        )
        self._marks: dict[tuple[str, str], float] = {}  # run id, follower's tag -> until when (monotonic)
        self._handlers: dict[str, Callable[[OwnRun, str, bool], None]] = {
            "join": lambda run, tag, _: self._mark(run, tag),
            "leave": lambda run, tag, by_us: self._unmark(run.id, tag, by_us=by_us),
            "seen": lambda run, *_: run.presence.seen() if run.presence else None,
            "soften": lambda run, *_: run.presence.soften() if run.presence else None,
            "stop": lambda run, *_: run.end_early("stopped"),
        }
        self._ticker: gevent.Greenlet | None = None
        self._sleeper = Sleeper()
        self._closed = False

    def start(self) -> None:
        """Begin to share."""
        for part in (self._outbox, self._journal, self._reader):
            part.start()
        self._ticker = gevent.spawn(self._tick_on)

    def close(self) -> None:
        """Write what there is, give the lease back and stop. For the end of the process: our runs have ended."""
        if self._closed:
            return
        self._closed = True
        for part in (self._journal, self._outbox, self._reader):
            part.close()
        self._sleeper.wake()
        if self._ticker is not None:
            self._ticker.join(CLOSE_SECONDS)
        self._link.close()

    # -- for Runs --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """See others.Others."""
        if not self._leases.held_once:
            return "starting"
        return "store_unavailable" if self._journal.outage_seconds > OUTAGE_SECONDS else "ready"

    @property
    def lag_seconds(self) -> float:
        """See others.Others."""
        return self._journal.lag_seconds

    def refuse_if_away(self) -> None:
        """See others.Others."""
        if self.state != "ready":
            raise unavailable()

    def began(self, run: OwnRun) -> None:
        """See others.Others."""
        self._journal.keep(run)

    def get(self, run_id: str) -> RemoteRun | None:
        """See others.Others."""
        if run_id.startswith(self.tag):
            return None
        for seconds in FIRST_EVENT_SECONDS:
            run = self._reader.get(run_id)
            if run is not None or not self._leases.holds(run_id[:TAG_CHARACTERS]):
                return run
            gevent.sleep(seconds)
        return self._reader.get(run_id)

    def is_over(self, run_id: str) -> bool:
        """See others.Others."""
        if run_id.startswith(self.tag):
            return False
        run = self._reader.get(run_id)
        if run is not None and run.ended:
            return True
        if self._link.unbroken_seconds < LEASE_SECONDS or self._leases.holds(run_id[:TAG_CHARACTERS]):
            return False
        if run is not None:
            self._leases.end(run, self._reader.refresh)
        return run is None or run.ended

    # -- for the others --------------------------------------------------------------------------------------------

    def _heard(self, data: bytes) -> None:
        try:
            what, tag, run_ids, by_us = _decode(data)
            handler = self._handlers[what]
        except (msgspec.DecodeError, KeyError):
            log.exception("another worker said something unknown: are all of one version?")
            return
        for run_id in run_ids:
            run = self._journal.own(run_id)
            if run is not None and not run.ended:
                handler(run, tag, by_us)

    def _mark(self, run: OwnRun, tag: str) -> None:
        is_new = (run.id, tag) not in self._marks
        self._marks[run.id, tag] = time.monotonic() + MARK_SECONDS
        if is_new and run.presence is not None:
            run.presence.joined()

    def _unmark(self, run_id: str, tag: str, *, by_us: bool) -> None:
        run = self._journal.own(run_id)
        if self._marks.pop((run_id, tag), None) is not None and run is not None and run.presence is not None:
            run.presence.left(by_us=by_us)

    # -- once a second ---------------------------------------------------------------------------------------------

    def _tick_on(self) -> None:
        while not self._closed:
            try:
                self._tick()
            except Exception:
                log.exception("looking after the other workers failed")
            self._sleeper.sleep(TICK_SECONDS)
        self._leases.give_back()

    def _tick(self) -> None:
        self._reader.drop_left()
        self._reader.say(self.tag, b"")  # a subscription that does not hear it is dead
        for tag, owner in self._reader.owners.items():
            followed = [run.id for run in owner.runs.values() if run.followers.subscribers and not run.ended]
            if followed:
                self._reader.say(tag, msgspec.msgpack.encode(("join", self.tag, followed, False)))
            for run in owner.runs.values():
                if run.stopping and not run.ended:
                    run.end_early("stopped")
        dead = self._leases.renew(self._reader.owners)
        if self._link.unbroken_seconds > MARK_SECONDS:  # or nobody could say anything
            for (run_id, tag), until in list(self._marks.items()):
                if until < time.monotonic():
                    self._unmark(run_id, tag, by_us=True)
        for tag in dead:
            for run in list(self._reader.owners[tag].runs.values()) if tag in self._reader.owners else ():
                self._leases.end(run, self._reader.refresh)
        self._reader.read_all()


def _end_lost(run: OwnRun, end: Entry) -> None:
    log.error("a run was ended by another worker, which took this one for dead")
    run.end_as(end)
