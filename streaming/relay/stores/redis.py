"""The shared store: small facts in Redis, logs in memory (the journal writes them to Redis behind the producers)."""

import secrets
import time
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
ADD = """
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if ARGV[1] ~= '0' then count = redis.call('INCRBY', KEYS[1], ARGV[1]) end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  left = tonumber(ARGV[2])
  redis.call('PEXPIRE', KEYS[1], left)
end
return {count, left}
"""
ENTER = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 1 end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[3]) - tonumber(ARGV[2]))
return 1
"""


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


class RedisCounters:
    """See store.Counters. Reading and entering raise Refusal("store_unavailable")."""

    def __init__(self, link: Link, outbox: Outbox) -> None:
        self._link = link
        self._outbox = outbox

    def add(self, key: str, amount: int, seconds: float) -> tuple[int, float]:
        """See store.Counters."""
        [reply] = self._link.ask(("EVAL", ADD, 1, _counter(key), amount, _milliseconds(seconds)))
        count, left_ms = reply
        return int(count), int(left_ms) / 1000

    def note(self, key: str, amount: int, seconds: float) -> None:
        """See store.Counters. Each has a name of its own in the outbox, where the last of one name counts."""
        command = ("EVAL", ADD, 1, _counter(key), amount, _milliseconds(seconds))
        self._outbox.write(f"{_counter(key)} {secrets.token_hex(8)}", None, command)

    def enter(self, key: str, member: str, limit: int, seconds: float) -> bool:
        """See store.Counters."""
        now_ms = time.time_ns() // 1_000_000
        arguments = (member, now_ms, now_ms + _milliseconds(seconds), limit)
        [entered] = self._link.ask(("EVAL", ENTER, 1, _counter(key), *arguments))
        return bool(entered)

    def leave(self, key: str, member: str) -> None:
        """See store.Counters."""
        self._outbox.write(f"{_counter(key)} {member}", None, ("ZREM", _counter(key), member))


class RedisStore:
    """See store.Store."""

    def __init__(self, link: Link, outbox: Outbox) -> None:
        self._link = link
        self._outbox = outbox
        self._memory = MemoryStore()
        self._counters = RedisCounters(link, outbox)

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

    def counters(self) -> RedisCounters:
        """See store.Store."""
        return self._counters


def _counter(key: str) -> str:
    return f"sluice:counter:{key}"


def _bytes(reply: Any) -> bytes | None:
    return bytes(reply) if reply is not None else None


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
