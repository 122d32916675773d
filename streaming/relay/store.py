"""The ports behind which logs and small shared facts live. `stores/` holds the implementations."""

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


class Counters(Protocol):
    """Numbers and small sets that are forgotten in time. Reading or claiming may raise Refusal("store_unavailable")."""

    def add(self, key: str, amount: int, seconds: float) -> tuple[int, float]:
        """Add to a counter that begins anew `seconds` after its first addition; 0 = only look.

        Return what it holds, and in how many seconds it begins anew.
        """

    def note(self, key: str, amount: int, seconds: float) -> None:
        """Add without an answer: whatever the store does, nobody waits for long and nothing is raised."""

    def enter(self, key: str, member: str, limit: int, seconds: float) -> bool:
        """Put a member into a set of at most `limit`, for at most `seconds`; return whether it is in. Atomic."""

    def leave(self, key: str, member: str) -> None:
        """Take a member out. As `note`."""


class Store(Protocol):
    """Where a relay keeps its runs."""

    @property
    def size_bytes(self) -> int:
        """Return the size of all logs, with what the process spends on each event."""

    def new_log(self, run_id: str) -> Log:
        """Return a new, empty log."""

    def keys(self, space: str) -> Keys:
        """Return the keys of one space, always the same for the same name; spaces are bounded apart."""

    def counters(self) -> Counters:
        """Return the counters, always the same."""
