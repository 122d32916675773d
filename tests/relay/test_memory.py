"""The memory store: logs, keys, and what they count."""

import gevent
import pytest

from streaming.relay.stores.memory import MemoryKeys, MemoryStore


def test_a_log_is_read_from_any_place_in_bounded_slices() -> None:
    log = MemoryStore().new_log("r")
    for n in range(10):
        assert log.append("token", b"%d" % n).seq == n + 1
    assert [entry.data for entry in log.read(0, 3)] == [b"0", b"1", b"2"]
    assert [entry.seq for entry in log.read(8, 100)] == [9, 10]
    assert log.read(10, 100) == []
    assert log.size_bytes == 10


def test_watchers_are_woken_until_they_leave() -> None:
    log, woken = MemoryStore().new_log("r"), []
    wake = lambda: woken.append(1)  # noqa: E731
    log.watch(wake)
    log.append("token", b"{}")
    log.unwatch(wake)
    log.unwatch(wake)
    log.append("token", b"{}")
    assert len(woken) == 1


def test_the_store_counts_what_its_logs_hold_and_forgets_what_is_dropped() -> None:
    store = MemoryStore()
    logs = [store.new_log(name) for name in "ab"]
    for log in logs:
        log.append("token", b"x" * 1000)
    assert store.size_bytes > 2000
    logs[0].drop()
    assert 1000 < store.size_bytes < 2000
    logs[1].drop()
    assert store.size_bytes == 0


def test_a_key_is_claimed_once_until_it_expires_or_is_deleted() -> None:
    keys = MemoryKeys()
    assert keys.claim("k", b"first", 0.05) is None
    assert keys.claim("k", b"second", 10) == b"first"
    gevent.sleep(0.06)
    assert keys.get("k") is None
    assert keys.claim("k", b"third", 10) is None
    keys.delete("k")
    assert keys.get("k") is None


def test_keys_are_bounded_and_the_oldest_go_first() -> None:
    keys = MemoryKeys(max_bytes=5000)
    for n in range(20):
        keys.put(f"k{n}", b"x" * 1000, 60)
    kept = [n for n in range(20) if keys.get(f"k{n}")]
    assert kept == list(range(20 - len(kept), 20))
    assert 2 <= len(kept) <= 5


@pytest.mark.parametrize("value", [b"", b"x" * 10_000])
def test_the_newest_key_is_kept_whatever_its_size(value: bytes) -> None:
    keys = MemoryKeys(max_bytes=100)
    keys.put("k", value, 60)
    assert keys.get("k") == value
