"""Stops asking an upstream that keeps failing, so that nobody waits for it in vain."""

import time
from collections.abc import Callable

FAILURES_TO_OPEN = 5  # in a row: one bad minute of a provider, not one bad call
OPEN_SECONDS = 30.0


class Breaker:
    """A circuit breaker around the outcome of calls, not around the calls: those stay side by side.

    closed: calls pass. open: none does, for OPEN_SECONDS. Then one passes to try; its outcome closes or opens again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False

    @property
    def state(self) -> str:
        """Return closed, open or half_open."""
        if self._open_until is None:
            return "closed"
        return "half_open" if self._clock() >= self._open_until else "open"

    def admit(self) -> bool:
        """Return whether a call may be made now; one that was admitted must report its outcome."""
        state = self.state
        if state == "half_open" and not self._trying:
            self._trying = True
            return True
        return state == "closed"

    def retry_after_seconds(self) -> int:
        """Return when a refused caller may come back, at least 1."""
        left = 0.0 if self._open_until is None else self._open_until - self._clock()
        return max(1, -int(-left // 1))

    def succeeded(self) -> None:
        """An admitted call was accepted."""
        self._failures, self._open_until, self._trying = 0, None, False

    def failed(self) -> None:
        """An admitted call failed through the upstream's fault."""
        self._failures += 1
        if self._trying or self._failures >= FAILURES_TO_OPEN:
            self._open_until = self._clock() + OPEN_SECONDS
        self._trying = False

    def unknown(self) -> None:
        """An admitted call was given up before its outcome was known, or the fault was the caller's."""
        self._trying = False
