"""Refusals leave one at a time, each when nobody else has anything to be done, so that a flood of them delays nobody.

A connection whose next request is already there is served again at once, and gevent.sleep(0) gives way to greenlets
that are ready, not to sockets that are: eight connections that were refused without a pause kept everybody else
waiting for 2 s.
"""

import time
from collections import deque
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter

LONGEST_SECONDS = 0.25  # where there is always something else to be done: who waits holds a connection and memory
LOOK_SECONDS = 0.01  # for those who have waited so long
LATE_AT_ONCE = 4  # of them leave then: a fiftieth of the time, at most


class Turnstile:
    """Lets one through in each turn of the event loop that is left over, and a few who have waited too long."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Waiter, float]] = deque()  # since when (monotonic)
        self._idle: Any = None
        self._timer: Any = None

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        if self._idle is None:  # the loop is the worker's own, which there is only now
            loop = get_hub().loop
            # libev calls an idle watcher when nothing else is pending, and does not sleep while there is one.
            self._idle, self._timer = loop.idle(), loop.timer(LOOK_SECONDS, LOOK_SECONDS)
        waiter = Waiter()
        self._waiting.append((waiter, time.monotonic()))
        if len(self._waiting) == 1:
            self._idle.start(self._let_one_through)
            self._timer.start(self._let_late_through)
        waiter.get()

    def _let_one_through(self) -> None:
        waiter, _ = self._waiting.popleft()
        if not self._waiting:
            self._idle.stop()
            self._timer.stop()
        waiter.switch(None)

    def _let_late_through(self) -> None:
        late = time.monotonic() - LONGEST_SECONDS
        for _ in range(LATE_AT_ONCE):
            if not self._waiting or self._waiting[0][1] > late:
                return
            self._let_one_through()
