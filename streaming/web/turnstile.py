"""Refusals leave a few at a time, so that a flood of them leaves time to those who are served.

A connection whose next request is already there is served again at once, and gevent.sleep(0) gives way to greenlets
that are ready, not to sockets that are: eight connections that were refused without a pause kept everybody else
waiting for 2 s.
"""

import time

import gevent

SLOT_SECONDS = 0.01
AT_ONCE = 4
"""In one slot, about a fifth of it: 99 of 100 good callers wait at most twice as long meanwhile, and with 6 up to four
times. One by one each would pay for a timer and for waking the process."""
LONGEST_SLOTS = 200  # 2 s: a crowd that has to wait longer holds connections and memory meanwhile


class Turnstile:
    """Lets so many through in each slot of time. Who comes alone does not wait."""

    def __init__(self) -> None:
        self._slot = 0  # the one that is being filled, by the monotonic clock
        self._taken = 0

    def wait(self) -> None:
        """Return when it is the caller's turn, after 2 s at the latest."""
        now = time.monotonic()
        current = int(now / SLOT_SECONDS)
        if current > self._slot:
            self._slot, self._taken = current, 0
        elif self._taken >= AT_ONCE and self._slot < current + LONGEST_SLOTS:
            self._slot, self._taken = self._slot + 1, 0
        self._taken += 1
        if self._slot > current:
            gevent.sleep(self._slot * SLOT_SECONDS - now)
