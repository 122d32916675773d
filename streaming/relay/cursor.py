"""A subscriber's place in a run's log, and the sleep of one who has read it all.

A slow subscriber costs its cursor, never a queue: what it has not read lies in the log, once for everybody.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gevent import get_hub, getcurrent

from streaming.wire.events import Entry

if TYPE_CHECKING:
    from streaming.relay.run import Run

READ_LIMIT_EVENTS = 512
"""A stuck subscriber holds one read's worth of references while it is stuck; a whole log's worth, times many
subscribers, would be memory that no bound counts."""


class Sleeper:
    """Lets one greenlet sleep until it is woken or its time is over. A wake-up before the sleep is not lost.

    Like gevent's Event for a single waiter, without its list of links and its greenlet-independent bookkeeping.
    """

    __slots__ = ("_greenlet", "_scheduled", "_woken")

    def __init__(self) -> None:
        self._greenlet: object | None = None
        self._scheduled = False
        self._woken = False

    def sleep(self, seconds: float) -> bool:
        """Return True when woken, False when the time is over."""
        hub = get_hub()
        if not self._woken:
            timer = hub.loop.timer(seconds)
            self._greenlet = getcurrent()
            timer.start(self._switch)
            try:
                hub.switch()
            finally:
                self._greenlet = None
                timer.close()
        woken, self._woken = self._woken, False
        return woken

    def forget(self) -> None:
        """Forget a wake-up that came while nobody slept."""
        self._woken = False

    def wake(self) -> None:
        """End the sleep, this one or the next. Many wake-ups before the sleeper runs are one."""
        self._woken = True
        if self._greenlet is not None and not self._scheduled:
            self._scheduled = True
            get_hub().loop.run_callback(self._switch_woken)

    def _switch_woken(self) -> None:
        self._scheduled = False
        if self._woken:
            self._switch()

    def _switch(self) -> None:
        greenlet = self._greenlet
        if greenlet is not None:
            greenlet.switch()  # type: ignore[attr-defined]


class Cursor:
    """One subscriber of one run. `seq` is the last event it has; `done` says that nothing will follow, `complete` that
    the end was delivered.

    Made by Run.follow; whoever made it must `close` it. `close` may be called from anywhere, any number of times.
    """

    def __init__(self, run: "Run", after: int, on_close: Callable[[bool], None]) -> None:
        self.seq = after
        self.done = False
        self.complete = False
        self._run = run
        self._on_close = on_close
        self._closed = False
        self._sleeper = Sleeper()
        run.log.watch(self._sleeper.wake)

    def read(self, timeout_seconds: float) -> list[Entry]:
        """Return the next events; wait for them at most `timeout_seconds`, 0 = not at all.

        Empty = silence, or `done`.
        """
        if self.done or self._closed:
            self.done = True
            return []
        self._sleeper.forget()  # what woke us before is in the log
        entries = self._run.log.read(self.seq, READ_LIMIT_EVENTS)
        if not entries and not self._run.ended and timeout_seconds > 0:
            self._sleeper.sleep(timeout_seconds)
            entries = self._run.log.read(self.seq, READ_LIMIT_EVENTS)
        if entries:
            self.seq = entries[-1].seq
            self.done = self.complete = entries[-1].type == "end"
        elif self._run.ended or self._closed:
            self.done = True
        return entries

    def close(self, *, by_us: bool = False) -> None:
        """Leave the run. `by_us`: the relay ended the connection, the client did not go away."""
        if self._closed:
            return
        self._closed = True
        self._run.log.unwatch(self._sleeper.wake)
        self._sleeper.wake()
        self._on_close(by_us)
