"""A subscriber's place in a run's log, and the sleep of one who has read it all.

A slow subscriber costs its cursor, never a queue: what it has not read lies in the log, once for everybody.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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

    One timer runs on through many sleeps, and looks how long is left when it goes off: a timer for each sleep cost a
    tenth of a token's processor time (108 against 98 µs, 50 streams, taking turns). `close` stops it; a Sleeper that is
    not closed is held by it until it goes off.
    """

    __slots__ = ("_alarm", "_by", "_greenlet", "_scheduled", "_timer", "_timer_by", "_woken", "instead")

    def __init__(self, instead: Callable[[], bool] | None = None) -> None:
        """`instead` is called in the hub before a wake-up and may neither block nor raise; True = the sleep goes on."""
        self.instead = instead
        self._greenlet: object | None = None
        self._alarm: Any = None  # a timer
        self._by = self._timer_by = 0.0  # monotonic: the end of this sleep, and when the timer goes off
        self._timer: Any = None
        self._scheduled = False
        self._woken = False

    def sleep(self, seconds: float) -> bool:
        """Return True when woken, False when the time is over."""
        if not self._woken:
            self._by = time.monotonic() + seconds
            if self._timer is None or self._by < self._timer_by:
                self._set_timer()
            self._greenlet = getcurrent()
            try:
                get_hub().switch()
            finally:
                self._greenlet = None
                if self._alarm is not None:
                    self._alarm.close()
                    self._alarm = None
        woken, self._woken = self._woken, False
        return woken

    def _set_timer(self) -> None:
        self.close()
        self._timer_by = self._by
        self._timer = get_hub().loop.timer(max(0.0, self._by - time.monotonic()))
        self._timer.start(self._look)

    def _look(self) -> None:
        if self._greenlet is not None and self._by > time.monotonic():
            self._set_timer()
        else:
            self.close()
            self._switch()

    def close(self) -> None:
        """Stop the timer; whoever sleeps is woken by nothing else then."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def forget(self) -> None:
        """Forget a wake-up that came while nobody slept."""
        self._woken = False

    def wake(self) -> None:
        """End the sleep, this one or the next. Many wake-ups before the sleeper runs are one."""
        self._woken = True
        if self._greenlet is not None and not self._scheduled:
            self._scheduled = True
            get_hub().loop.run_callback(self._switch_woken)

    def wake_in(self, seconds: float) -> None:
        """End a sleep that has begun so many seconds from now; the first one to say so counts.

        It costs no switch of greenlets until then, however often it is said.
        """
        if self._greenlet is not None and self._alarm is None:
            self._alarm = get_hub().loop.timer(seconds)
            self._alarm.start(self._switch)

    def _switch_woken(self) -> None:
        self._scheduled = False
        if not self._woken or self._greenlet is None:
            return
        if self.instead is not None and self.instead():
            self._woken = False
        else:
            self._switch()

    def _switch(self) -> None:
        greenlet = self._greenlet
        if greenlet is not None:
            greenlet.switch()  # type: ignore[attr-defined]


class Cursor:
    """One subscriber of one run. `seq` is the last event it has; `done` says that nothing will follow, `complete` that
    the end was delivered.

    `flush_seconds`: once something was delivered, what comes within so long leaves together; 0 = each event at once.
    What is there already, the first token and the end never wait.

    `deliver`, where it is set, gets what comes while the reader sleeps in `read`, in the hub, and returns whether the
    reader can sleep on; it moves `seq` behind what it took. The end is never given to it.

    Made by Run.follow; whoever made it must `close` it. `close` may be called from anywhere, any number of times.
    `open_ones`: how many there are in this process.
    """

    open_ones = 0

    def __init__(self, run: "Run", after: int, on_close: Callable[[bool], None], flush_seconds: float = 0.0) -> None:
        self.seq = after
        self.done = False
        self.complete = False
        self.sent_away = False  # the relay ended it so that its subscriber resumes elsewhere
        self.deliver: Callable[[list[Entry]], bool] | None = None
        self._run = run
        self._on_close = on_close
        self._closed = False
        self._flush_seconds = flush_seconds
        self._held_until = 0.0  # monotonic
        self._has_token = False  # one was delivered
        self._sleeper = Sleeper(self._delivered)
        self._watcher = self._appended if flush_seconds else self._sleeper.wake
        run.log.watch(self._watcher)
        Cursor.open_ones += 1

    def read(self, timeout_seconds: float) -> list[Entry]:
        """Return the next events; wait for them at most `timeout_seconds`, 0 = not at all.

        Empty = silence, or `done`.
        """
        if self.done or self._closed:
            self.done = True
            return []
        self._sleeper.forget()  # what woke us before is in the log
        entries = self._run.log.read(self.seq, READ_LIMIT_EVENTS)
        pause_seconds = self._pause_seconds(entries, timeout_seconds)
        if pause_seconds > 0:
            self._sleeper.sleep(pause_seconds)
            entries = self._run.log.read(self.seq, READ_LIMIT_EVENTS)
        if entries:
            self.seq = entries[-1].seq
            self.done = self.complete = entries[-1].type == "end"
            if self._flush_seconds:
                self._hold(entries)
        elif self._run.ended or self._closed:
            self.done = True
        return entries

    def _delivered(self) -> bool:
        """Return whether what came needs no reader: a switch to its greenlet and back costs more than the delivery."""
        if self.deliver is None or self._flush_seconds:
            return False
        entries = self._run.log.read(self.seq, READ_LIMIT_EVENTS)
        if not entries or len(entries) == READ_LIMIT_EVENTS:  # of what a full read left nobody would tell the reader
            return False
        return entries[-1].type != "end" and self.deliver(entries)

    def _pause_seconds(self, entries: list[Entry], timeout_seconds: float) -> float:
        if entries:
            return min(timeout_seconds, self._hold_seconds())
        return 0.0 if self._run.ended else timeout_seconds

    def _hold(self, entries: list[Entry]) -> None:
        """What follows these may wait, unless it is there already or they are but the run's preliminaries."""
        self._has_token = self._has_token or any(entry.type == "token" for entry in entries)
        preliminary = entries[-1].type in {"start", "upstream"}
        holds = len(entries) < READ_LIMIT_EVENTS and not preliminary
        self._held_until = time.monotonic() + self._flush_seconds if holds else 0.0

    def _hold_seconds(self) -> float:
        """Return how long what is in the log may still wait."""
        urgent = self._run.ended or (self._run.has_token and not self._has_token)
        return 0.0 if urgent or not self._held_until else self._held_until - time.monotonic()

    def _appended(self) -> None:
        hold_seconds = self._hold_seconds()
        if hold_seconds > 0:
            self._sleeper.wake_in(hold_seconds)
        else:
            self._sleeper.wake()

    def send_away(self) -> None:
        """Leave the run, so that its subscriber resumes elsewhere."""
        self.sent_away = True
        self.close(by_us=True)

    def close(self, *, by_us: bool = False) -> None:
        """Leave the run. `by_us`: the relay ended the connection, the client did not go away."""
        if self._closed:
            return
        self._closed = True
        Cursor.open_ones -= 1
        self._run.log.unwatch(self._watcher)
        self.deliver = self._sleeper.instead = None  # both hold this: run and log would wait for the cycle collector
        self._sleeper.close()
        self._sleeper.wake()
        self._on_close(by_us)
