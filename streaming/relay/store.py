"""The two ports behind which logs and small shared facts live. `stores/` holds the implementations."""

from collections.abc import Callable
from typing import Protocol

from streaming.wire.events import Entry


class Log(Protocol):
    """One run's events, in order: the only hand-over between the two sides of the relay."""

    size_bytes: int  # of the events' JSON

    def append(self, type: str, data: bytes, seq: int | None = None) -> Entry:  # noqa: A002
        """Add one event. Never blocks, yields or raises: a slow store must not slow the producer.

        `seq` None = the next one. Only an `end` that was written for a dead owner has another (events.LOST_END_SKIP).
        """

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return up to `limit` events with `seq` > `after`, in order."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` at every append, until unwatch. It must neither block nor raise."""

    def unwatch(self, wake: Callable[[], None]) -> None:
        """Forget a watcher; nothing happens where it is not known."""

    def drop(self) -> None:
        """Free what the log holds."""


class Keys(Protocol):
    """Small facts with a time to live: idempotency keys, conversations, claims."""

    def get(self, key: str) -> bytes | None:
        """Return the value, None where there is none (any more)."""

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Set the value."""

    def claim(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """Set the value if there is none and return None; otherwise return the one there is. Atomic."""

    def delete(self, key: str, value: bytes | None = None) -> None:
        """Forget the key, or only if it holds `value`."""


class Store(Protocol):
    """Where a relay keeps its runs."""

    @property
    def size_bytes(self) -> int:
        """Return the size of all logs, with what the process spends on each event."""

    def new_log(self, run_id: str) -> Log:
        """Return a new, empty log."""

    def keys(self, space: str) -> Keys:
        """Return the keys of one space, always the same for the same name; spaces are bounded apart."""
