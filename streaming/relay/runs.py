"""All runs of this process: the one door in, finding one again, and forgetting in time."""

import logging
import secrets
import string
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import gevent
import msgspec

from streaming.relay.allowance import Allowance
from streaming.relay.attempts import Attempts
from streaming.relay.caller import Caller
from streaming.relay.candidates import Candidates
from streaming.relay.chats import ANONYMOUS_MIN_CHARACTERS
from streaming.relay.conversations import Conversations, Turn
from streaming.relay.idempotency import Idempotency
from streaming.relay.observing import Observer, nobody
from streaming.relay.others import TAG_CHARACTERS, Others, new_tag
from streaming.relay.own_run import OwnRun
from streaming.relay.owners import Owners
from streaming.relay.presence import Presence
from streaming.relay.run import Run
from streaming.relay.store import Store
from streaming.relay.upstream import Upstream
from streaming.wire.ask import Ask, Message
from streaming.wire.errors import Refusal

log = logging.getLogger(__name__)

EXPIRED_REMEMBERED_SECONDS = 3600.0  # how long an expired id answers 410 instead of 404
EXPIRED_REMEMBERED_MAX = 100_000  # ids; against a busy relay remembering for ever
SWEEP_SECONDS = 0.05  # at least, between two looks for what has expired
FULL_RETRY_AFTER_SECONDS = 5
DRAINING_RETRY_AFTER_SECONDS = 2  # the platform has a successor ready by then
KEPT_TURNS = {"done", "stopped"}


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What runs may take. Each is a setting of the same name."""

    max_runs: int
    max_tries: int
    run_max_bytes: int
    log_max_bytes: int
    run_ttl_seconds: float
    run_max_seconds: float
    disconnect_grace_seconds: float


class Runs:
    """Starts, finds and forgets runs. `upstreams` in the order of preference, at least one."""

    def __init__(
        self,
        *,
        upstreams: Sequence[Upstream],
        store: Store,
        conversations: Conversations,
        bounds: Bounds,
        allowance: Allowance,
        owners: Owners,
        others: Others | None = None,
        observer: Observer = nobody,
    ) -> None:
        self._others = others
        self._observer = observer
        self._tag = others.tag if others is not None else new_tag()
        self._candidates = Candidates(upstreams)
        self._store = store
        self._idempotency = Idempotency(
            store.keys("idempotency"), bounds.run_max_seconds + bounds.run_ttl_seconds + EXPIRED_REMEMBERED_SECONDS
        )
        self._conversations = conversations
        self._bounds = bounds
        self._allowance = allowance
        self.owners = owners
        self._unfinished: dict[str, OwnRun] = {}
        self._ended: OrderedDict[str, tuple[OwnRun, float]] = OrderedDict()  # the oldest first; when (monotonic)
        self._expired: OrderedDict[str, float] = OrderedDict()  # id -> until when it is remembered
        self.crowded = False  # too few connections are left: the rest is for resumes
        self._draining = False
        self._sweeper: gevent.Greenlet | None = None

    @property
    def upstreams(self) -> list[Upstream]:
        """Return the upstreams in the order in which they are tried."""
        return self._candidates.upstreams

    @property
    def instance(self) -> str:
        """Return the tag that the ids of this instance's runs begin with."""
        return self._tag

    @property
    def shared(self) -> bool:
        """Return whether other instances serve the same runs."""
        return self._others is not None

    # -- starting --------------------------------------------------------------------------------------------------

    def start(self, ask: Ask, caller: Caller, implied: str | None = None) -> Run:
        """Return the run of this ask: a new one, or the one that the same idempotency key began.

        `implied`: the conversation that an ask without one goes on with; asked again elsewhere, it is the same ask.

        The `start` event is in the log on return; the upstream is called after the caller's greenlet gives way.
        Raises Refusal, AskError.
        """
        run_id = self._tag + secrets.token_urlsafe(16)
        if ask.idempotency_key is None:
            return self._start(ask, caller, run_id, implied)
        key = _idempotency_key(caller, ask.idempotency_key)
        return self._idempotency.start(key, ask, run_id, lambda: self._start(ask, caller, run_id, implied), self.get)

    def _start(self, ask: Ask, caller: Caller, run_id: str, implied: str | None) -> Run:
        self._refuse_if_full()
        if caller.trace is not None:  # over a WebSocket a caller may start many runs
            caller = msgspec.structs.replace(caller, trace=caller.trace.renewed(secrets.token_hex(8)))
        self._allowance.check(caller, ask)
        if caller.user is not None:
            ask = msgspec.structs.replace(ask, user=caller.user)
        self.owners.check_files(ask, caller.owner)
        conversation = self._conversations.find(ask.conversation_id or implied, caller.owner)
        candidates = self._candidates.choose(ask, conversation)
        turn = self._conversations.turn(ask, conversation, candidates[0].upstream, caller.owner)
        turn.context = msgspec.structs.replace(turn.context, request_id=caller.request_id, trace=caller.trace)
        self._allowance.charge(caller, run_id)
        self.owners.note_run(run_id, caller.owner)
        run = OwnRun(
            id=run_id,
            turn=turn,
            log=self._store.new_log(run_id),
            max_bytes=self._bounds.run_max_bytes,
            on_end=self._on_end,
            on_ended=partial(self._on_ended, caller, ask.model),
        )
        attempts = Attempts(
            candidates,
            max_tries=self._bounds.max_tries,
            max_seconds=self._bounds.run_max_seconds,
            call=lambda upstream, sink: upstream.exchange(ask, turn.context, sink),
            accepted=partial(run.accepted, model=ask.model),
            append=run.append,
            observer=self._observer,
        )
        try:
            self._conversations.claim(turn, run_id)
        except BaseException:
            run.log.drop()
            self._allowance.give_back(caller, run_id)
            raise
        run.presence = Presence(
            self._allowance.policy(caller, ask),
            self._bounds.disconnect_grace_seconds,
            lambda: run.end_early("abandoned"),
        )
        self._unfinished[run_id] = run
        if self._others is not None:
            self._others.began(run)
        run.begin(attempts)
        return run

    def _refuse_if_full(self) -> None:
        if self._draining:
            raise Refusal(
                "draining", "This relay is shutting down; ask again.", retry_after=DRAINING_RETRY_AFTER_SECONDS
            )
        if self._others is not None:
            self._others.refuse_if_away()
        self._make_room()
        full = len(self._unfinished) >= self._bounds.max_runs or self._store.size_bytes >= self._bounds.log_max_bytes
        if full or self.crowded:
            raise Refusal(
                "too_many_runs", "This relay is at its limit; try again shortly.", retry_after=FULL_RETRY_AFTER_SECONDS
            )

    # -- finding ---------------------------------------------------------------------------------------------------

    def get(self, run_id: str) -> Run:
        """Return the run. Raises Refusal: run_expired, other_instance or run_not_found."""
        if run_id in self._unfinished:
            return self._unfinished[run_id]
        if run_id in self._ended:
            return self._ended[run_id][0]
        if self._expired.get(run_id, 0) > time.monotonic():
            raise Refusal("run_expired", "This run has expired.")
        if self._others is not None:
            if not is_run_id(run_id) or (run := self._others.get(run_id)) is None:
                raise Refusal("run_not_found", "No such run, or it has expired.")
            return run
        if is_run_id(run_id) and not run_id.startswith(self._tag):
            raise Refusal(
                "other_instance",
                "This run was begun by another instance of the relay, or before its restart; runs are shared "
                "between instances only where REDIS_URL is set.",
            )
        raise Refusal("run_not_found", "No such run.")

    def transcript(self, conversation_id: str | None, caller: Caller) -> list[tuple[Message, Message]] | None:
        """Return a conversation's turns, question and answer; None where there is no such conversation."""
        return self._conversations.transcript(conversation_id, caller.owner)

    def counts(self) -> dict[str, int]:
        """Return how many runs are unfinished and how many are kept for resuming."""
        return {"unfinished": len(self._unfinished), "ended": len(self._ended)}

    def breakers(self) -> dict[str, str]:
        """Return the state of each upstream's breaker."""
        return self._candidates.breakers()

    # -- ending and forgetting -------------------------------------------------------------------------------------

    def _on_end(self, run: OwnRun, reason: str) -> None:
        try:
            self._keep_turn(run.turn, run, reason)
        except Exception:
            log.exception("a turn could not be added to its conversation")
        finally:
            self._conversations.release(run.turn, run.id)

    def _on_ended(self, caller: Caller, model: str | None, run: OwnRun) -> None:
        del self._unfinished[run.id]
        self._ended[run.id] = (run, time.monotonic())
        self._make_room()
        self._sweep_later()
        self._allowance.settle(caller, run.id, run.end.usage if run.end is not None else None)
        self._observer(run.ending(caller.account or None, caller.request_id, caller.trace, model))

    def _keep_turn(self, turn: Turn, run: OwnRun, reason: str) -> None:
        if turn.conversation is None or run.attempts is None:
            return
        if reason not in KEPT_TURNS:
            self._conversations.lose(turn)
            return
        upstream_id = run.attempts.conversation_id
        if run.attempts.answering is not None:
            turn.conversation.upstream = run.attempts.answering.name
        self._conversations.extend(turn, run.answer().text, upstream_id)

    def _make_room(self) -> None:
        """Drop the oldest ended logs while all logs together are too large. Nothing that runs or is read is touched."""
        if self._store.size_bytes > self._bounds.log_max_bytes:
            for run, _ in list(self._ended.values()):
                if self._store.size_bytes <= self._bounds.log_max_bytes:
                    break
                self._expire(run)

    def _sweep_later(self) -> None:
        if self._sweeper is None and self._ended:
            _, ended_at = next(iter(self._ended.values()))
            wait = ended_at + self._bounds.run_ttl_seconds - time.monotonic()
            self._sweeper = gevent.spawn_later(max(SWEEP_SECONDS, wait), self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        too_old = time.monotonic() - self._bounds.run_ttl_seconds
        for run, ended_at in list(self._ended.values()):
            if ended_at > too_old:
                break
            self._expire(run)
        self._sweep_later()

    def _expire(self, run: OwnRun) -> None:
        """Forget an ended run, unless somebody reads it: a stuck reader is dropped soon, a slow one gets its end."""
        if run.presence is not None and run.presence.subscribers:
            return
        del self._ended[run.id]
        run.log.drop()
        self._expired[run.id] = time.monotonic() + EXPIRED_REMEMBERED_SECONDS
        if len(self._expired) > EXPIRED_REMEMBERED_MAX:
            self._expired.popitem(last=False)

    def drain(self) -> None:
        """Refuse new runs from now on; what runs goes on."""
        self._draining = True

    @property
    def state(self) -> str:
        """Return "ready", "draining", or what others.Others says."""
        if self._draining:
            return "draining"
        return self._others.state if self._others is not None else "ready"

    @property
    def moving(self) -> bool:
        """Return whether subscribers should go on with another worker, as this one drains."""
        return self._draining and self._others is not None

    @property
    def draining(self) -> bool:
        """Return whether new runs are refused."""
        return self._draining

    def interrupt(self, within_seconds: float, *, only_unfollowed: bool = False) -> None:
        """End what still runs as interrupted; upstreams that are stopped by request have that long."""
        for run in list(self._unfinished.values()):
            if not only_unfollowed or run.presence is None or not run.presence.subscribers:
                run.end_early("interrupted", within_seconds)

    def close(self) -> None:
        """End what still runs as interrupted and stop the sweeper."""
        self.interrupt(within_seconds=0)
        if self._others is not None:
            self._others.close()
        if self._sweeper is not None:
            self._sweeper.kill(block=False)
            self._sweeper = None


def _idempotency_key(caller: Caller, key: str) -> str:
    """Return the key as the caller's own. Without an owner a long one is a secret, and a short one the address's."""
    owner = caller.owner
    if owner is None and len(key) < ANONYMOUS_MIN_CHARACTERS:
        owner = caller.account
    return msgspec.json.encode([owner, key]).decode()  # no other pair looks like it


def is_run_id(text: str) -> bool:
    """Return whether the text has the form of a run id."""
    allowed = string.ascii_letters + string.digits + "-_"
    return len(text) == TAG_CHARACTERS + 22 and text[0] not in "-_" and all(character in allowed for character in text)
