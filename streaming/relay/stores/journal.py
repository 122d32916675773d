"""Writes the runs of this worker to Redis, behind their producers: nothing local ever waits for it.

What is new in all runs goes out together: one entry of the worker's journal and one message that wakes who follows.
Each run's own stream, which is what is replayed, gets the same events less often. What Redis does not take stays
where it is, in the runs' logs, and is written when it can be.
"""

import logging
import time
from collections import deque
from collections.abc import Callable

import gevent
import msgspec

from streaming.relay.cursor import Sleeper
from streaming.relay.own_run import OwnRun
from streaming.relay.stores import names
from streaming.relay.stores.link import Command, Down, Link
from streaming.wire.events import Entry
from streaming.wire.journal import Piece, decode_stretch_until, encode_batch, encode_stretch

log = logging.getLogger(__name__)

JOURNAL_SECONDS = 0.025  # how long a token may wait for others on its way to other workers
STREAM_SECONDS = 1.0  # the same on its way to its run's stream, from which it is replayed: a command each
JOURNAL_KEPT_MS = 5_000  # of the journal: longer than any reader is behind that does not have to begin anew
BATCH_MAX_EVENTS = 4096  # of one run in one entry: after an outage there is more
TRY_AGAIN_SECONDS = 0.25
OUTAGE_SECONDS = 30.0  # longer ones refuse new runs
CLOSE_SECONDS = 1.0
CLOSING_SECONDS = 0.01  # between two looks
IDLE_SECONDS = 60.0
PRELIMINARIES = 3  # start, upstream, first token: each leaves at once
ENDED_KEPT_SECONDS = 10.0  # a Redis that fails may forget what it has confirmed: then it is told again
TOPS_AT_ONCE = 200  # runs, of which one round trip asks
NOT_THE_NEXT = "The ID specified in XADD"  # Redis' own words for an entry that comes after a later one


class Writing:
    """How far one run is written: the last `seq` in the journal, and the last one in the run's own stream."""

    __slots__ = ("_has_grown", "grew", "journaled", "run", "stored", "to_store")

    def __init__(self, run: OwnRun, has_grown: Callable[["Writing"], None]) -> None:
        self.run = run
        self.journaled = 0
        self.stored = 0
        self.grew = False  # waits to be journaled
        self.to_store = False  # waits to be stored
        self._has_grown = has_grown

    def wake(self) -> None:
        """The log has grown."""
        if not self.grew or self.run.ended:
            self._has_grown(self)

    @property
    def urgent(self) -> bool:
        """Return whether what is new should leave at once."""
        return self.run.ended or self.journaled < PRELIMINARIES

    @property
    def done(self) -> bool:
        """Return whether nothing is left to write; the log of a run that expired is empty."""
        return self.run.ended and (self.stored >= self.run.last_seq or not self.run.log.read(self.stored, 1))


class _Store(msgspec.Struct):
    """What a run's stream gets, up to `last_seq`."""

    writing: Writing
    last_seq: int
    commands: list[Command]


class Journal:
    """The one writer of this worker. `start` before use; `lost(run, end)` is told of a run that others ended."""

    def __init__(self, tag: str, link: Link, *, run_seconds: float, ttl_seconds: float) -> None:
        self.lost: Callable[[OwnRun, Entry], None] = lambda run, end: None
        self._tag = tag
        self._link = link
        self._run_ms = round((run_seconds + ttl_seconds) * 1000)  # how long a stream is kept while its run goes on
        self._ttl_ms = max(1, round(ttl_seconds * 1000))  # the same after the end
        self._writings: dict[str, Writing] = {}
        self._ended: deque[tuple[float, Writing]] = deque()  # when (monotonic); the oldest first
        self._grown: list[Writing] = []
        self._grown_since: float | None = None  # monotonic: the oldest event that Redis has not confirmed
        self._to_store: deque[tuple[float, Writing]] = deque()  # since when (monotonic), 0 = at once; in this order
        self._oldest_id = "0"  # of the journal
        self._breaks = link.breaks
        self._failing_since: float | None = None
        self._urgent = False
        self._closed = False
        self._sleeper = Sleeper()
        self._writer: gevent.Greenlet | None = None

    def start(self) -> None:
        """Begin to write."""
        self._writer = gevent.spawn(self._run)

    def keep(self, run: OwnRun) -> None:
        """Write the run from its start to its end."""
        writing = self._writings[run.id] = Writing(run, self._has_grown)
        run.log.watch(writing.wake)
        writing.wake()

    def own(self, run_id: str) -> OwnRun | None:
        """Return a run that is being written, or was a moment ago."""
        writing = self._writings.get(run_id)
        return writing.run if writing else None

    def doubt(self) -> None:
        """Look whether others have ended runs of ours: we may have been thought dead."""
        self._breaks = -1
        self._urgent = True
        self._sleeper.wake()

    @property
    def outage_seconds(self) -> float:
        """Return for how long Redis has been taking nothing, 0 = it does."""
        return 0.0 if self._failing_since is None else time.monotonic() - self._failing_since

    @property
    def lag_seconds(self) -> float:
        """Return for how long the oldest event has been waiting, 0 = none waits."""
        since = self._grown_since or self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Write what there is, within CLOSE_SECONDS, and stop."""
        self._closed = True
        self._sleeper.wake()
        if self._writer is not None:
            self._writer.join(CLOSE_SECONDS)

    # -- when ------------------------------------------------------------------------------------------------------

    def _has_grown(self, writing: Writing) -> None:
        if not writing.grew:
            writing.grew = True
            self._grown.append(writing)
            self._grown_since = self._grown_since or time.monotonic()
        if writing.urgent:
            self._urgent = True
            self._sleeper.wake()
        elif len(self._grown) == 1:
            self._sleeper.wake_in(JOURNAL_SECONDS)

    def _run(self) -> None:
        while not self._closed or self._unwritten():
            if not self._urgent:
                self._sleeper.sleep(CLOSING_SECONDS if self._closed else self._idle_seconds())
            self._urgent = False
            try:
                self._forget_ended()
                if self._link.breaks != self._breaks:
                    self._compare_all()
                self._write()
            except Down:
                self._fails()
            except Exception:
                log.exception("the journal could not be written")
                self._fails()
            if self._failing_since is not None:
                if self._closed:
                    return
                gevent.sleep(TRY_AGAIN_SECONDS)

    def _unwritten(self) -> bool:
        return any(not writing.done for writing in self._writings.values())

    def _idle_seconds(self) -> float:
        if self._failing_since is not None:
            return 0.0
        if self._grown:
            return JOURNAL_SECONDS
        if self._to_store:
            return max(0.001, self._to_store[0][0] + STREAM_SECONDS - time.monotonic())
        return IDLE_SECONDS

    def _fails(self) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.error("Redis takes nothing: what is new waits in this process")

    # -- what ------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write what has grown to the journal, and what has waited long enough to the runs' streams."""
        pieces, journaled = self._pieces()
        stores = self._stores()
        commands: list[Command] = []
        if pieces:
            trim = ("MINID", "~", self._oldest_id)
            commands.append(("XADD", names.journal(self._tag), *trim, "*", "b", encode_batch(pieces)))
        for store in stores:
            commands.extend(store.commands)
        if pieces:
            commands.append(("PUBLISH", names.wake(self._tag), b""))  # last: who is woken finds all of it
        replies = iter(self._link.send(*commands) if commands else ())  # Down: what is missing is compared after it
        refused = bool(pieces) and not self._journal_took(next(replies), journaled)
        for store in stores:
            took = [next(replies) for _ in store.commands]
            refused = not self._stream_took(took[0], store) or refused
        if refused:
            self._fails()
            return
        self._grown_since = time.monotonic() if self._grown else None
        if self._failing_since is not None and commands:
            log.warning("Redis is back after %.1f s", self.outage_seconds)
            self._failing_since = None

    def _pieces(self) -> tuple[list[Piece], list[tuple[Writing, int]]]:
        """Return what the journal gets, and up to which `seq` each run is in it then."""
        grown, self._grown = self._grown, []
        pieces, journaled = [], []
        for writing in grown:
            writing.grew = False
            entries = writing.run.log.read(writing.journaled, BATCH_MAX_EVENTS)
            if entries:
                pieces.append(Piece(writing.run.id, entries[0].seq, msgspec.Raw(encode_stretch(entries))))
                journaled.append((writing, entries[-1].seq))
                self._store_later(writing)
        return pieces, journaled

    def _store_later(self, writing: Writing) -> None:
        """The first event makes a run known elsewhere, the end lets it be read without us: neither waits."""
        if not writing.stored or writing.run.ended:
            writing.to_store = True
            self._to_store.appendleft((0.0, writing))
        elif not writing.to_store:
            writing.to_store = True
            self._to_store.append((time.monotonic(), writing))

    def _stores(self) -> list["_Store"]:
        stores = []
        waited_enough = time.monotonic() - STREAM_SECONDS
        while self._to_store and self._to_store[0][0] <= waited_enough:
            _, writing = self._to_store.popleft()
            if writing.to_store:  # or it had two places, as its end came
                writing.to_store = False
                if entries := writing.run.log.read(writing.stored, BATCH_MAX_EVENTS):
                    stores.append(_Store(writing, entries[-1].seq, self._store(writing, entries)))
        return stores

    def _store(self, writing: Writing, entries: list[Entry]) -> list[Command]:
        key, run = names.run(writing.run.id), writing.run
        entry: Command = ("XADD", key, f"{entries[-1].seq}-0", "e", encode_stretch(entries))
        if entries[0].seq == 1:
            question = run.turn.remains().context.messages[-1].text()
            return [(*entry, "q", question), ("PEXPIRE", key, self._ttl_ms if run.ended else self._run_ms)]
        return [entry, ("PEXPIRE", key, self._ttl_ms)] if entries[-1].type == "end" else [entry]

    # -- what became of it -----------------------------------------------------------------------------------------

    def _journal_took(self, reply: object, journaled: list[tuple[Writing, int]]) -> bool:
        if isinstance(reply, Exception):
            self._again([writing for writing, _ in journaled])
            return False
        assert isinstance(reply, bytes)
        self._oldest_id = str(max(0, int(reply.partition(b"-")[0]) - JOURNAL_KEPT_MS))
        for writing, seq in journaled:
            writing.journaled = seq
            if writing.run.last_seq > seq and not writing.grew:
                self._has_grown(writing)
        return True

    def _stream_took(self, reply: object, store: "_Store") -> bool:
        writing = store.writing
        if isinstance(reply, Exception):
            if str(reply).startswith(NOT_THE_NEXT):
                self._compare([writing])
                return True
            self._again([writing])
            return False
        writing.stored = store.last_seq
        if writing.done:
            self._ended.append((time.monotonic(), writing))
        elif writing.run.last_seq > store.last_seq:
            self._store_later(writing)
        return True

    def _again(self, writings: list[Writing]) -> None:
        """Queue what could not be written."""
        for writing in writings:
            if not writing.grew:
                writing.grew = True
                self._grown.append(writing)
            if not writing.to_store:
                writing.to_store = True
                self._to_store.appendleft((0.0, writing))

    def _compare_all(self) -> None:
        """The connection broke: Redis may have less than it confirmed, or more than we know of. Raises Down."""
        breaks, writings = self._link.breaks, list(self._writings.values())
        for at in range(0, len(writings), TOPS_AT_ONCE):
            self._compare(writings[at : at + TOPS_AT_ONCE])
        self._breaks = breaks

    def _compare(self, writings: list[Writing]) -> None:
        tops = self._link.send(*(("XREVRANGE", names.run(each.run.id), "+", "-", "COUNT", 1) for each in writings))
        for writing, top in zip(writings, tops, strict=True):
            if isinstance(top, Exception):
                raise Down("refused")
            stored = int(top[0][0].partition(b"-")[0]) if top else 0
            if stored > writing.run.last_seq:  # we were thought dead, and somebody wrote the end
                self._forget(writing)
                self.lost(writing.run, decode_stretch_until(stored, top[0][1][b"e"])[-1])
                continue
            writing.stored = stored
            writing.journaled = min(writing.journaled, stored)
            if stored < writing.run.last_seq:
                self._again([writing])
                self._urgent = True

    def _forget_ended(self) -> None:
        too_old = time.monotonic() - min(ENDED_KEPT_SECONDS, self._ttl_ms / 1000)
        while self._ended and self._ended[0][0] < too_old:
            _, writing = self._ended.popleft()
            if writing.done:
                self._forget(writing)

    def _forget(self, writing: Writing) -> None:
        writing.run.log.unwatch(writing.wake)
        self._writings.pop(writing.run.id, None)
