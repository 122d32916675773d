"""How evenly a run's text came: the gaps between its tokens, counted as they come and told once, at the end."""

import time
from bisect import bisect_left

GAP_BOUNDS_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Fast servers make a token every 5 to 20 ms, hosted models every 10 to 100; people notice 200 ms."""


class Pace:
    """`gaps[n]` counts gaps of up to GAP_BOUNDS_SECONDS[n], and more than the bound before; the last one all longer.

    `total_seconds` is their sum, `began` (monotonic) when the first token came, None = none yet.
    """

    __slots__ = ("_last", "began", "gaps")

    def __init__(self) -> None:
        self.gaps = [0] * (len(GAP_BOUNDS_SECONDS) + 1)
        self.began: float | None = None
        self._last = 0.0

    def token(self) -> None:
        """Take note of a piece of text that came now. On the hot path."""
        now = time.monotonic()
        if self.began is None:
            self.began = now
        else:
            self.gaps[bisect_left(GAP_BOUNDS_SECONDS, now - self._last)] += 1
        self._last = now

    @property
    def total_seconds(self) -> float:
        """Return the time from the first token to the last."""
        return 0.0 if self.began is None else self._last - self.began
