"""Refusals leave one at a time, each when nobody else has anything to be done, so that a flood of them delays nobody.

A connection whose next request is already there is served again at once, and gevent.sleep(0) gives way to greenlets
that are ready, not to sockets that are: eight connections that were refused without a pause kept everybody else
waiting for 2 s. Slots of time (4 refusals in 10 ms) doubled what each cost: the processor had slept, and was cold.
"""

import time
from collections import deque
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter

LONGEST_SECONDS = 2.0  # where there is always something else to be done: who waits holds a connection and memory
LOOK_SECONDS = 0.25  # for those who have waited too long


class Turnstile:
    """Lets one through in each turn of the event loop that is left over."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Waiter, float]] = deque()  # since when (monotonic)
        self._watchers: tuple[Any, ...] = ()

    def wait(self) -> None:
        """Return when it is the caller's turn, or it has waited for LONGEST_SECONDS (and LOOK_SECONDS)."""
        if not self._watchers:  # of the worker's own loop, which there is from here on
            loop = get_hub().loop
            # libev calls an idle watcher when nothing else is pending, and does not sleep while there is one.
            self._watchers = loop.idle(), loop.timer(LOOK_SECONDS, LOOK_SECONDS)
        waiter = Waiter()
        self._waiting.append((waiter, time.monotonic()))
        if len(self._waiting) == 1:
            idle, clock = self._watchers
            idle.start(self._let_one_through)
            clock.start(self._let_overdue_through)
        waiter.get()

    def _let_one_through(self) -> None:
        waiter, _ = self._waiting.popleft()
        if not self._waiting:
            for watcher in self._watchers:
                watcher.stop()
        waiter.switch(None)

    def _let_overdue_through(self) -> None:
        overdue = time.monotonic() - LONGEST_SECONDS
        while self._waiting and self._waiting[0][1] <= overdue:
            self._let_one_through()
