"""Runs over a scripted upstream: start, follow, stop, policies, idempotency, bounds, expiry."""

import zlib
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from streaming.relay.caller import Caller
from streaming.relay.demo import DemoUpstream
from streaming.relay.run import Run
from streaming.relay.runs import is_run_id
from streaming.relay.stores.memory import MemoryStore
from streaming.wire.ask import Ask, AskError
from streaming.wire.errors import Refusal
from streaming.wire.events import Entry
from tests.live import Call, scripted, wait_until
from tests.relay.support import CALLER, DONE, FINISH, dify, ended, openai, runs, token_chunk

ASK = Ask(prompt="hi")


def tokens(*texts: str) -> Callable[[Call], None]:
    """Return a script that sends these tokens and ends well."""

    def script(call: Call) -> None:
        call.start()
        for text in texts:
            call.chunk(token_chunk(text))
        call.chunk(FINISH + DONE)
        call.finish()

    return script


def held(call: Call) -> None:
    """A token, then silence until the relay hangs up."""
    call.start()
    call.chunk(token_chunk("a"))
    call.await_close()


def entries(run: Run, after: int = 0) -> list[Entry]:
    """Follow the run to its end."""
    cursor, seen = run.follow(after), []
    while not cursor.done:
        seen += cursor.read(20)
    cursor.close()
    return seen


def refused(start: Callable[[], object]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        start()
    return caught.value


def test_a_run_is_a_gapless_log_with_one_start_and_one_end() -> None:
    with scripted(tokens("早上", "好 ☀️")) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        assert is_run_id(run.id)
        seen = entries(run)
        assert [entry.seq for entry in seen] == list(range(1, len(seen) + 1))
        assert [entry.type for entry in seen] == ["start", "upstream", "token", "token", "end"]
        answer = run.answer()
        assert answer.text == "早上好 ☀️"
        data = answer.text.encode()
        assert answer.end is not None
        assert answer.end.reason == "done"
        assert answer.end.digest is not None
        assert (answer.end.digest.bytes, answer.end.digest.crc32) == (len(data), f"{zlib.crc32(data):08x}")
        assert answer.end.timing is not None
        assert answer.end.timing.connect is not None
        assert answer.end.timing.first_token is not None


def test_the_start_is_there_before_the_upstream_is_called() -> None:
    with scripted(tokens("a")) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        assert run.last_seq == 1
        assert upstream.calls == []
        ended(run)


def test_usage_is_the_upstreams_or_an_estimate_that_says_so() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'

    def exact(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("a") + FINISH + usage + DONE)

    with scripted(exact) as upstream, runs(openai(upstream.url)) as all_runs:
        told = ended(all_runs.start(ASK, CALLER)).usage
        assert (told.total_tokens, told.exact) == (7, True)
        upstream.script = tokens("a" * 40)
        estimated = ended(all_runs.start(ASK, CALLER)).usage
        assert (estimated.completion_tokens, estimated.exact) == (10, False)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_any_number_of_cursors_see_everything_behind_their_place_once(after: int) -> None:
    with scripted(tokens(*"abcdefgh")) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        followers = [gevent.spawn(entries, run, after) for _ in range(5)]
        gevent.joinall(followers, timeout=20)
        late = entries(run, after)
        assert all(follower.value == late for follower in followers)
        assert [entry.seq for entry in late] == list(range(after + 1, run.last_seq + 1))


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_a_stop_ends_the_run_and_closes_the_upstream() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        wait_until(lambda: run.last_seq >= 3, "a token came")
        run.end_early("stopped")
        end = ended(run)
        assert (end.reason, end.upstream_stop, end.error, end.finish_reason) == ("stopped", "closed", None, None)
        assert end.usage.exact is False
        assert upstream.calls[0].closed.wait(1)


def test_a_stop_before_anything_happened_ends_the_run_too() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        run.end_early("stopped")
        assert ended(run).reason == "stopped"
        assert upstream.calls == []


def test_text_after_a_stop_is_not_part_of_the_answer_and_the_first_reason_counts() -> None:
    message = b'data: {"event":"message","task_id":"t","answer":"%s"}\n\n'

    def script(call: Call) -> None:
        if call.path.endswith("/stop"):
            return call.answer(200, b"{}")
        call.start()
        call.chunk(message % b"before")
        wait_until(lambda: len(upstream.calls) == 2, "the stop came")
        call.chunk(message % b"after")
        call.chunk(b'data: {"event":"message_end","task_id":"t","metadata":{"usage":{"total_tokens":9}}}\n\n')
        return None

    with scripted(script) as upstream, runs(dify(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        wait_until(lambda: run.last_seq >= 3, "a token came")
        run.end_early("stopped")
        run.end_early("abandoned")
        end = ended(run)
        assert (end.reason, end.upstream_stop) == ("stopped", "confirmed")
        assert run.answer().text == "before"
        assert end.usage.exact is False


def test_a_stop_after_the_end_changes_nothing() -> None:
    with scripted(tokens("a")) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        end = ended(run)
        run.end_early("stopped")
        assert run.answer().end == end


# -- nobody there ------------------------------------------------------------------------------------------------------


def leave(run: Run, *, by_us: bool = False) -> None:
    cursor = run.follow(0)
    cursor.close(by_us=by_us)
    cursor.close()  # twice is once


def still_running(run: Run) -> bool:
    gevent.sleep(0.1)
    return not run.ended


def test_grace_waits_for_somebody_to_come_back() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url), disconnect_grace_seconds=0.05) as all_runs:
        abandoned = all_runs.start(ASK, CALLER)
        followed = all_runs.start(ASK, CALLER)
        cursor = followed.follow(0)
        end = ended(abandoned)
        assert (end.reason, end.upstream_stop) == ("abandoned", "closed")
        assert still_running(followed)
        cursor.close()
        assert ended(followed).reason == "abandoned"


def test_finish_never_gives_up() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url), disconnect_grace_seconds=0.01) as all_runs:
        run = all_runs.start(Ask(prompt="hi", on_disconnect="finish"), CALLER)
        leave(run)
        assert still_running(run)


def test_cancel_gives_up_at_once_when_the_last_one_leaves_but_not_before_the_first_nor_when_we_closed() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(Ask(prompt="hi", on_disconnect="cancel"), CALLER)
        assert still_running(run)
        leave(run, by_us=True)
        assert still_running(run)
        second = run.follow(0)
        leave(run)
        assert still_running(run)
        second.close()
        assert ended(run).reason == "abandoned"


def test_a_look_counts_as_presence_and_a_202_turns_cancel_into_grace() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url), disconnect_grace_seconds=0.3) as all_runs:
        run = all_runs.start(Ask(prompt="hi", on_disconnect="cancel"), CALLER)
        assert run.presence is not None
        run.presence.soften()
        leave(run)
        for _ in range(6):
            gevent.sleep(0.1)
            run.presence.seen()
        assert not run.ended
        assert ended(run).reason == "abandoned"


# -- idempotency -------------------------------------------------------------------------------------------------------

KEYED = Ask(prompt="hi", idempotency_key="k1")


def test_the_same_key_and_ask_attach_to_the_first_run() -> None:
    with scripted(tokens("a")) as upstream, runs(openai(upstream.url)) as all_runs:
        first = all_runs.start(KEYED, CALLER)
        assert all_runs.start(KEYED, CALLER) is first
        ended(first)
        assert all_runs.start(KEYED, CALLER) is first
        other = all_runs.start(KEYED, Caller(owner="somebody else"))
        assert other is not first
        ended(other)
        assert len(upstream.calls) == 2


def test_the_same_key_with_another_ask_is_refused() -> None:
    with scripted(tokens("a")) as upstream, runs(openai(upstream.url)) as all_runs:
        ended(all_runs.start(KEYED, CALLER))
        refusal = refused(lambda: all_runs.start(Ask(prompt="ho", idempotency_key="k1"), CALLER))
        assert (refusal.code, refusal.status) == ("idempotency_mismatch", 422)
        assert len(upstream.calls) == 1


def test_the_key_of_an_expired_run_never_starts_a_new_one() -> None:
    with scripted(tokens("a")) as upstream, runs(openai(upstream.url), run_ttl_seconds=0.05) as all_runs:
        run = all_runs.start(KEYED, CALLER)
        ended(run)
        wait_until(lambda: all_runs.counts()["ended"] == 0, "the run expired")
        refusal = refused(lambda: all_runs.start(KEYED, CALLER))
        assert (refusal.code, refusal.status) == ("run_expired", 410)
        assert len(upstream.calls) == 1


def test_a_refused_ask_frees_its_key() -> None:
    with scripted(tokens("a")) as upstream, runs(openai(upstream.url), max_runs=1) as all_runs:
        upstream.script = held
        first = all_runs.start(ASK, CALLER)
        assert refused(lambda: all_runs.start(KEYED, CALLER)).code == "too_many_runs"
        first.end_early("stopped")
        ended(first)
        upstream.script = tokens("a")
        ended(all_runs.start(KEYED, CALLER))


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_a_run_that_grows_too_large_ends_and_its_digest_covers_what_was_kept() -> None:
    with scripted(tokens(*["x" * 100] * 50)) as upstream, runs(openai(upstream.url), run_max_bytes=2000) as all_runs:
        run = all_runs.start(ASK, CALLER)
        end = ended(run)
        assert (end.reason, end.error.code) == ("error", "run_too_large")
        text = run.answer().text
        assert 0 < len(text) < 2000
        assert end.digest.crc32 == f"{zlib.crc32(text.encode()):08x}"


def test_a_run_may_not_take_longer_than_its_limit() -> None:
    def script(call: Call) -> None:
        call.start()
        while True:
            call.chunk(token_chunk("x"))
            gevent.sleep(0.02)

    with scripted(script) as upstream, runs(openai(upstream.url), run_max_seconds=0.3) as all_runs:
        run = all_runs.start(ASK, CALLER)
        assert ended(run).error.code == "run_too_long"
        assert upstream.calls[0].await_close(1)


def test_a_log_that_is_being_read_is_not_the_one_that_makes_room() -> None:
    store = MemoryStore()
    with (
        scripted(tokens("x" * 3000)) as upstream,
        runs(openai(upstream.url), store=store, log_max_bytes=2500, run_ttl_seconds=0.1) as all_runs,
    ):
        run = all_runs.start(ASK, CALLER)
        late = run.follow(0)
        assert [entry.type for entry in entries(run)] == ["start", "upstream", "token", "end"]
        assert refused(lambda: all_runs.start(ASK, CALLER)).code == "too_many_runs"
        gevent.sleep(0.3)  # its time to live is over too
        assert [entry.type for entry in late.read(1)] == ["start", "upstream", "token", "end"]
        late.close()
        ended(all_runs.start(ASK, CALLER))
        assert refused(lambda: all_runs.get(run.id)).code == "run_expired"


def test_unfinished_runs_are_bounded_and_the_refusal_says_when_to_come_back() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url), max_runs=2) as all_runs:
        started = [all_runs.start(ASK, CALLER) for _ in range(2)]
        refusal = refused(lambda: all_runs.start(ASK, CALLER))
        assert (refusal.status, refusal.retry_after) == (503, 5)
        assert all_runs.get(started[0].id) is started[0]


def test_the_oldest_ended_logs_go_first_when_memory_is_full_and_nothing_running_is_harmed() -> None:
    store = MemoryStore()
    with (
        scripted(tokens("x" * 4000)) as upstream,
        runs(openai(upstream.url), store=store, log_max_bytes=20_000) as all_runs,
    ):
        done = []
        for _ in range(8):
            run = all_runs.start(ASK, CALLER)
            ended(run)
            done.append(run)
            assert store.size_bytes <= 20_000
        assert refused(lambda: all_runs.get(done[0].id)).code == "run_expired"
        assert all_runs.get(done[-1].id) is done[-1]
        upstream.script = held
        running = all_runs.start(ASK, CALLER)
        wait_until(lambda: running.last_seq >= 3, "a token came")
        for _ in range(4):
            upstream.script = tokens("x" * 4000)
            ended(all_runs.start(ASK, CALLER))
        assert not running.ended
        assert all_runs.get(running.id) is running


def test_new_runs_are_refused_while_running_ones_fill_the_memory() -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("x" * 5000))
        call.await_close()

    with scripted(script) as upstream, runs(openai(upstream.url), log_max_bytes=5000) as all_runs:
        running = all_runs.start(ASK, CALLER)
        wait_until(lambda: running.last_seq >= 3, "the log is full")
        assert refused(lambda: all_runs.start(ASK, CALLER)).code == "too_many_runs"
        assert not running.ended


def test_runs_expire_in_order_and_free_their_memory() -> None:
    store = MemoryStore()
    with scripted(tokens("a")) as upstream, runs(openai(upstream.url), store=store, run_ttl_seconds=0.1) as all_runs:
        ids = []
        for _ in range(3):
            run = all_runs.start(ASK, CALLER)
            ended(run)
            ids.append(run.id)
        wait_until(lambda: all_runs.counts()["ended"] == 0, "all have expired")
        assert store.size_bytes == 0
        assert {refused(lambda: all_runs.get(each)).code for each in ids} == {"run_expired"}  # noqa: B023


def test_unknown_ids_are_told_apart() -> None:
    with runs(upstreams=[DemoUpstream()]) as all_runs, runs(upstreams=[DemoUpstream()]) as other:
        run = other.start(ASK, CALLER)
        assert refused(lambda: all_runs.get(run.id)).code == "other_instance"
        assert refused(lambda: other.get(run.id[:4] + "x" * 22)).code == "run_not_found"
        assert refused(lambda: other.get("nonsense")).code == "run_not_found"


# -- upstreams and failures --------------------------------------------------------------------------------------------


def test_the_ask_names_its_upstream_and_the_first_is_the_default() -> None:
    with scripted(tokens("first")) as one, scripted(tokens("second")) as two:
        with runs(openai(one.url), openai(two.url)) as all_runs:
            for name, text in ((None, "first"), ("u0", "first"), ("u1", "second")):
                run = all_runs.start(Ask(prompt="hi", upstream=name), CALLER)
                ended(run)
                assert run.answer().text == text
            assert refused(lambda: all_runs.start(Ask(prompt="hi", upstream="u9"), CALLER)).code == "unknown_upstream"


@pytest.mark.parametrize(
    ("ask", "field"),
    [(Ask(prompt="hi", inputs={}), "inputs"), (Ask(prompt="hi", files=[]), "files")],
)
def test_what_the_upstream_does_not_have_is_refused_by_name(ask: Ask, field: str) -> None:
    with runs(openai("http://127.0.0.1:1/v1")) as all_runs, pytest.raises(AskError, match=field):
        all_runs.start(ask, CALLER)


def test_a_failed_run_tells_its_error_and_what_was_received() -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("half"))
        call.finish()

    with scripted(script) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        end = ended(run)
        assert (end.reason, end.error.code, end.error.retryable, end.error.status) == (
            "error",
            "upstream_truncated",
            True,
            502,
        )
        assert run.answer().text == "half"
        assert end.usage.exact is False


def test_a_call_that_was_never_accepted_is_estimated_at_nothing() -> None:
    with runs(openai("http://127.0.0.1:1/v1")) as all_runs:
        end = ended(all_runs.start(ASK, CALLER))
        assert (end.error.code, end.usage.total_tokens, end.usage.exact) == ("upstream_unreachable", 0, False)


def test_a_bug_inside_becomes_an_internal_error_with_one_end(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(DemoUpstream):
        def exchange(self, *args: Any) -> Any:
            call = super().exchange(*args)
            call._run = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
            return call

    with runs(upstreams=[Broken()]) as all_runs:
        run = all_runs.start(ASK, CALLER)
        assert ended(run).error.code == "internal"
        assert [entry.type for entry in entries(run)].count("end") == 1
    assert "run failed inside the relay" in caplog.text


@pytest.mark.parametrize(
    "last",
    [
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":true,"id":"a"}]},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":%s,"completion_tokens":1}}\n\n'
        % (b"9" * 4300),
        b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"total_tokens":1,"x":%s"\\ud800"%s}}\n\n'
        % (b"[" * 600, b"]" * 600),
        b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"total_tokens":1,"x":"%s"}}\n\n' % (b"x" * 900_000),
    ],
)
def test_whatever_an_upstream_says_last_there_is_one_end_and_it_is_small(last: bytes) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("a") + last + DONE)
        call.finish()

    with scripted(script) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        ended(run)
        seen = entries(run)
        assert [entry.type for entry in seen].count("end") == 1
        assert len(seen[-1].data) < 300_000
        assert run.answer().text == "a"
        assert all_runs.counts()["unfinished"] == 0


def test_closing_ends_what_runs_as_interrupted() -> None:
    with scripted(held) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(ASK, CALLER)
        wait_until(lambda: run.last_seq >= 3, "a token came")
        all_runs.close()
        assert ended(run).reason == "interrupted"


def test_what_the_end_brings_about_is_done_when_the_first_one_sees_the_end() -> None:
    """A next ask right behind the end must find the conversation free."""
    with scripted(tokens("a")) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = None
        for _ in range(3):
            run = all_runs.start(Ask(prompt="hi", conversation_id=conversation_id), CALLER)
            entries(run)
            conversation_id = run.turn.conversation_id
        assert all_runs.counts() == {"unfinished": 0, "ended": 3}
