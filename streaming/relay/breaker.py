"""Stops asking an upstream that keeps failing, so that nobody waits for it in vain."""

import time
from collections.abc import Callable

FAILURES_TO_OPEN = 5  # runs in a row: one bad minute of a provider, not one bad call
OPEN_SECONDS = 30.0


class Breaker:
    """A circuit breaker around the outcome of runs, not around their calls: those stay side by side.

    closed: runs pass. open: none does, for a while. Then one passes to try; its outcome closes or opens again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._trial: Permit | None = None

    @property
    def state(self) -> str:
        """Return closed, open or half_open."""
        if self._open_until is None:
            return "closed"
        return "half_open" if self._clock() >= self._open_until else "open"

    def admit(self) -> "Permit | None":
        """Return a permit that must be settled, None where the upstream is not to be asked now."""
        if self.state == "closed":
            return Permit(self)
        if self.state == "open" or self._trial is not None:
            return None
        self._trial = Permit(self)
        return self._trial

    def retry_after_seconds(self) -> int:
        """Return when a refused caller may come back, at least 1."""
        left = 0.0 if self._open_until is None else self._open_until - self._clock()
        return max(1, -int(-left // 1))

    def _settle(self, permit: "Permit", succeeded: bool | None, open_seconds: float) -> None:
        is_trial = permit is self._trial
        if is_trial:
            self._trial = None
        elif self.state != "closed":
            return  # a late word of a call from before: the trial decides
        if succeeded:
            self._failures, self._open_until = 0, None
        elif succeeded is False:
            self._failures += 1
            if is_trial or self._failures >= FAILURES_TO_OPEN:
                self._open_until = self._clock() + open_seconds


class Permit:
    """Leave to ask an upstream. The first settlement counts, so that `unknown` may stand in a `finally`."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker: Breaker | None = breaker

    def succeeded(self) -> None:
        """The upstream accepted the call."""
        self._settle(succeeded=True)

    def failed(self, open_seconds: float = OPEN_SECONDS) -> None:
        """The upstream failed; if that is once too often, it is left alone for `open_seconds`."""
        self._settle(succeeded=False, open_seconds=open_seconds)

    def unknown(self) -> None:
        """Nothing was learnt: stopped before, or the fault was the caller's or ours."""
        self._settle(succeeded=None)

    def _settle(self, *, succeeded: bool | None, open_seconds: float = OPEN_SECONDS) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._settle(self, succeeded, open_seconds)
