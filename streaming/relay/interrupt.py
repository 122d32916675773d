"""A stretch of blocking work that somebody else may end, at any point of it and at no other."""

from typing import Any

from gevent import get_hub, getcurrent
from greenlet import GreenletExit


class Interrupted(GreenletExit):  # type: ignore[misc]  # greenlet ships no types
    """Thrown into work that was interrupted. Not an Exception: libraries must not take it for an error of theirs."""


class Interruptible:
    """Marks the work: `with interruptible: …`. Inside, `interrupt` raises Interrupted; outside it does nothing.

    The exception is thrown from the hub, where the greenlet surely waits, and not later than the check that it is
    still inside: what follows the work can never be hit. gevent's own kill() gives no such promise.
    """

    def __init__(self) -> None:
        self._greenlet: Any = None

    def __enter__(self) -> None:
        self._greenlet = getcurrent()

    def __exit__(self, *_: object) -> None:
        self._greenlet = None

    @property
    def inside(self) -> bool:
        """Return whether the work is going on."""
        return self._greenlet is not None

    def interrupt(self) -> None:
        """End the work, soon; may be called from any greenlet, any number of times."""
        get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._greenlet is not None:
            self._greenlet.throw(Interrupted)
