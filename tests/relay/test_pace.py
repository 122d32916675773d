"""How evenly text came."""

import time

import pytest

from streaming.relay.pace import GAP_BOUNDS_SECONDS, Pace


def pace_of(monkeypatch: pytest.MonkeyPatch, *moments: float) -> Pace:
    pace, clock = Pace(), iter(moments)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    for _ in moments:
        pace.token()
    return pace


def test_each_gap_is_counted_under_the_bound_that_it_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = pace_of(monkeypatch, 8.0, 8.0, 8.5, 9.0, 16.0, 80.0)
    counted = dict(zip([*GAP_BOUNDS_SECONDS, None], pace.gaps, strict=True))
    assert {bound: count for bound, count in counted.items() if count} == {0.001: 1, 0.5: 2, 10.0: 1, None: 1}
    assert pace.total_seconds == 72.0


def test_less_than_two_tokens_have_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    for pace in (Pace(), pace_of(monkeypatch, 8.0)):
        assert (sum(pace.gaps), pace.total_seconds) == (0, 0.0)
