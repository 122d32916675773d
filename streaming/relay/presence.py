"""What happens to a run that nobody follows."""

from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub


class Presence:
    """Counts a run's subscribers and calls `abandon` when the policy says that nobody is coming.

    grace   nobody for `grace_seconds`: abandon
    finish  never
    cancel  at once when the last one has left; like grace until the first one came, and when it was we who closed
    """

    def __init__(self, policy: str, grace_seconds: float, abandon: Callable[[], None]) -> None:
        self.subscribers = 0
        self._policy = policy
        self._grace_seconds = grace_seconds
        self._abandon = abandon
        self._timer: Any = None
        self._over = False
        self._wait()

    def joined(self) -> None:
        """Count a subscriber."""
        self.subscribers += 1
        self._stop_timer()

    def left(self, *, by_us: bool) -> None:
        """Count one out; the last one starts the policy."""
        self.subscribers -= 1
        if self.subscribers or self._over:
            return
        if self._policy == "cancel" and not by_us:
            self._abandon()
        else:
            self._wait()

    def seen(self) -> None:
        """Somebody looked at the run without following it: the grace begins anew."""
        if not self.subscribers:
            self._wait()

    def soften(self) -> None:
        """Somebody was told to come back later: whatever was asked, the run gets its grace."""
        self._policy = "grace"
        self.seen()

    def over(self) -> None:
        """The run has ended: nothing to abandon any more."""
        self._over = True
        self._stop_timer()

    def _wait(self) -> None:
        self._stop_timer()
        if self._policy != "finish" and not self._over:
            # A bare timer: most are stopped at once, by the first subscriber, and a greenlet each costs ten times it.
            self._timer = get_hub().loop.timer(self._grace_seconds)
            self._timer.start(self._nobody_came)

    def _nobody_came(self) -> None:
        self._stop_timer()
        gevent.spawn(self._abandon)  # the hub's callbacks must not wait

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
