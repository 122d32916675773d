"""How long an answer is waited for."""

import time

import gevent

from streaming.relay.patience import Patience


def test_patience_ends_at_the_first_bound_that_is_passed() -> None:
    over: list[str] = []
    idle = Patience(0.02, 60, lambda: over.append("idle"))
    stuck = Patience(60, 0.02, lambda: over.append("stuck"))
    last = Patience(60, 60, lambda: over.append("last"))
    fine = Patience(60, 60, lambda: over.append("fine"))
    last.await_last_word(0.02)
    with gevent.Timeout(10):
        while len(over) < 3:
            idle.progressed_at = time.monotonic()
            stuck.heard_at = time.monotonic()
            gevent.sleep(0.001)
    for each in (idle, stuck, last, fine):
        each.close()
    assert sorted(over) == ["idle", "last", "stuck"]
