"""A run as its subscribers see it, wherever it is produced."""

import time
from collections.abc import Iterator
from typing import Protocol

from streaming.relay.conversations import Turn
from streaming.relay.cursor import READ_LIMIT_EVENTS, Cursor, Sleeper
from streaming.relay.store import Log
from streaming.wire.answer import Answer, fold
from streaming.wire.events import End, Entry

STOP_SECONDS = 3.0  # how long an upstream that is stopped by request (Dify) may take to end its stream


class Attendance(Protocol):
    """Who is there to see a run."""

    subscribers: int

    def joined(self) -> None:
        """Count a subscriber."""

    def left(self, *, by_us: bool) -> None:
        """Count one out. `by_us`: the relay ended its connection."""

    def seen(self) -> None:
        """Somebody looked at the run without following it."""

    def soften(self) -> None:
        """Somebody was told to come back later: whatever was asked, the run gets its grace."""


class Run:
    """One generation and its log. `end` is set from the moment it is in the log.

    Produced here (OwnRun) or by another worker (RemoteRun).
    """

    def __init__(self, id: str, turn: Turn, log: Log) -> None:  # noqa: A002
        self.id = id
        self.turn = turn
        self.log = log
        self.end: End | None = None
        self.last_seq = 0
        self.has_token = False  # from just before the first one is in the log
        self.presence: Attendance | None = None

    def follow(self, after: int, flush_seconds: float = 0.0) -> Cursor:
        """Return a cursor behind event `after`; close it. `flush_seconds`: see Cursor."""
        if self.presence is not None:
            self.presence.joined()
        return Cursor(self, after, self._left, flush_seconds)

    def _left(self, by_us: bool) -> None:
        if self.presence is not None:
            self.presence.left(by_us=by_us)

    @property
    def ended(self) -> bool:
        """Return whether the `end` is in the log."""
        return self.end is not None

    def has(self, seq: int) -> bool:
        """Return whether a cursor may stand at `seq`: the event is there, or none will come any more."""
        return seq <= self.last_seq or self.ended

    def answer(self) -> Answer:
        """Return what the log amounts to so far."""
        return fold(self.entries())

    def entries(self) -> Iterator[Entry]:
        """Yield what is in the log so far."""
        after = 0
        while entries := self.log.read(after, READ_LIMIT_EVENTS):
            yield from entries
            after = entries[-1].seq

    def wait_end(self, timeout_seconds: float) -> bool:
        """Wait for the end; return whether it came."""
        sleeper = Sleeper()
        deadline = time.monotonic() + timeout_seconds

        def grown() -> None:
            if self.ended:  # waking at every token would cost as much as following
                sleeper.wake()

        self.log.watch(grown)
        try:
            while not self.ended and (left := deadline - time.monotonic()) > 0:
                sleeper.sleep(left)
        finally:
            self.log.unwatch(grown)
            sleeper.close()
        return self.ended

    def end_early(self, reason: str, within_seconds: float = STOP_SECONDS) -> None:
        """Ask the run to end as "stopped", "abandoned" or "interrupted".

        The first to ask decides the reason, the one with the least patience how long the upstream's stop may take.
        """
        raise NotImplementedError
