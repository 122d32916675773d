"""How many uploads there may be at once: each may hold MAX_UPLOAD_BYTES on disk.

Whoever lets a few uploads trickle must not keep everybody else from uploading: where all slots are taken, the slowest
of those that trickle gives its own to who comes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from streaming.relay.interrupt import Interrupted, Interruptible
from streaming.wire.errors import Refusal

UPLOADS_AT_ONCE = 16
FAIR_BYTES_PER_SECOND = 100_000  # 15 MiB in the time that an upload has
FAIR_SECONDS = 2.0  # before that nobody is slow: connections begin slowly
BUSY_RETRY_AFTER_SECONDS = 5


class Slot:
    """One upload. `received_bytes` of its file so far."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self._began = time.monotonic()
        self._receiving = Interruptible()

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Mark the work that may be ended for somebody else. Raises Refusal("too_many_uploads") where it was."""
        try:
            with self._receiving:
                yield
        except Interrupted:
            raise _too_many() from None

    def bytes_per_second(self) -> float:
        """Return how fast the file comes; infinite while it need not be fast, and when all of it is there."""
        seconds = time.monotonic() - self._began
        return self.received_bytes / seconds if self._receiving.inside and seconds >= FAIR_SECONDS else float("inf")

    def give_way(self) -> None:
        """End the upload."""
        self._receiving.interrupt()


class UploadSlots:
    """All uploads of this process."""

    def __init__(self) -> None:
        self._taken: set[Slot] = set()

    @contextmanager
    def taken(self) -> Iterator[Slot]:
        """Hold a slot inside a `with` block. Raises Refusal("too_many_uploads") where none is or becomes free."""
        if len(self._taken) >= UPLOADS_AT_ONCE:
            self._make_room()
        slot = Slot()
        self._taken.add(slot)
        try:
            yield slot
        finally:
            self._taken.discard(slot)

    def _make_room(self) -> None:
        slowest = min(self._taken, key=Slot.bytes_per_second)
        if slowest.bytes_per_second() >= FAIR_BYTES_PER_SECOND:
            raise _too_many()
        self._taken.discard(slowest)
        slowest.give_way()


def _too_many() -> Refusal:
    message = "Too many uploads at once; try again shortly."
    return Refusal("too_many_uploads", message, retry_after=BUSY_RETRY_AFTER_SECONDS)
