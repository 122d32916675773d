"""The breaker's states, on a clock of the test's own."""

from streaming.relay.breaker import FAILURES_TO_OPEN, OPEN_SECONDS, Breaker, Permit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admitted(breaker: Breaker) -> Permit:
    permit = breaker.admit()
    assert permit is not None
    return permit


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        admitted(breaker).failed()


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    fail(breaker, FAILURES_TO_OPEN)
    assert breaker.state == "open"
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(Clock())
    for _ in range(3):
        fail(breaker, FAILURES_TO_OPEN - 1)
        admitted(breaker).succeeded()
    assert breaker.state == "closed"
    fail(breaker, FAILURES_TO_OPEN)
    assert breaker.state == "open"


def test_an_open_one_refuses_and_says_when_to_come_back() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert breaker.admit() is None
    assert breaker.retry_after_seconds() == OPEN_SECONDS
    clock.now += OPEN_SECONDS - 0.5
    assert breaker.admit() is None
    assert breaker.retry_after_seconds() == 1


def test_a_busy_upstream_is_left_alone_only_as_long_as_it_asks() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        admitted(breaker).failed(open_seconds=2)
    assert breaker.admit() is None
    clock.now += 2
    assert breaker.admit() is not None


def test_after_its_time_one_may_try_and_decides() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += OPEN_SECONDS
    trial = admitted(breaker)
    assert breaker.admit() is None  # the others wait for its outcome
    trial.failed()
    assert breaker.state == "open"
    clock.now += OPEN_SECONDS
    admitted(breaker).succeeded()
    assert breaker.state == "closed"
    assert all(breaker.admit() for _ in range(10))


def test_a_trial_that_was_given_up_leaves_the_place_to_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += OPEN_SECONDS
    admitted(breaker).unknown()
    assert breaker.admit() is not None


def test_a_late_word_of_an_older_call_neither_opens_nor_closes() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    late = [admitted(breaker) for _ in range(3)]
    fail(breaker, FAILURES_TO_OPEN)
    clock.now += 20
    late[0].failed()
    late[1].succeeded()
    assert breaker.state == "open"
    clock.now += 10
    trial = admitted(breaker)
    late[2].unknown()
    assert breaker.admit() is None  # the trial's place is still taken
    trial.succeeded()
    assert breaker.state == "closed"


def test_a_permit_is_settled_once() -> None:
    breaker = Breaker(Clock())
    for _ in range(FAILURES_TO_OPEN - 1):
        permit = admitted(breaker)
        permit.failed()
        permit.failed()
        permit.unknown()
    assert breaker.state == "closed"


def test_calls_side_by_side_are_admitted_side_by_side() -> None:
    breaker = Breaker(Clock())
    assert all(breaker.admit() for _ in range(50))
