"""Small writes to Redis that need no answer: in order, soon, and still there when Redis is away for a while."""

import logging
import time
from collections import OrderedDict

import gevent
from gevent.event import Event

from streaming.relay.cursor import Sleeper
from streaming.relay.stores.link import Command, Down, Link

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.25  # how long a writer waits: longer, and a run's end would come late because Redis is away
TRY_AGAIN_SECONDS = 0.25
MAX_BYTES = 32 << 20  # waiting: conversations of an outage; the oldest go first
IDLE_SECONDS = 60.0
CLOSE_SECONDS = 1.0


class Outbox:
    """The last write of each key waits here until Redis has it. `start` before use, `close` at the end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: OrderedDict[str, tuple[bytes | None, Command, int]] = OrderedDict()
        self._size_bytes = 0
        self._sleeper = Sleeper()
        self._sent = Event()
        self._closed = False
        self._sender: gevent.Greenlet | None = None

    def start(self) -> None:
        """Begin to send."""
        self._sender = gevent.spawn(self._run)

    def write(self, key: str, value: bytes | None, command: Command) -> None:
        """Send the command, which makes `key` hold `value` (None = nothing); wait a moment for it to be there."""
        self._forget(key)
        size = len(key) + len(value or b"")
        write = self._waiting[key] = (value, command, size)
        self._size_bytes += size
        while self._size_bytes > MAX_BYTES and len(self._waiting) > 1:
            log.error("a write to Redis is given up: too many are waiting")
            self._forget(next(iter(self._waiting)))
        self._sleeper.wake()
        deadline = time.monotonic() + WAIT_SECONDS
        while self._waiting.get(key) is write and self._link.unbroken_seconds and time.monotonic() < deadline:
            self._sent.clear()
            self._sent.wait(deadline - time.monotonic())

    def knows(self, key: str) -> bool:
        """Return whether a write of the key is still waiting."""
        return key in self._waiting

    def value(self, key: str) -> bytes | None:
        """Return what a waiting write makes of the key."""
        return self._waiting[key][0]

    def close(self) -> None:
        """Send what waits, unless Redis is away, and stop."""
        self._closed = True
        self._sleeper.wake()
        if self._sender is not None:
            self._sender.join(CLOSE_SECONDS)

    def _forget(self, key: str) -> None:
        if key in self._waiting:
            self._size_bytes -= self._waiting.pop(key)[2]

    def _run(self) -> None:
        while True:
            if not self._waiting:
                if self._closed:
                    return
                self._sleeper.sleep(IDLE_SECONDS)
                continue
            batch = dict(self._waiting)
            try:
                replies = self._link.send(*(command for _, command, _ in batch.values()))
            except Down:
                if self._closed:
                    return
                gevent.sleep(TRY_AGAIN_SECONDS)
                continue
            self._settle(batch, replies)

    def _settle(self, batch: dict[str, tuple[bytes | None, Command, int]], replies: list[object]) -> None:
        refused = False
        for (key, write), reply in zip(batch.items(), replies, strict=True):
            refused = refused or isinstance(reply, Exception)
            if not isinstance(reply, Exception) and self._waiting.get(key) is write:
                self._forget(key)
        self._sent.set()
        if refused:  # full: it may have room again
            gevent.sleep(TRY_AGAIN_SECONDS)
