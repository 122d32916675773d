"""Who was refused a moment ago and still has to wait: in a flood of the same question the store is asked once."""

import time
from collections import OrderedDict
from collections.abc import Hashable

import msgspec

ASK_AGAIN_SECONDS = 10.0  # of the store, whether a window that is full still is: an operator may have emptied Redis
MAX_REMEMBERED = 10_000  # the last ones: against addresses without end filling the memory


class RecentRefusal(msgspec.Struct, frozen=True):
    """A refusal for its number, and when its window ends (monotonic)."""

    code: str
    message: str
    limit: int
    window_ends: float


class RecentRefusals:
    """Refusals by who was refused, each for ASK_AGAIN_SECONDS, or until its window ends."""

    def __init__(self) -> None:
        self._refusals: OrderedDict[Hashable, tuple[RecentRefusal, float]] = OrderedDict()  # until when (monotonic)

    def find(self, key: Hashable) -> RecentRefusal | None:
        """Return the refusal, None where there is none any more."""
        refusal, until = self._refusals.get(key, (None, 0.0))
        return refusal if time.monotonic() < until else None

    def note(self, key: Hashable, refusal: RecentRefusal) -> None:
        """Remember a refusal."""
        self._refusals[key] = refusal, min(refusal.window_ends, time.monotonic() + ASK_AGAIN_SECONDS)
        self._refusals.move_to_end(key)
        if len(self._refusals) > MAX_REMEMBERED:
            self._refusals.popitem(last=False)
