"""Feeds this worker's copies of runs that others produce: one subscription and one reader, however many there are.

Who produces says that its journal has grown; one read brings what is new of all that have said so.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import msgspec
from redis.exceptions import RedisError

from streaming.relay.cursor import Sleeper
from streaming.relay.remote import RemoteRun
from streaming.relay.store import Log
from streaming.relay.stores import names
from streaming.relay.stores.link import Command, Down, Link
from streaming.wire.journal import decode_batch, decode_stretch, decode_stretch_until

log = logging.getLogger(__name__)

PAGE_ENTRIES = 256  # of one stream in one reply
TAIL_BATCHES = 96  # of a journal: longer than a run's own stream is behind it
LISTEN_SECONDS = 1.0
DEAF_SECONDS = 5.0  # a subscription that does not hear its own worker for so long is dead
TRY_AGAIN_SECONDS = 0.25
IDLE_SECONDS = 60.0
CLOSE_SECONDS = 1.0
LEFT_SECONDS = 10.0  # how long a copy that nobody follows is kept: pages look again
SAID_MAX = 10_000  # words to other workers that wait for Redis


class Owner:
    """A worker some of whose runs are followed here. `last_id`: of its journal, what was read."""

    def __init__(self) -> None:
        self.last_id = b"-"
        self.runs: dict[str, RemoteRun] = {}


class Reader:
    """`start` before use. `heard(data)` gets what others say to this worker; it must neither block nor raise."""

    def __init__(self, tag: str, link: Link, new_log: Callable[[str], Log], heard: Callable[[bytes], None]) -> None:
        self.owners: dict[str, Owner] = {}
        self._tag = tag
        self._link = link
        self._new_log = new_log
        self._heard = heard
        self._to_read: set[str] = set()  # tags of owners
        self._to_say: deque[Command] = deque(maxlen=SAID_MAX)
        self._breaks = 0
        self._sleeper = Sleeper()
        self._last_heard = 0.0  # monotonic
        self._greenlets: list[gevent.Greenlet] = []
        self._closed = False

    def start(self) -> None:
        """Begin to listen and to read."""
        self._greenlets = [gevent.spawn(self._listen), gevent.spawn(self._run)]

    def close(self) -> None:
        """Say what is still to be said, and stop."""
        self.say(self._tag, b"")  # the listener hears it
        self._closed = True
        gevent.joinall(self._greenlets, CLOSE_SECONDS)

    # -- copies ----------------------------------------------------------------------------------------------------

    def get(self, run_id: str) -> RemoteRun | None:
        """Return the copy of a run, None where Redis has nothing of it. Raises Refusal("store_unavailable").

        It is fed from before its past is fetched: so there is no seam.
        """
        tag = run_id[: len(self._tag)]
        owner = self.owners.get(tag)
        if owner is None:
            owner = self.owners[tag] = Owner()
            self.say(self._tag, b"")  # so that the listener subscribes
        run = owner.runs.get(run_id)
        if run is None:
            run = owner.runs[run_id] = RemoteRun(run_id, self._new_log(run_id), self._tell)
        try:
            self._fetch(run, owner)
        finally:
            if not run.known:
                self._drop(tag, run_id)
        if not run.known:
            return None
        # Somebody else who asked at the same time may have found nothing yet, and dropped what we share.
        return self.owners.setdefault(tag, owner).runs.setdefault(run_id, run)

    def _fetch(self, run: RemoteRun, owner: Owner) -> None:
        more = not run.known
        while more:
            tail = ("XREVRANGE", names.journal(run.id[: len(self._tag)]), "+", "-", "COUNT", TAIL_BATCHES)
            stream, batches = self._link.ask(self._range(run), tail)
            more = self._take_stream(run, stream)
            if owner.last_id == b"-" and batches:
                owner.last_id = batches[0][0]
            for _, fields in reversed(batches):
                for piece in decode_batch(fields[b"b"]):
                    if piece.run_id == run.id:
                        run.offer(decode_stretch(piece.first_seq, piece.stretch))

    def refresh(self, run: RemoteRun) -> bytes | None:
        """Bring a copy up to date; return the id of the last entry of the run's stream. Raises Down.

        A copy that is complete but for its end is the point: what only the journal has is part of it.
        """
        tag, more = run.id[: len(self._tag)], True
        journal, top = ("XRANGE", names.journal(tag), "-", "+"), ("XREVRANGE", names.run(run.id), "+", "-", "COUNT", 1)
        last: bytes | None = None
        while more:
            stream, newest, batches = self._link.send(self._range(run), top, journal)
            more = self._take_stream(run, stream)
            last = newest[0][0] if newest else None
            for _, fields in batches:
                for piece in decode_batch(fields[b"b"]):
                    if piece.run_id == run.id:
                        run.offer(decode_stretch(piece.first_seq, piece.stretch))
        return last

    def _range(self, run: RemoteRun) -> Command:
        return ("XRANGE", names.run(run.id), str(run.last_seq + 1), "+", "COUNT", PAGE_ENTRIES)

    def _take_stream(self, run: RemoteRun, entries: list[Any]) -> bool:
        """Feed what a run's own stream has; return whether there is more of it."""
        for id_, fields in entries:
            if b"q" in fields:
                run.ask_was(fields[b"q"].decode())
            run.offer(decode_stretch_until(int(id_.partition(b"-")[0]), fields[b"e"]), from_stream=True)
        return len(entries) == PAGE_ENTRIES and not run.ended

    def _drop(self, tag: str, run_id: str) -> None:
        owner = self.owners.get(tag)
        if owner is None:
            return
        if run := owner.runs.pop(run_id, None):
            run.log.drop()
        if not owner.runs:
            del self.owners[tag]

    def drop_left(self) -> None:
        """Forget the copies that nobody has followed for a while."""
        too_old = time.monotonic() - LEFT_SECONDS
        for tag, owner in list(self.owners.items()):
            for run in list(owner.runs.values()):
                if not run.followers.subscribers and run.followers.idle_since < too_old:
                    self._drop(tag, run.id)

    # -- speaking --------------------------------------------------------------------------------------------------

    def _tell(self, run_id: str, what: str, by_us: bool) -> None:
        self.say(run_id[: len(self._tag)], msgspec.msgpack.encode((what, self._tag, [run_id], by_us)))

    def say(self, tag: str, data: bytes) -> None:
        """Say something to a worker, soon."""
        self._to_say.append(("PUBLISH", names.control(tag), data))
        self._sleeper.wake()

    # -- listening -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closed:
            pubsub = None
            try:
                pubsub = self._link.pubsub()
                pubsub.subscribe(names.control(self._tag))
                self._last_heard = time.monotonic()
                self._hear_all(pubsub)
            except (RedisError, OSError, Down) as error:
                self._link.broke(f"{type(error).__name__} while listening")
                gevent.sleep(TRY_AGAIN_SECONDS)
            finally:
                if pubsub is not None:
                    pubsub.close()

    def _hear_all(self, pubsub: Any) -> None:
        """Hear until the connection breaks. Only this greenlet ever touches it."""
        subscribed: set[str] = set()
        prefix = names.wake("")
        while not self._closed:
            wanted = set(self.owners)
            for change, tags in ((pubsub.subscribe, wanted - subscribed), (pubsub.unsubscribe, subscribed - wanted)):
                if tags:
                    change(*map(names.wake, tags))
            subscribed = wanted
            message = pubsub.get_message(timeout=LISTEN_SECONDS)
            if message is None:
                if time.monotonic() - self._last_heard > DEAF_SECONDS:
                    raise Down("deaf")
                continue
            self._last_heard = time.monotonic()
            channel = message["channel"].decode()
            if channel.startswith(prefix):  # its journal has grown, or we have begun to hear of it
                self._to_read.add(channel.removeprefix(prefix))
                self._sleeper.wake()
            elif message["type"] == "message" and message["data"]:
                self._heard(message["data"])

    # -- reading ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closed
            if not closing:
                self._sleeper.sleep(IDLE_SECONDS)
            try:
                while self._to_read or self._to_say:
                    self._read()
            except Down:
                gevent.sleep(TRY_AGAIN_SECONDS)
                self._sleeper.wake()
            except Exception:
                log.exception("what another worker wrote could not be read")
                gevent.sleep(TRY_AGAIN_SECONDS)

    def read_all(self) -> None:
        """Look at every journal, soon: a message may have been lost."""
        self._to_read.update(self.owners)
        self._sleeper.wake()

    def _read(self) -> None:
        said = list(self._to_say)
        tags = [tag for tag in self._to_read if tag in self.owners]
        self._to_read.clear()
        breaks, broke = self._link.breaks, self._link.breaks != self._breaks
        owners = [self.owners[tag] for tag in tags]
        doubtful = [run for owner in owners for run in owner.runs.values() if broke or run.has_gap]
        try:
            replies = self._link.send(
                *said, *map(self._range, doubtful), *(_journal(*each) for each in zip(tags, owners, strict=True))
            )
        except Down:
            self._to_read.update(tags)
            raise
        for _ in said:
            self._to_say.popleft()
        replies = [[] if isinstance(reply, Exception) else reply for reply in replies[len(said) :]]
        self._breaks = breaks if set(tags) >= set(self.owners) else self._breaks
        for run, stream in zip(doubtful, replies, strict=False):
            if self._take_stream(run, stream):
                self._to_read.add(run.id[: len(self._tag)])
        for tag, owner, batches in zip(tags, owners, replies[len(doubtful) :], strict=True):
            if self._take_journal(owner, batches):
                self._to_read.add(tag)

    def _take_journal(self, owner: Owner, batches: list[Any]) -> bool:
        """Feed what a worker's journal has; return whether to read on."""
        for id_, fields in batches:
            owner.last_id = id_
            for piece in decode_batch(fields[b"b"]):
                run = owner.runs.get(piece.run_id)
                if run is not None:
                    run.offer(decode_stretch(piece.first_seq, piece.stretch))
        return len(batches) == PAGE_ENTRIES


def _journal(tag: str, owner: Owner) -> Command:
    after = owner.last_id if owner.last_id == b"-" else b"(" + owner.last_id
    return ("XRANGE", names.journal(tag), after, "+", "COUNT", PAGE_ENTRIES)
