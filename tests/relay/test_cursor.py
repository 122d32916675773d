"""The sleep of a subscriber that has read everything. What cursors deliver is in test_runs.py."""

import gevent
from gevent.event import Event as Flag

from streaming.relay.cursor import Sleeper


def test_a_sleeper_keeps_a_wake_up_that_came_early() -> None:
    sleeper = Sleeper()
    sleeper.wake()
    assert sleeper.sleep(10) is True
    assert sleeper.sleep(0.01) is False
    flag = Flag()
    sleeping = gevent.spawn(lambda: (flag.set(), sleeper.sleep(10))[1])
    flag.wait()
    for _ in range(3):
        sleeper.wake()
    assert sleeping.get(timeout=5) is True
    assert sleeper.sleep(0.01) is False
