"""The breaker's states, on a clock of the test's own."""

from streaming.relay.breaker import FAILURES_TO_OPEN, OPEN_SECONDS, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.admit()
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(Clock())
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.admit()
        breaker.failed()
    assert breaker.state == "open"


def test_an_open_one_refuses_and_says_when_to_come_back() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.admit()
    assert breaker.retry_after_seconds() == OPEN_SECONDS
    clock.now += OPEN_SECONDS - 0.5
    assert not breaker.admit()
    assert breaker.retry_after_seconds() == 1


def test_after_its_time_one_call_may_try_and_decides() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += OPEN_SECONDS
    assert breaker.admit()
    assert not breaker.admit()  # the others wait for its outcome
    breaker.failed()
    assert breaker.state == "open"
    clock.now += OPEN_SECONDS
    assert breaker.admit()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert all(breaker.admit() for _ in range(10))


def test_a_trial_that_was_given_up_leaves_the_place_to_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += OPEN_SECONDS
    assert breaker.admit()
    breaker.unknown()
    assert breaker.admit()


def test_calls_side_by_side_are_admitted_side_by_side() -> None:
    breaker = Breaker(Clock())
    assert all(breaker.admit() for _ in range(50))
