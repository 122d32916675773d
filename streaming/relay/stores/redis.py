"""The shared store: small facts in Redis, logs in memory (the journal writes them to Redis behind the producers)."""

from typing import Any

from streaming.relay.stores.link import Link
from streaming.relay.stores.memory import MemoryLog, MemoryStore
from streaming.relay.stores.outbox import Outbox

# Atomic, and the same on every version: SET's NX and GET go together from Redis 7 on only.
CLAIM = """
local there = redis.call('GET', KEYS[1])
if there then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
DELETE_IF = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 0"


class RedisKeys:
    """See store.Keys. Reading and claiming raise Refusal("store_unavailable"); writing waits for Redis elsewhere."""

    def __init__(self, space: str, link: Link, outbox: Outbox) -> None:
        self._prefix = f"sluice:{space}:"
        self._link = link
        self._outbox = outbox

    def get(self, key: str) -> bytes | None:
        """See store.Keys."""
        name = self._prefix + key
        if self._outbox.knows(name):
            return self._outbox.value(name)
        return _bytes(self._link.ask(("GET", name))[0])

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """See store.Keys."""
        name = self._prefix + key
        self._outbox.write(name, value, ("SET", name, value, "PX", _milliseconds(ttl_seconds)))

    def claim(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """See store.Keys."""
        name = self._prefix + key
        [there] = self._link.ask(("EVAL", CLAIM, 1, name, value, _milliseconds(ttl_seconds)))
        return None if there == value else _bytes(there)  # its own: the answer to a first try was lost

    def delete(self, key: str, value: bytes | None = None) -> None:
        """See store.Keys."""
        name = self._prefix + key
        self._outbox.write(name, None, ("DEL", name) if value is None else ("EVAL", DELETE_IF, 1, name, value))


class RedisStore:
    """See store.Store."""

    def __init__(self, link: Link, outbox: Outbox) -> None:
        self._link = link
        self._outbox = outbox
        self._memory = MemoryStore()

    @property
    def size_bytes(self) -> int:
        """See store.Store: of this process."""
        return self._memory.size_bytes

    def new_log(self, run_id: str) -> MemoryLog:
        """See store.Store."""
        return self._memory.new_log(run_id)

    def keys(self, space: str) -> RedisKeys:
        """See store.Store."""
        return RedisKeys(space, self._link, self._outbox)


def _bytes(reply: Any) -> bytes | None:
    return bytes(reply) if reply is not None else None


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
