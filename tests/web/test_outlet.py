"""A live stream's short way: what leaves by it, what needs the reader, and that nothing is lost between the two."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from flask import Flask
from gevent import socket

from streaming.relay.conversations import Turn
from streaming.relay.observing import nobody
from streaming.relay.run import Run
from streaming.relay.stores.memory import MemoryStore
from streaming.web.connection import ClientSocket
from streaming.web.outlet import Outlet
from streaming.web.streams import _body
from streaming.wire import jsontext
from streaming.wire.ask import Context
from streaming.wire.events import End, Entry, Event, Reasoning, Step, Token
from streaming.wire.formats import MAX_WRITE_BYTES, Format
from streaming.wire.formats.native import Ndjson, Text
from tests.live import WAIT_SECONDS

FOR_EVER = 3600.0
STEP = Step(id="s", kind="node", name="n", status="started")
END = End(reason="done")


class Stream:
    """A run whose log the test writes, and a client on a real socket. `writes` are those of the reader itself."""

    def __init__(self, *, format_: Format, protocol: str, opened: bool) -> None:
        ours, self.client = socket.socketpair()
        self.served = ClientSocket(ours.family, ours.type, ours.proto, fileno=ours.detach())
        self.run = Run("r", Turn(Context(messages=[], user="u")), MemoryStore().new_log("r"))
        self.cursor = self.run.follow(0)
        environ = {"gunicorn.socket": self.served, "SERVER_PROTOCOL": protocol}
        self.outlet = Outlet(environ, self.cursor, format_)
        if opened:
            self.outlet.open()
        self.writes: list[bytes] = []
        self.reader = gevent.spawn(self._read, format_)
        gevent.sleep(0)  # it sleeps

    def _read(self, format_: Format) -> None:
        with Flask(__name__).test_request_context():
            for write in _body(self.cursor, format_, self.outlet, FOR_EVER, 0, nobody):
                self.writes.append(write)
                self.served.sendall(write)

    def say(self, *events: Event) -> None:
        """Append events, then let the hub have its turn."""
        for event in events:
            if isinstance(event, End):
                self.run.end = event
            self.run.last_seq = self.run.log.append(event.type, jsontext.dumps(event)).seq
        gevent.sleep(0)
        gevent.sleep(0)

    def receive(self, size_bytes: int) -> bytes:
        data = b""
        with gevent.Timeout(WAIT_SECONDS):
            while len(data) < size_bytes:
                data += self.client.recv(size_bytes - len(data))
        return data

    def close(self) -> None:
        self.cursor.close()
        self.client.close()
        self.served.close()
        self.reader.join()


@contextmanager
def stream(format_: Format | None = None, protocol: str = "HTTP/1.1", *, opened: bool = True) -> Iterator[Stream]:
    made = Stream(format_=format_ or Text(), protocol=protocol, opened=opened)
    try:
        yield made
    finally:
        made.close()


def token(text: str) -> Token:
    return Token(text=text)


def test_tokens_leave_while_the_reader_sleeps_each_in_a_chunk_of_its_own() -> None:
    with stream() as it:
        it.say(token("a"))
        it.say(token("bc"), token("d"))
        assert it.receive(14) == b"1\r\na\r\n3\r\nbcd\r\n"
        it.say(Reasoning(text="not shown in text"))
        assert it.outlet.sent_bytes == 4
        assert it.writes == [b""]
        it.say(token("e"), END)
        assert it.writes == [b"", b"e"]


def test_http_1_0_has_no_chunks() -> None:
    with stream(protocol="HTTP/1.0") as it:
        it.say(token("a"))
        it.say(token("b"))
        assert it.receive(2) == b"ab"


@pytest.mark.parametrize(
    "events",
    [
        [STEP],
        [token("a"), STEP],
        [token("a"), END],
        [token("x" * MAX_WRITE_BYTES)],
        [token("x" * 100)] * 80,
        [token("x")] * 500,
    ],
    ids=["another event", "a token before it", "the end", "a large one", "a burst", "a burst of small ones"],
)
def test_what_is_not_simple_is_the_readers(events: list[Event]) -> None:
    with stream(Ndjson()) as it:
        it.say(*events)
        assert b"".join(it.writes).count(b"\n") == 1 + len(events)
        assert it.outlet.sent_bytes == 0


def test_what_is_not_opened_leaves_everything_to_the_reader() -> None:
    """So it is where the stream is compressed: test_compression.py."""
    with stream(opened=False) as it:
        it.say(token("a"))
        assert it.writes == [b"", b"a"]


def test_what_a_client_does_not_take_at_once_follows_in_order_and_once() -> None:
    texts = [f"{number:04d}" + "x" * 4000 for number in range(200)]
    with stream(protocol="HTTP/1.0") as it:
        for text in texts:
            it.say(token(text))
        assert it.served.blocked_since is not None  # the reader waits for the client
        assert 0 < it.outlet.sent_bytes < sum(map(len, texts))
        it.say(END)
        assert it.receive(sum(map(len, texts))) == "".join(texts).encode()


def test_a_client_that_is_gone_is_the_readers_to_find() -> None:
    with stream() as it:
        it.client.close()
        it.say(token("a"))
        with pytest.raises(ConnectionResetError):
            it.reader.get(timeout=WAIT_SECONDS)


def test_an_error_of_ours_is_not_taken_for_a_client_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Ndjson):
        def encode(self, entry: Entry) -> bytes:
            raise OSError("no space left on the device")

    with stream(Broken()) as it:
        it.say(STEP)
        with pytest.raises(ConnectionResetError):
            it.reader.get(timeout=WAIT_SECONDS)
    assert [record.getMessage() for record in caplog.records] == ["a stream broke off inside the relay"]


class Written:
    """An outlet that has just written, for as long as the test looks."""

    sent_bytes = 0

    def __init__(self) -> None:
        self.wrote_at = time.monotonic() + WAIT_SECONDS

    def finish(self) -> None:
        pass


def test_what_leaves_by_the_outlet_is_no_silence() -> None:
    outlet: Any = Written()
    run = Run("r", Turn(Context(messages=[], user="u")), MemoryStore().new_log("r"))
    cursor = run.follow(0)
    body = _body(cursor, Ndjson(), outlet, 0.02, 0, nobody)
    assert next(body) == Ndjson().opening()
    with gevent.Timeout(0.2, False):
        pytest.fail(f"{next(body)!r} was sent in a silence that there was not")
    cursor.close()
    body.close()  # type: ignore[attr-defined]
