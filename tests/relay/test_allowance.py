"""How much a caller may ask: rates, unfinished answers and tokens, each caller's own; and what is never charged."""

import time
from collections.abc import Callable

import pytest
from limits import parse_many

from streaming.relay import allowance as module
from streaming.relay import recent_refusals
from streaming.relay.allowance import CROWD, Allowance, Terms
from streaming.relay.caller import Caller
from streaming.relay.recent_refusals import ASK_AGAIN_SECONDS
from streaming.relay.stores.memory import COUNTERS_MAX, MemoryCounters, MemoryStore
from streaming.wire.ask import Ask, Options
from streaming.wire.errors import Refusal
from streaming.wire.events import Usage
from tests.live import Call, scripted, wait_until
from tests.relay.support import DONE, FINISH, allowance, ended, openai, runs, token_chunk

ALICE = Caller(kind="known", owner="key:alice", account="key:alice")
SOMEBODY = Caller(kind="anonymous", account="address:192.0.2.1")
SOMEBODY_ELSE = Caller(kind="anonymous", account="address:192.0.2.2")
ASK = Ask(prompt="hi")


def visitor(name: str, address: str = "192.0.2.1") -> Caller:
    return Caller(kind="visitor", owner=name, account=f"visitor:{name}", crowd=f"address:{address}", user="u")


def refused(do: Callable[[], object]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        do()
    return caught.value


def terms(rate: str = "", streams: int | None = None, tokens: int | None = None) -> Terms:
    return Terms(rates=tuple(parse_many(rate)) if rate else (), streams=streams, daily_tokens=tokens)


def asks(allowed: Allowance, caller: Caller, times: int = 1) -> None:
    for number in range(times):
        allowed.charge(caller, f"run-{caller.account}-{number}")


def test_a_caller_may_ask_so_often_and_another_one_too() -> None:
    allowed = allowance(MemoryStore(), terms("3/minute"))
    asks(allowed, SOMEBODY, 3)
    refusal = refused(lambda: asks(allowed, SOMEBODY))
    assert (refusal.code, refusal.status) == ("rate_limited", 429)
    assert refusal.retry_after is not None
    assert 58 <= refusal.retry_after <= 60
    reset = {"RateLimit-Limit": "3", "RateLimit-Remaining": "0", "RateLimit-Reset": str(refusal.retry_after)}
    assert refusal.headers == reset
    asks(allowed, SOMEBODY_ELSE, 3)
    asks(allowed, ALICE, 20)
    asks(allowed, Caller(), 20)


class Watched(MemoryCounters):
    """Counters that count their questions."""

    asked = 0

    def add(self, key: str, amount: int, seconds: float) -> tuple[int, float]:
        self.asked += 1
        return super().add(key, amount, seconds)


def test_who_is_spent_is_refused_again_without_a_question_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    store = MemoryStore()
    monkeypatch.setattr(store, "_counters", counters := Watched())
    allowed = allowance(store, terms("1/minute"))
    asks(allowed, SOMEBODY)
    allowed.refuse_again(SOMEBODY)  # nobody has been refused yet
    first = refused(lambda: asks(allowed, SOMEBODY))
    asked, now = counters.asked, now + 7
    again = refused(lambda: allowed.refuse_again(SOMEBODY))
    assert (again.code, str(again), again.retry_after) == (first.code, str(first), 53)
    assert again.headers == {**first.headers, "RateLimit-Reset": "53"}
    allowed.refuse_again(SOMEBODY_ELSE)
    assert counters.asked == asked
    now += ASK_AGAIN_SECONDS  # the store may have been emptied
    allowed.refuse_again(SOMEBODY)


def test_nobody_is_taken_for_spent_when_the_window_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    allowed = allowance(MemoryStore(), terms("1/second"))
    asks(allowed, SOMEBODY)
    refused(lambda: asks(allowed, SOMEBODY))
    refused(lambda: allowed.refuse_again(SOMEBODY))
    now += 1
    allowed.refuse_again(SOMEBODY)
    asks(allowed, SOMEBODY)


def test_a_place_that_can_be_free_again_at_any_time_is_not_remembered_as_spent() -> None:
    allowed = allowance(MemoryStore(), terms(streams=1))
    asks(allowed, SOMEBODY)
    assert refused(lambda: allowed.charge(SOMEBODY, "another")).code == "too_many_streams"
    allowed.refuse_again(SOMEBODY)


def test_spent_tokens_and_a_spent_address_are_remembered() -> None:
    allowed = allowance(MemoryStore(), terms("1/minute", tokens=5))
    asks(allowed, SOMEBODY)
    allowed.settle(SOMEBODY, "run", Usage(prompt_tokens=2, completion_tokens=3, total_tokens=5, exact=True))
    asked = refused(lambda: allowed.charge(SOMEBODY, "another"))
    assert refused(lambda: allowed.refuse_again(SOMEBODY)).code == asked.code
    for number in range(CROWD):
        asks(allowed, visitor(f"v{number}", "192.0.2.9"))
    refused(lambda: asks(allowed, visitor("new", "192.0.2.9")))
    refused(lambda: allowed.refuse_again(visitor("newer", "192.0.2.9")))
    allowed.refuse_again(visitor("newer", "192.0.2.10"))


def test_so_many_refusals_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_refusals, "MAX_REMEMBERED", 3)
    allowed = allowance(MemoryStore(), terms("1/minute"))
    callers = [Caller(kind="anonymous", account=f"address:{number}") for number in range(4)]
    for caller in callers:
        refused(lambda caller=caller: asks(allowed, caller, 2))
    allowed.refuse_again(callers[0])
    refused(lambda: allowed.refuse_again(callers[1]))


def test_a_refusal_is_remembered_for_its_own_limit_only() -> None:
    allowed = allowance(MemoryStore(), terms("1/minute"), poor=terms("1/minute"), pro=terms("9/minute"))
    refused(lambda: asks(allowed, Caller(kind="anonymous", account="address:192.0.2.9"), 2))
    allowed.refuse_again(visitor("v", "192.0.2.9"))  # whose address has ten times as much
    poor, pro = (Caller(kind="known", owner="jwt:a", account="jwt:a", tier=tier) for tier in ("poor", "pro"))
    refused(lambda: asks(allowed, poor, 2))
    refused(lambda: allowed.refuse_again(poor))
    allowed.refuse_again(pro)
    asks(allowed, pro)


def test_each_of_several_rates_counts() -> None:
    allowed = allowance(MemoryStore(), terms("3/minute;4/day"))
    asks(allowed, SOMEBODY, 3)
    refusal = refused(lambda: asks(allowed, SOMEBODY, 2))
    assert refusal.headers["RateLimit-Limit"] == "3"


def test_a_tier_has_its_own_rate() -> None:
    allowed = allowance(MemoryStore(), terms("1/minute"), free=terms("2/minute"))
    free = Caller(kind="known", account="key:f", tier="free")
    asks(allowed, free, 2)
    assert refused(lambda: asks(allowed, free)).code == "rate_limited"
    asks(allowed, Caller(kind="known", account="key:g", tier="unheard of"), 5)


def test_new_visitors_of_one_address_share_what_the_address_may() -> None:
    allowed = allowance(MemoryStore(), terms("2/minute"))
    for number in range(CROWD):
        asks(allowed, visitor(f"v{number}"), 2)
    assert refused(lambda: asks(allowed, visitor("new"))).headers["RateLimit-Limit"] == str(2 * CROWD)
    asks(allowed, visitor("far away", "192.0.2.9"))


def test_so_many_answers_at_once_until_one_ends_or_could_not_begin() -> None:
    allowed = allowance(MemoryStore(), terms(streams=2))
    asks(allowed, SOMEBODY, 2)
    refusal = refused(lambda: allowed.charge(SOMEBODY, "third"))
    assert (refusal.code, refusal.status, refusal.retry_after) == ("too_many_streams", 429, 5)
    allowed.settle(SOMEBODY, f"run-{SOMEBODY.account}-0", None)
    allowed.charge(SOMEBODY, "third")
    allowed.give_back(SOMEBODY, "third")
    allowed.charge(SOMEBODY, "fourth")


def test_a_refused_visitor_takes_no_place_of_the_address() -> None:
    counters = MemoryCounters()
    allowed = Allowance(counters, strangers=terms(streams=1), known=Terms(), tiers={}, run_max_seconds=60)
    crowd = [visitor(f"v{number}") for number in range(CROWD)]
    for each in crowd:
        asks(allowed, each)
    new = visitor("new")
    assert refused(lambda: asks(allowed, new)).headers["RateLimit-Limit"] == str(CROWD)
    allowed.settle(crowd[0], f"run-{crowd[0].account}-0", None)
    allowed.charge(new, "another run")


def test_tokens_are_counted_as_they_were_used() -> None:
    allowed = allowance(MemoryStore(), terms(tokens=100))
    allowed.settle(SOMEBODY, "r", Usage(prompt_tokens=40, completion_tokens=59, total_tokens=99, exact=True))
    asks(allowed, SOMEBODY)  # one token is left: it is finished, whatever it costs
    allowed.settle(SOMEBODY, "r", Usage(prompt_tokens=1, completion_tokens=500, total_tokens=None, exact=False))
    refusal = refused(lambda: asks(allowed, SOMEBODY))
    assert (refusal.code, refusal.headers["RateLimit-Limit"]) == ("budget_spent", "100")
    assert refusal.retry_after is not None
    assert refusal.retry_after > 86_000
    asks(allowed, SOMEBODY_ELSE)


@pytest.mark.parametrize(
    "ask",
    [
        Ask(messages=[{"role": "user", "content": "hi"}]),  # type: ignore[list-item]
        Ask(prompt="hi", model="dear"),
        Ask(prompt="hi", upstream="dear"),
        Ask(prompt="hi", options=Options(max_tokens=9)),
        Ask(prompt="hi", files=[{}]),
    ],
    ids=["messages", "model", "upstream", "options", "files"],
)
def test_a_visitor_asks_by_prompt_alone(ask: Ask) -> None:
    allowed = allowance(MemoryStore())
    refusal = refused(lambda: allowed.check(visitor("v"), ask))
    assert (refusal.code, refusal.status) == ("forbidden", 403)
    allowed.check(SOMEBODY, ask)
    page = Ask(prompt="hi", conversation_id="c", replace_last=True, on_disconnect="finish", idempotency_key="k")
    allowed.check(visitor("v"), page)


def test_only_a_stranger_with_limits_may_not_leave_an_answer_to_finish_alone() -> None:
    ask = Ask(prompt="hi", on_disconnect="finish")
    limited, unlimited = allowance(MemoryStore(), terms("1/minute")), allowance(MemoryStore())
    assert limited.policy(SOMEBODY, ask) == "grace"
    assert limited.policy(SOMEBODY, Ask(prompt="hi", on_disconnect="cancel")) == "cancel"
    assert {limited.policy(each, ask) for each in (ALICE, visitor("v"), Caller())} == {"finish"}
    assert unlimited.policy(SOMEBODY, ask) == "finish"


def test_the_counters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COUNTERS_MAX >= 10_000
    monkeypatch.setattr("streaming.relay.stores.memory.COUNTERS_MAX", 10)
    counters = MemoryCounters()
    for number in range(50):
        counters.add(str(number), 1, 60)
    assert len(counters._counts) == 10
    assert counters.add("49", 0, 60)[0] == 1


# -- at the door -------------------------------------------------------------------------------------------------------


def quick(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("a") + FINISH + DONE)
    call.finish()


def test_what_is_refused_reaches_no_upstream_and_leaves_nothing_behind() -> None:
    with scripted(quick) as upstream, runs(openai(upstream.url), strangers=terms("1/minute", streams=1)) as all_runs:
        run = all_runs.start(ASK, SOMEBODY)
        ended(run)
        size = all_runs._store.size_bytes
        assert refused(lambda: all_runs.start(ASK, SOMEBODY)).code == "rate_limited"
        busy = Ask(prompt="hi", conversation_id=run.turn.conversation_id)
        assert refused(lambda: all_runs.start(busy, SOMEBODY)).code == "rate_limited"
        assert len(upstream.calls) == 1
        assert all_runs._store.size_bytes == size
        again = all_runs.start(Ask(prompt="hi", conversation_id=run.turn.conversation_id), SOMEBODY_ELSE)
        assert ended(again).reason == "done"


def test_a_repeated_key_is_neither_charged_nor_refused() -> None:
    keyed = Ask(prompt="hi", idempotency_key="k" * 16)
    with scripted(quick) as upstream, runs(openai(upstream.url), strangers=terms("1/minute", tokens=1)) as all_runs:
        first = all_runs.start(keyed, SOMEBODY)
        ended(first)
        assert refused(lambda: all_runs.start(ASK, SOMEBODY)).code == "rate_limited"
        assert all_runs.start(keyed, SOMEBODY) is first
        assert all_runs.get(first.id) is first
        assert len(upstream.calls) == 1


def test_an_answer_that_has_ended_frees_its_place_and_its_tokens_count() -> None:
    with scripted(quick) as upstream, runs(openai(upstream.url), strangers=terms(streams=1, tokens=2)) as all_runs:
        first = ended(all_runs.start(ASK, SOMEBODY))
        assert first.usage.total_tokens > 1
        assert refused(lambda: all_runs.start(ASK, SOMEBODY)).code == "budget_spent"
        assert ended(all_runs.start(ASK, SOMEBODY_ELSE)).reason == "done"


def test_a_run_that_could_not_begin_takes_no_place() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url), strangers=terms(streams=2)) as all_runs:
        before = all_runs.start(ASK, SOMEBODY)
        wait_until(lambda: before.has_token, "there is a turn to keep")
        before.end_early("stopped")
        ended(before)
        conversation_id = before.turn.conversation_id
        first = all_runs.start(Ask(prompt="hi", conversation_id=conversation_id), SOMEBODY)
        for _ in range(3):
            busy = Ask(prompt="hi", conversation_id=conversation_id)
            assert refused(lambda ask=busy: all_runs.start(ask, SOMEBODY)).code == "conversation_busy"  # type: ignore[misc]
        second = all_runs.start(ASK, SOMEBODY)
        for run in (first, second):
            run.end_early("stopped")
            ended(run)


def held(call: Call) -> None:
    """A token, then silence until the relay hangs up."""
    call.start()
    call.chunk(token_chunk("a"))
    call.await_close()


def test_short_keys_of_anonymous_callers_are_their_addresses_own() -> None:
    short, long = Ask(prompt="hi", idempotency_key="1"), Ask(prompt="hi", idempotency_key="k" * 16)
    with scripted(quick) as upstream, runs(openai(upstream.url)) as all_runs:
        first = all_runs.start(short, SOMEBODY)
        other = all_runs.start(short, SOMEBODY_ELSE)
        assert other is not first
        secret = all_runs.start(long, SOMEBODY)
        assert all_runs.start(long, SOMEBODY_ELSE) is secret  # a phone that has changed its network
        for run in (first, other, secret):
            ended(run)
        assert len(upstream.calls) == 3


def test_an_owner_and_a_key_cannot_pass_for_another_pair() -> None:
    with scripted(quick) as upstream, runs(openai(upstream.url)) as all_runs:
        first = all_runs.start(Ask(prompt="hi", idempotency_key="b:c"), Caller(owner="a"))
        other = all_runs.start(Ask(prompt="hi", idempotency_key="c"), Caller(owner="a:b"))
        assert other is not first
        for run in (first, other):
            ended(run)
        assert len(upstream.calls) == 2
