"""The default store: this process's memory. Right for one process; nothing outlives it."""

import time
from collections import OrderedDict
from collections.abc import Callable

from streaming.wire.events import Entry

ENTRY_OVERHEAD_BYTES = 130
"""What CPython spends on an entry besides its JSON (object, bytes header, list slot): counted, or the bound on all
logs would be passed threefold by small tokens."""

KEYS_MAX_BYTES = 64 * 1024 * 1024
"""Of one space, against conversations or keys filling the memory; what is untouched for longest goes first."""


COUNTERS_MAX = 100_000
"""Against addresses without end filling the memory; the oldest goes first."""


class MemoryLog:
    """One run's log: a list, so `seq` is the index plus one (but for an end that skips)."""

    def __init__(self, store: "MemoryStore") -> None:
        self.size_bytes = 0
        self._store = store
        self._entries: list[Entry] = []
        self._watchers: list[Callable[[], None]] = []

    def append(self, type: str, data: bytes, seq: int | None = None) -> Entry:  # noqa: A002
        """See store.Log."""
        entry = Entry(seq or len(self._entries) + 1, type, data)
        self._entries.append(entry)
        self.size_bytes += len(data)
        self._store.size_bytes += len(data) + ENTRY_OVERHEAD_BYTES
        for wake in self._watchers:
            wake()
        return entry

    def read(self, after: int, limit: int) -> list[Entry]:
        """See store.Log."""
        entries = self._entries[after : after + limit]
        if not entries and self._entries and self._entries[-1].seq > after:
            return self._entries[-1:]  # an end that skips
        return entries

    def watch(self, wake: Callable[[], None]) -> None:
        """See store.Log."""
        self._watchers.append(wake)

    def unwatch(self, wake: Callable[[], None]) -> None:
        """See store.Log."""
        if wake in self._watchers:
            self._watchers.remove(wake)

    def drop(self) -> None:
        """See store.Log."""
        self._store.size_bytes -= self.size_bytes + ENTRY_OVERHEAD_BYTES * len(self._entries)
        self.size_bytes = 0
        self._entries = []


class MemoryKeys:
    """Keys in a dict, bounded in bytes."""

    def __init__(self, max_bytes: int = KEYS_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # key -> value, expiry (monotonic)

    def get(self, key: str) -> bytes | None:
        """See store.Keys."""
        value, expires = self._values.get(key, (None, 0.0))
        if value is None:
            return None
        if expires <= time.monotonic():
            self.delete(key)
            return None
        return value

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """See store.Keys."""
        self.delete(key)
        self._values[key] = (value, time.monotonic() + ttl_seconds)
        self._size_bytes += len(key) + len(value) + ENTRY_OVERHEAD_BYTES
        while self._size_bytes > self._max_bytes and len(self._values) > 1:
            self.delete(next(iter(self._values)))

    def claim(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """See store.Keys."""
        there = self.get(key)
        if there is None:
            self.put(key, value, ttl_seconds)
        return there

    def delete(self, key: str, value: bytes | None = None) -> None:
        """See store.Keys."""
        there, _ = self._values.get(key, (None, 0.0))
        if there is not None and value in {None, there}:
            del self._values[key]
            self._size_bytes -= len(key) + len(there) + ENTRY_OVERHEAD_BYTES


class MemoryCounters:
    """See store.Counters."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # key -> count, until (monotonic)
        self._sets: dict[str, dict[str, float]] = {}  # key -> member -> until (monotonic)

    def add(self, key: str, amount: int, seconds: float) -> tuple[int, float]:
        """See store.Counters."""
        now = time.monotonic()
        count, until = self._counts.get(key, (0, 0.0))
        if until <= now:
            self._counts.pop(key, None)
            count, until = 0, now + seconds
        if amount:
            self._counts[key] = (count + amount, until)
            if len(self._counts) > COUNTERS_MAX:
                self._counts.popitem(last=False)
        return count + amount, until - now

    def note(self, key: str, amount: int, seconds: float) -> None:
        """See store.Counters."""
        self.add(key, amount, seconds)

    def enter(self, key: str, member: str, limit: int, seconds: float) -> bool:
        """See store.Counters."""
        now = time.monotonic()
        members = {each: until for each, until in self._sets.get(key, {}).items() if until > now}
        if len(members) >= limit and member not in members:
            return False
        self._sets[key] = {**members, member: now + seconds}
        return True

    def leave(self, key: str, member: str) -> None:
        """See store.Counters."""
        members = self._sets.get(key, {})
        members.pop(member, None)
        if not members:
            self._sets.pop(key, None)


class MemoryStore:
    """See store.Store."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._counters = MemoryCounters()
        self._spaces: dict[str, MemoryKeys] = {}

    def new_log(self, run_id: str) -> MemoryLog:
        """See store.Store."""
        return MemoryLog(self)

    def keys(self, space: str) -> MemoryKeys:
        """See store.Store. Long conversations must not push out the keys that keep a retry from being billed."""
        return self._spaces.setdefault(space, MemoryKeys())

    def counters(self) -> MemoryCounters:
        """See store.Store."""
        return self._counters
