"""How much a caller may ask: so often, so many answers at once, so many tokens a day.

Charged at the one door (Runs.start), for new runs only: what resumes, follows or repeats a key costs nothing.
"""

import math
import time
from collections.abc import Mapping

import msgspec
from limits import RateLimitItem

from streaming.relay.caller import Caller
from streaming.relay.recent_refusals import RecentRefusal, RecentRefusals
from streaming.relay.store import Counters
from streaming.wire.ask import Ask
from streaming.wire.errors import Refusal
from streaming.wire.events import Usage

CROWD = 10
"""An address may use so many times what one of its visitors may: an office shares one, but a new visitor's token costs
nothing, and would otherwise be a new allowance."""

DAY_SECONDS = 86_400.0
STREAMS_RETRY_AFTER_SECONDS = 5
SLOT_SPARE_SECONDS = 60.0  # beyond the longest run, for what a worker that died has left behind

VISITORS_FIELDS = {
    "prompt",
    "conversation_id",
    "replace_last",
    "user",
    "inputs",
    "on_disconnect",
    "flush_ms",
    "idempotency_key",
    "response_mode",
}
"""Of an ask. The others choose what it costs, or bring a whole conversation of their own making."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller may ask. `rates` () = as often as it likes; `streams` and `daily_tokens` None = any number."""

    rates: tuple[RateLimitItem, ...] = ()
    streams: int | None = None
    daily_tokens: int | None = None


class Allowance:
    """Counts what callers ask. `tiers` are the terms of each tier, `known` those of keys without one.

    `strangers` are the terms of visitors and anonymous callers; who is local has none.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        strangers: Terms,
        known: Terms,
        tiers: Mapping[str, Terms],
        run_max_seconds: float,
    ) -> None:
        self._counters = counters
        self._strangers = strangers
        self._known = known
        self._tiers = tiers
        self._slot_seconds = run_max_seconds + SLOT_SPARE_SECONDS
        self._recent = RecentRefusals()  # by account, how many times the allowance it has, and tier

    def refuse_again(self, caller: Caller) -> None:
        """Refuse who was refused a moment ago and still has to wait. Raises Refusal; asks the store nothing.

        Not for asks that repeat an idempotency key: they cost nothing, and are never refused for their number.
        """
        for account, times in _accounts(caller):
            recent = self._recent.find((account, times, caller.tier))
            if recent is not None:
                left_seconds = recent.window_ends - time.monotonic()
                raise _refused(recent.code, recent.message, limit=recent.limit, seconds=left_seconds)

    def check(self, caller: Caller, ask: Ask) -> None:
        """Raise Refusal("forbidden") where the ask has a field that this caller may not use."""
        if caller.kind != "visitor":
            return
        for name in ask.__struct_fields__:
            if name not in VISITORS_FIELDS and getattr(ask, name) is not None:
                raise Refusal("forbidden", f"Field '{name}': a visitor's token lets ask by 'prompt' only.")

    def charge(self, caller: Caller, run_id: str) -> None:
        """Charge a run that is about to begin; `give_back` or `settle` must follow. Raises Refusal."""
        terms = self._terms(caller)
        self.charge_rate(caller)
        self._check_daily_tokens(caller, terms)
        if terms.streams is None:
            return
        taken: list[str] = []
        for account, times in _accounts(caller):
            if not self._counters.enter(f"streams:{account}", run_id, terms.streams * times, self._slot_seconds):
                for each in taken:
                    self._counters.leave(f"streams:{each}", run_id)
                raise _refused(
                    "too_many_streams",
                    f"You have {terms.streams * times} unfinished answers, as many as may be; wait for one or stop it.",
                    limit=terms.streams * times,
                    seconds=STREAMS_RETRY_AFTER_SECONDS,
                )
            taken.append(account)

    def charge_rate(self, caller: Caller) -> None:
        """Count one request. Raises Refusal("rate_limited")."""
        for rate in self._terms(caller).rates:
            for account, times in _accounts(caller):
                limit, seconds = rate.amount * times, rate.get_expiry()
                count, left_seconds = self._counters.add(f"rate:{seconds}:{account}", 1, seconds)
                if count > limit:
                    message = f"Too many questions: {limit} are allowed in {seconds} seconds."
                    key = account, times, caller.tier
                    raise self._noted(key, "rate_limited", message, limit, left_seconds)

    def give_back(self, caller: Caller, run_id: str) -> None:
        """Free the place of a run that has ended, or could not begin. Neither waits for a store that is away."""
        if self._terms(caller).streams is not None:
            for account, _ in _accounts(caller):
                self._counters.leave(f"streams:{account}", run_id)

    def settle(self, caller: Caller, run_id: str, usage: Usage | None) -> None:
        """A run has ended: free its place, and count its tokens."""
        self.give_back(caller, run_id)
        tokens = _tokens(usage)
        if tokens and self._terms(caller).daily_tokens is not None:
            for account, _ in _accounts(caller):
                self._counters.note(f"tokens:{account}", tokens, DAY_SECONDS)

    def policy(self, caller: Caller, ask: Ask) -> str:
        """Return what holds for an answer that nobody follows.

        Let go on, it costs the operator money: anonymous callers get the grace in the place of "finish", unless they
        may ask as often as they like anyway.
        """
        unknown = caller.kind == "anonymous" and self._strangers.rates
        return "grace" if ask.on_disconnect == "finish" and unknown else ask.on_disconnect

    def _check_daily_tokens(self, caller: Caller, terms: Terms) -> None:
        if terms.daily_tokens is None:
            return
        for account, times in _accounts(caller):
            limit = terms.daily_tokens * times
            count, left_seconds = self._counters.add(f"tokens:{account}", 0, DAY_SECONDS)
            if count >= limit:
                message = f"The {limit} tokens of this day are spent."
                raise self._noted((account, times, caller.tier), "budget_spent", message, limit, left_seconds)

    def _noted(
        self, key: tuple[str, int, str | None], code: str, message: str, limit: int, left_seconds: float
    ) -> Refusal:
        """Return the refusal. It is remembered: a window that is full stays so until it ends."""
        self._recent.note(key, RecentRefusal(code, message, limit, time.monotonic() + left_seconds))
        return _refused(code, message, limit=limit, seconds=left_seconds)

    def _terms(self, caller: Caller) -> Terms:
        if caller.kind == "local":
            return Terms()
        if caller.kind == "known":
            return self._known if caller.tier is None else self._tiers.get(caller.tier, self._known)
        return self._strangers


def _accounts(caller: Caller) -> list[tuple[str, int]]:
    """Return under which names the caller is counted, and how many times the allowance each has."""
    own = [(caller.account, 1)]
    return own if caller.crowd is None else [*own, (caller.crowd, CROWD)]


def _tokens(usage: Usage | None) -> int:
    if usage is None:
        return 0
    if usage.total_tokens is not None:
        return usage.total_tokens
    return (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)


def _refused(code: str, message: str, *, limit: int, seconds: float) -> Refusal:
    """Return the refusal, with the header fields that clients of rate limits know."""
    wait_seconds = max(1, math.ceil(seconds))
    headers = {"RateLimit-Limit": str(limit), "RateLimit-Remaining": "0", "RateLimit-Reset": str(wait_seconds)}
    return Refusal(code, message, retry_after=wait_seconds, headers=headers)
