"""Who lives: a worker holds a lease, and whoever follows the runs of one that lost it writes their ends."""

import logging
from collections.abc import Callable, Collection

from streaming.relay.conversations import release
from streaming.relay.cursor import READ_LIMIT_EVENTS
from streaming.relay.remote import RemoteRun
from streaming.relay.store import Keys
from streaming.relay.stores import names
from streaming.relay.stores.link import Down, Link
from streaming.wire.errors import Refusal
from streaming.wire.events import Entry
from streaming.wire.journal import encode_stretch

log = logging.getLogger(__name__)

LEASE_SECONDS = 5.0
JOURNAL_TTL_SECONDS = 30.0

# Writes a dead owner's last words and the end behind them, if nothing was written since they were read: once, whoever
# tries, and nothing that the owner may still write comes behind it, as its ids are smaller.
END = """
local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if not top[1] or top[1][1] ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then redis.call('XADD', KEYS[1], ARGV[2], 'e', ARGV[3]) end
redis.call('XADD', KEYS[1], ARGV[4], 'e', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return 1
"""


class Leases:
    """This worker's lease, and a look at others'. `claims`: see conversations.CLAIMS.

    `lapsed()` is called when ours was gone for a while: whoever looked took this worker for dead.
    """

    def __init__(self, tag: str, link: Link, *, ttl_seconds: float, claims: Keys, lapsed: Callable[[], None]) -> None:
        self.held_once = False
        self._tag = tag
        self._link = link
        self._ttl_ms = max(1, round(ttl_seconds * 1000))
        self._claims = claims
        self._lapsed = lapsed

    def renew(self, watched: Collection[str]) -> list[str]:
        """Renew ours; return those of the watched tags whose workers are dead.

        Nobody is dead to who has not been connected for a whole lease: after an outage all leases are gone at first.
        """
        own, tags, lease_ms = names.lease(self._tag), list(watched), round(LEASE_SECONDS * 1000)
        try:
            # PEXPIRE is obeyed by a Redis that is full, SET is not: full does not mean dead.
            there, _, *alive = self._link.send(
                ("PEXPIRE", own, lease_ms),
                ("PEXPIRE", names.journal(self._tag), round(JOURNAL_TTL_SECONDS * 1000)),
                *(("EXISTS", names.lease(tag)) for tag in tags),
            )
            if not there:
                if self.held_once:
                    self._lapsed()
                [there] = self._link.send(("SET", own, b"", "PX", lease_ms))
        except Down:
            return []
        self.held_once = self.held_once or not isinstance(there, Exception)
        if self._link.unbroken_seconds < LEASE_SECONDS:
            return []
        return [tag for tag, exists in zip(tags, alive, strict=True) if exists == 0]

    def holds(self, tag: str) -> bool:
        """Return whether a worker holds its lease. Raises Refusal("store_unavailable")."""
        return bool(self._link.ask(("EXISTS", names.lease(tag)))[0])

    def give_back(self) -> None:
        """Say that this worker is gone; all its runs have ended."""
        try:
            self._link.send(("DEL", names.lease(self._tag)), ("DEL", names.journal(self._tag)))
        except Down:
            log.warning("the lease could not be given back: it expires by itself")

    def end(self, run: RemoteRun, refresh: Callable[[RemoteRun], bytes | None]) -> None:
        """Write the end of a dead worker's run, and what only its journal has.

        `refresh(run)` brings the copy up to date and returns the id of the last entry in its own stream.
        """
        try:
            top = refresh(run)
            if run.ended:
                return
            entry = run.lost_end()
            if top is not None:
                tail = _read_from(run, int(top.partition(b"-")[0]))
                words = (f"{tail[-1].seq}-0", encode_stretch(tail)) if tail else ("", "")
                last = (f"{entry.seq}-0", encode_stretch([entry]), self._ttl_ms)
                [ended] = self._link.send(("EVAL", END, 1, names.run(run.id), top, *words, *last))
                if ended != 1:  # somebody else was faster, or Redis is full
                    return
                log.warning("a run of a dead worker was ended")
            run.offer([entry], from_stream=True)
            if run.turn.conversation_id is not None:
                release(self._claims, run.turn.conversation_id, run.id)
        except (Down, Refusal):
            return  # the next look tries again


def _read_from(run: RemoteRun, after: int) -> list[Entry]:
    entries: list[Entry] = []
    while more := run.log.read(entries[-1].seq if entries else after, READ_LIMIT_EVENTS):
        entries += more
    return entries
