"""Trying again, the next upstream, and the breaker: over scripted upstreams on real sockets."""

import time
from collections.abc import Callable

import gevent
import pytest

from streaming.relay import attempts as attempts_module
from streaming.relay.attempts import _delay_seconds
from streaming.relay.breaker import FAILURES_TO_OPEN
from streaming.wire.ask import Ask
from streaming.wire.events import Upstream
from tests.live import Call, ScriptedUpstream, free_port, scripted, wait_until
from tests.relay.support import CALLER, DONE, FINISH, dify, ended, openai, runs, token_chunk

ASK = Ask(prompt="hi")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The waits are proved by a table; here they would only cost time."""
    if "real_delays" not in request.keywords:
        monkeypatch.setattr(attempts_module, "_delay_seconds", lambda attempt, retry_after: 0.01)


def answer(text: str) -> Callable[[Call], None]:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk(text) + FINISH + DONE)
        call.finish()

    return script


def refuse(status: int, body: bytes = b"{}") -> Callable[[Call], None]:
    return lambda call: call.answer(status, body)


def in_turn(upstream: ScriptedUpstream, *scripts: Callable[[Call], object]) -> Callable[[Call], object]:
    """Return a script that plays one after the other, the last one for ever."""
    return lambda call: scripts[min(len(upstream.calls), len(scripts)) - 1](call)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_upstream_is_asked_again_and_the_event_says_how_often(status: int) -> None:
    with scripted(refuse(status)) as upstream, runs(openai(upstream.url), max_tries=3) as all_runs:
        upstream.script = in_turn(upstream, refuse(status), refuse(status), answer("at last"))
        run = all_runs.start(ASK, CALLER)
        assert ended(run).reason == "done"
        assert run.answer().upstream == Upstream(name="u0", model="m", tries=3)
        assert len(upstream.calls) == 3


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (refuse(400), "upstream_rejected"),
        (refuse(401), "upstream_auth"),
        (refuse(500), "upstream_failed"),
        (refuse(524), "upstream_timeout"),
        (refuse(429, b'{"error":{"code":"insufficient_quota"}}'), "upstream_rejected"),
        (lambda call: call.connection.close(), "upstream_truncated"),  # the request was sent: it may have been billed
        (lambda call: (call.start(), call.connection.close()), "upstream_truncated"),
        (lambda call: (call.start(), call.chunk(token_chunk("a")), call.connection.close()), "upstream_truncated"),
    ],
)
def test_what_could_be_billed_twice_or_will_not_change_is_not_repeated(
    script: Callable[[Call], object], code: str
) -> None:
    with scripted(script) as upstream, runs(openai(upstream.url), max_tries=3) as all_runs:
        assert ended(all_runs.start(ASK, CALLER)).error.code == code
        assert len(upstream.calls) == 1


def test_a_read_timeout_is_not_repeated() -> None:
    with scripted(lambda call: call.await_close()) as upstream:
        with runs(openai(upstream.url), max_tries=3, idle_seconds=0.2) as all_runs:
            assert ended(all_runs.start(ASK, CALLER)).error.code == "upstream_timeout"
            assert len(upstream.calls) == 1


def test_a_dify_at_its_ceiling_is_asked_again() -> None:
    full = b'{"code":"invalid_param","message":"Too many requests. Please try again later.","status":400}'
    done = b'data: {"event":"message_end","task_id":"t","metadata":{}}\n\n'
    with scripted(refuse(400, full)) as upstream, runs(dify(upstream.url), max_tries=2) as all_runs:
        upstream.script = in_turn(upstream, refuse(400, full), lambda call: (call.start(), call.chunk(done)))
        assert ended(all_runs.start(ASK, CALLER)).reason == "done"


def test_after_the_last_try_the_next_upstream_answers_before_any_token() -> None:
    with scripted(refuse(503)) as first, scripted(answer("from the second")) as second:
        with runs(openai(first.url), openai(second.url), max_tries=2) as all_runs:
            run = all_runs.start(ASK, CALLER)
            ended(run)
            told = run.answer()
            assert told.text == "from the second"
            assert told.upstream == Upstream(name="u1", model="m", tries=3)
            assert (len(first.calls), len(second.calls)) == (2, 1)


def test_the_first_answers_503_twice_then_dies_and_the_second_takes_over() -> None:
    with scripted(refuse(503)) as first, scripted(answer("saved")) as second:

        def script(call: Call) -> None:
            if len(first.calls) == 2:
                first.stop_listening()
            call.answer(503, b"{}", "Connection: close")
            call.connection.close()

        first.script = script
        with runs(openai(first.url), openai(second.url), max_tries=3) as all_runs:
            run = all_runs.start(ASK, CALLER)
            ended(run)
            assert run.answer().text == "saved"
            assert run.answer().upstream == Upstream(name="u1", model="m", tries=4)


@pytest.mark.parametrize("status", [401, 402])
def test_an_upstream_that_will_not_serve_us_is_passed_over_without_trying_again(status: int) -> None:
    with scripted(refuse(status)) as first, scripted(answer("ok")) as second:
        with runs(openai(first.url), openai(second.url), max_tries=3) as all_runs:
            assert ended(all_runs.start(ASK, CALLER)).reason == "done"
            assert len(first.calls) == 1


def test_a_callers_own_mistake_goes_nowhere_else() -> None:
    with scripted(refuse(400)) as first, scripted(answer("ok")) as second:
        with runs(openai(first.url), openai(second.url)) as all_runs:
            assert ended(all_runs.start(ASK, CALLER)).error.code == "upstream_rejected"
            assert second.calls == []


def test_an_upstream_that_was_named_is_the_only_one_asked() -> None:
    with scripted(refuse(503)) as first, scripted(answer("ok")) as second:
        with runs(openai(first.url), openai(second.url)) as all_runs:
            run = all_runs.start(Ask(prompt="hi", upstream="u0"), CALLER)
            assert ended(run).error.code == "upstream_busy"
            assert second.calls == []


def test_a_conversation_goes_on_where_it_was_answered_and_keeps_its_history() -> None:
    with scripted(refuse(503)) as first, scripted(answer("one")) as second:
        with runs(openai(first.url), openai(second.url)) as all_runs:
            run = all_runs.start(ASK, CALLER)
            ended(run)
            first.calls.clear()
            follow_up = all_runs.start(Ask(prompt="and?", conversation_id=run.turn.conversation_id), CALLER)
            ended(follow_up)
            assert first.calls == []
            assert b'"one"' in second.calls[-1].body


def test_dify_never_takes_over_a_conversation_that_another_keeps() -> None:
    with scripted(refuse(503)) as first, scripted(answer("ok")) as second:
        with runs(openai(first.url), dify(second.url)) as all_runs:
            assert ended(all_runs.start(ASK, CALLER)).error.code == "upstream_busy"
            assert second.calls == []


# -- the breaker -------------------------------------------------------------------------------------------------------


def test_a_dead_upstream_is_soon_passed_over_at_once() -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    with scripted(answer("ok")) as second, runs(openai(dead), openai(second.url)) as all_runs:
        for _ in range(FAILURES_TO_OPEN):
            ended(all_runs.start(ASK, CALLER))
        run = all_runs.start(ASK, CALLER)
        ended(run)
        assert run.answer().upstream == Upstream(name="u1", model="m", tries=1)  # the dead one was not even called


def test_without_another_upstream_an_open_breaker_refuses_with_advice() -> None:
    with runs(openai(f"http://127.0.0.1:{free_port()}/v1")) as all_runs:
        for _ in range(FAILURES_TO_OPEN):
            assert ended(all_runs.start(ASK, CALLER)).error.code == "upstream_unreachable"
        end = ended(all_runs.start(ASK, CALLER))
        assert end.error.code == "upstream_busy"
        assert 1 <= end.error.retry_after <= 30


def test_slow_calls_run_side_by_side_through_the_breaker() -> None:
    with scripted(lambda call: call.await_close()) as upstream, runs(openai(upstream.url)) as all_runs:
        started = [all_runs.start(ASK, CALLER) for _ in range(50)]
        wait_until(lambda: len(upstream.calls) == 50, "all fifty are being served")
        for run in started:
            run.end_early("stopped")
        assert {ended(run).reason for run in started} == {"stopped"}


# -- waiting -----------------------------------------------------------------------------------------------------------


@pytest.mark.real_delays
@pytest.mark.parametrize(
    ("attempt", "retry_after", "at_least", "at_most"),
    [(0, None, 1, 2), (1, None, 2, 3), (2, None, 4, 5), (0, 0, 1, 2), (0, 7, 7, 7), (0, 30, 30, 30)],
)
def test_waits_double_and_spread_and_honour_the_upstreams_advice(
    attempt: int, retry_after: int | None, at_least: float, at_most: float
) -> None:
    waits = [_delay_seconds(attempt, retry_after) for _ in range(50)]
    assert all(wait is not None and at_least <= wait <= at_most for wait in waits)
    assert retry_after or len(set(waits)) > 1


@pytest.mark.real_delays
def test_nobody_waits_for_an_upstream_that_asks_for_more_than_30_s() -> None:
    assert _delay_seconds(0, 31) is None
    with scripted(lambda call: call.answer(429, b"{}", "Retry-After: 120")) as upstream:
        with runs(openai(upstream.url), max_tries=3) as all_runs:
            end = ended(all_runs.start(ASK, CALLER))
            assert (end.error.code, end.error.retry_after) == ("upstream_busy", 120)
            assert len(upstream.calls) == 1


@pytest.mark.real_delays
def test_a_stop_while_waiting_ends_the_run_at_once() -> None:
    with scripted(lambda call: call.answer(503, b"{}", "Retry-After: 25")) as upstream:
        with runs(openai(upstream.url), max_tries=3) as all_runs:
            run = all_runs.start(ASK, CALLER)
            upstream.next_call()
            gevent.sleep(0.05)
            begun = time.monotonic()
            run.end_early("stopped")
            assert ended(run).reason == "stopped"
            assert time.monotonic() - begun < 5
            assert len(upstream.calls) == 1
