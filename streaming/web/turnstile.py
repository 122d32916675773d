"""Refusals leave one by one, so that a flood of them leaves time to those who are served.

A connection whose next request is already there is served again at once, and gevent.sleep(0) gives way to greenlets
that are ready, not to sockets that are: eight connections that were refused without a pause kept everybody else
waiting for 2 s.
"""

import time

import gevent

TURN_SECONDS = 0.002  # refusing takes a quarter to a half of it; were it longer than a turn, nobody would ever wait
SPARE_SECONDS = 0.004  # so little is not waited for: waiting costs time too
LONGEST_SECONDS = 2.0  # a crowd that has to wait longer holds connections and memory meanwhile


class Turnstile:
    """Lets one through at a time, after the first few. Who comes alone does not wait."""

    def __init__(self) -> None:
        self._free_at = 0.0  # monotonic

    def wait(self) -> None:
        """Return when it is the caller's turn, after 2 s at the latest."""
        now = time.monotonic()
        turn = min(max(now, self._free_at), now + LONGEST_SECONDS)
        self._free_at = turn + TURN_SECONDS
        if turn > now + SPARE_SECONDS:
            gevent.sleep(turn - now)
