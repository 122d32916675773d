"""How long an upstream's answer is waited for."""

import time
from collections.abc import Callable
from typing import Any

from gevent import get_hub


class Patience:
    """How long an answer is waited for: without a byte, without an event, and for what follows its terminal sign.

    Its owner sets `heard_at` when bytes come and `progressed_at` when an event does (monotonic). A token costs no more:
    one timer runs, and looks how long is left when it goes off. `over` is called in the hub when none is. `close` it.
    """

    def __init__(self, idle_seconds: float, progress_seconds: float, over: Callable[[], None]) -> None:
        self._idle_seconds = idle_seconds
        self._progress_seconds = progress_seconds
        self._over = over
        self.heard_at = self.progressed_at = time.monotonic()
        self._last_word_by: float | None = None
        self._timer: Any = None
        self._set_timer()

    def await_last_word(self, seconds: float) -> None:
        """From now on only so long is left, whatever comes. Said again, it changes nothing."""
        if self._last_word_by is None:
            self._last_word_by = time.monotonic() + seconds
            self._set_timer()

    def _left_seconds(self) -> float:
        by = min(self.heard_at + self._idle_seconds, self.progressed_at + self._progress_seconds)
        if self._last_word_by is not None:
            by = min(by, self._last_word_by)
        return by - time.monotonic()

    def _set_timer(self) -> None:
        self.close()
        self._timer = get_hub().loop.timer(max(0.0, self._left_seconds()))
        self._timer.start(self._look)

    def _look(self) -> None:
        if self._left_seconds() > 0:
            self._set_timer()
        else:
            self._over()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
