"""A value that somebody else has: one fetch at a time, bounded waiting, failures remembered for a while."""

import gevent
import pytest
from gevent.event import Event

from streaming.relay import fetched as fetched_module
from streaming.relay.fetched import Fetched
from streaming.wire.errors import Failure


class Clock:
    """Stands in for the `time` module."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fetched_module, "time", clock)
    return clock


class Source:
    """Counts fetches; each takes the next of `answers`, waiting for `go` first."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.fetches = 0
        self.go = Event()
        self.go.set()

    def __call__(self) -> object:
        self.fetches += 1
        answer = self.answers.pop(0)
        self.go.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


def kept(source: Source) -> Fetched[object]:
    return Fetched("it", source, ttl_seconds=100, retry_seconds=10)


def test_nothing_is_fetched_before_it_is_wanted_and_then_once() -> None:
    source = Source("a")
    value = kept(source)
    gevent.sleep(0)
    assert source.fetches == 0
    source.go.clear()
    waiting = [gevent.spawn(value.get, 20) for _ in range(5)]
    gevent.sleep(0.01)
    source.go.set()
    assert [each.get(timeout=20) for each in waiting] == ["a"] * 5
    assert source.fetches == 1


def test_who_cannot_wait_gets_what_there_is_and_the_fetch_goes_on(clock: Clock) -> None:
    source = Source("a", "b")
    value = kept(source)
    source.go.clear()
    assert value.get(0) is None
    assert value.get(0.01) is None
    source.go.set()
    assert value.get(20) == "a"
    clock.now += 101
    source.go.clear()
    assert value.get(0.01) == "a"  # the old one, while the new one is fetched
    source.go.set()
    assert value.get(20) == "b"
    assert source.fetches == 2


def test_a_value_is_kept_for_its_time(clock: Clock) -> None:
    source = Source("a", "b")
    value = kept(source)
    assert value.get(20) == "a"
    clock.now += 99
    assert value.get(20) == "a"
    clock.now += 2
    assert value.get(20) == "b"


def test_after_a_failure_nobody_asks_for_a_while_and_the_old_value_stays(clock: Clock) -> None:
    source = Source(Failure("upstream_unreachable"), "a", Failure("upstream_timeout"), "b")
    value = kept(source)
    for _ in range(3):
        assert value.get(20) is None
    assert source.fetches == 1
    assert value.failure is not None
    clock.now += 11
    assert (value.get(20), value.failure) == ("a", None)
    clock.now += 101
    for _ in range(3):
        assert value.get(20) == "a"
    assert source.fetches == 3
    clock.now += 11
    assert value.get(20) == "b"


def test_a_fault_of_ours_is_logged_and_remembered_like_any_failure(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(ValueError("a bug"))
    value = kept(source)
    for _ in range(3):
        assert value.get(20) is None
    assert value.failure is not None
    assert value.failure.code == "internal"
    assert "a bug" in caplog.text
