"""A subscriber's place in a log: how it sleeps, and what it lets wait. What cursors deliver is in test_runs.py too."""

import gc
import weakref

import gevent
import greenlet
import pytest
from gevent.event import Event as Flag

from streaming.relay.conversations import Turn
from streaming.relay.cursor import READ_LIMIT_EVENTS, Cursor, Sleeper
from streaming.relay.run import Run
from streaming.relay.stores.memory import MemoryStore
from streaming.wire.ask import Context
from streaming.wire.events import End, Entry
from tests.live import WAIT_SECONDS, wait_until

FOR_EVER = 3600.0  # held this long, a test that awaits what must not wait fails


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


def test_the_first_alarm_ends_a_sleep_and_the_next_sleep_has_its_own() -> None:
    sleeper, slept = Sleeper(), []
    sleeper.wake_in(0.01)  # nobody sleeps
    sleeping = gevent.spawn(lambda: [slept.append(sleeper.sleep(FOR_EVER)) for _ in range(2)])
    for number in (1, 2):
        gevent.sleep(0)
        sleeper.wake_in(0.01)
        sleeper.wake_in(FOR_EVER)
        wait_until(lambda number=number: len(slept) == number, "the alarm ends the sleep")
    sleeping.get(timeout=5)
    assert slept == [False, False]


def test_a_sleep_is_neither_cut_nor_lengthened_by_the_timer_of_the_one_before() -> None:
    sleeper, slept = Sleeper(), []
    sleeping = gevent.spawn(lambda: [slept.append(sleeper.sleep(seconds)) for seconds in (0.02, FOR_EVER, 0.02)])
    gevent.sleep(0)
    sleeper.wake()
    wait_until(lambda: slept == [True], "the wake-up ends the sleep")
    gevent.sleep(0.05)  # the first sleep's time is over, the second one's is not
    assert slept == [True]
    sleeper.wake()
    sleeping.get(timeout=5)
    assert slept == [True, True, False]


def test_a_closed_cursor_leaves_no_timer_behind() -> None:
    loop, run = gevent.get_hub().loop, Told()
    cursor = run.follow(run.last_seq)
    before = loop.activecnt
    reading = gevent.spawn(cursor.read, FOR_EVER)
    gevent.sleep(0)
    run.say("token")
    assert [entry.type for entry in reading.get(timeout=5)] == ["token"]
    assert loop.activecnt > before  # for the next sleep
    cursor.close()
    assert loop.activecnt == before


def test_a_closed_cursor_is_freed_at_once_and_lets_go_of_the_run() -> None:
    run = Told()
    cursor = run.follow(0)
    cursor.deliver = lambda entries, cursor=cursor: cursor.done  # holds the cursor, as the outlet does
    cursor.read(0)
    cursor.close()
    alive = weakref.ref(cursor)
    gc.disable()  # or it might free what this test is about
    try:
        del cursor
        assert alive() is None
    finally:
        gc.enable()


class Told(Run):
    """A run whose log the test writes."""

    def __init__(self) -> None:
        super().__init__("r", Turn(Context(messages=[], user="u")), MemoryStore().new_log("r"))
        self.say("start")

    def say(self, *types: str) -> None:
        """Append events; the end as a producer writes it."""
        for type_ in types:
            self.has_token = self.has_token or type_ == "token"
            self.end = End(reason="done") if type_ == "end" else None
            self.last_seq = self.log.append(type_, b"{}").seq


class Reader:
    """A greenlet that reads a cursor to its end. `reads` are the types of each read; `switches` how often it woke."""

    def __init__(self, cursor: Cursor) -> None:
        self.reads: list[list[str]] = []
        self.switches = 0
        self._cursor = cursor
        self._greenlet = gevent.spawn(self._read)
        self._tracing = greenlet.settrace(self._trace)
        gevent.sleep(0)  # it has read what there is and waits

    def _read(self) -> None:
        entries = self._cursor.read(0)
        while not self._cursor.done:
            self.reads.append(types(entries))
            entries = self._cursor.read(FOR_EVER)
        self.reads.append(types(entries))

    def _trace(self, event: str, switched: tuple[object, object]) -> None:
        self.switches += switched[1] is self._greenlet

    def await_reads(self, count: int) -> None:
        """Wait until so many reads have returned."""
        with gevent.Timeout(WAIT_SECONDS, AssertionError(f"{count} reads; there are {self.reads}")):
            while len(self.reads) < count:
                gevent.sleep(0)

    def join(self) -> None:
        """Wait until the cursor is done."""
        self._greenlet.get(timeout=WAIT_SECONDS)
        greenlet.settrace(self._tracing)


def types(entries: list[Entry]) -> list[str]:
    return [entry.type for entry in entries]


def test_without_flush_seconds_each_event_is_read_at_once() -> None:
    run = Told()
    reader = Reader(run.follow(0))
    for number, type_ in enumerate(("token", "token", "end"), 2):
        run.say(type_)
        reader.await_reads(number)
    reader.join()
    assert reader.reads == [["start"], ["token"], ["token"], ["end"]]


@pytest.mark.parametrize("before", [[], ["upstream"], ["upstream", "reasoning"], ["step"], ["reasoning", "tool_call"]])
def test_the_first_token_and_the_end_never_wait_and_the_rest_leaves_together(before: list[str]) -> None:
    run = Told()
    reader = Reader(run.follow(0, FOR_EVER))
    run.say(*before)
    run.say("token")
    reader.await_reads(2)
    assert reader.reads == [["start"], [*before, "token"]]
    awake = reader.switches
    for _ in range(50):
        run.say("token")
        gevent.sleep(0)
    assert (len(reader.reads), reader.switches) == (2, awake)  # not only nothing written: nobody woke
    run.say("end")
    reader.join()
    assert reader.reads[2:] == [["token"] * 50 + ["end"]]
    assert reader.switches == awake + 1


def test_the_first_thought_does_not_wait() -> None:
    run = Told()
    reader = Reader(run.follow(0, FOR_EVER))
    run.say("upstream")
    reader.await_reads(2)
    run.say("reasoning")
    reader.await_reads(3)
    run.say("reasoning", "end")
    reader.join()


def test_the_first_token_that_comes_while_the_subscriber_is_writing_does_not_wait() -> None:
    run = Told()
    cursor = run.follow(0, FOR_EVER)
    run.say("reasoning")
    cursor.read(0)
    run.say("reasoning", "token")  # the subscriber is not asleep
    with gevent.Timeout(WAIT_SECONDS):
        assert types(cursor.read(FOR_EVER)) == ["reasoning", "token"]
    cursor.close()


def test_what_comes_while_the_subscriber_is_writing_waits_too() -> None:
    run = Told()
    run.say("token")
    cursor = run.follow(0, FOR_EVER)
    cursor.read(0)
    run.say("token")
    gevent.spawn(run.say, "end")
    assert types(cursor.read(FOR_EVER)) == ["token", "end"]
    cursor.close()


def test_tokens_wait_flush_seconds_at_most() -> None:
    run = Told()
    run.say("token")
    reader = Reader(run.follow(0, 0.05))
    run.say("token", "token")
    reader.await_reads(2)
    assert reader.reads[1] == ["token", "token"]
    gevent.sleep(0.06)
    awake = reader.switches
    run.say("token")  # after a silence longer than that it leaves at once, and wakes the reader once
    gevent.sleep(0)
    gevent.sleep(0)
    assert (reader.reads[2:], reader.switches) == ([["token"]], awake + 1)
    run.say("end")
    reader.join()


def test_a_late_subscriber_gets_all_there_is_at_once() -> None:
    run = Told()
    run.say(*["token"] * READ_LIMIT_EVENTS)
    reader = Reader(run.follow(0, FOR_EVER))
    reader.await_reads(2)
    assert [len(each) for each in reader.reads] == [READ_LIMIT_EVENTS, 1]
    run.say("end")
    reader.join()


def test_one_who_resumes_gets_the_first_token_at_once() -> None:
    run = Told()
    run.say("token", "token")
    reader = Reader(run.follow(3, FOR_EVER))
    run.say("token")
    reader.await_reads(2)
    run.say("end")
    reader.join()


def test_closing_ends_the_wait() -> None:
    run = Told()
    run.say("token")
    cursor = run.follow(0, FOR_EVER)
    reader = Reader(cursor)
    run.say("token")
    gevent.sleep(0)
    cursor.close()
    reader.join()


def test_a_held_event_does_not_outlast_the_wait_for_silence() -> None:
    run = Told()
    run.say("token")
    cursor = run.follow(0, FOR_EVER)
    cursor.read(0)
    run.say("token")
    with gevent.Timeout(WAIT_SECONDS):
        assert types(cursor.read(0.01)) == ["token"]
    assert cursor.read(0.01) == []
    cursor.close()


def test_what_comes_beyond_one_read_while_the_reader_sleeps_does_not_wait_for_the_next_event() -> None:
    run = Told()
    cursor = run.follow(0)

    def deliver(entries: list[Entry]) -> bool:
        cursor.seq = entries[-1].seq
        return True

    cursor.deliver = deliver
    reader = Reader(cursor)
    run.say(*["token"] * (READ_LIMIT_EVENTS + 1))
    wait_until(lambda: cursor.seq == run.last_seq, "the last one was delivered", 1)
    run.say("end")
    reader.join()
