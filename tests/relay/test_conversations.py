"""What the upstream is told of the turns before, and what becomes of the turn after."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from streaming.relay.caller import Caller
from streaming.relay.runs import Runs
from streaming.wire.ask import Ask, Message
from streaming.wire.errors import Refusal
from tests.live import Call, ScriptedUpstream, scripted, wait_until
from tests.relay.support import CALLER, DONE, FINISH, dify, ended, openai, runs, token_chunk


def echo(call: Call) -> None:
    """Answer with the last question, in capitals."""
    question = json.loads(call.body)["messages"][-1]["content"]
    call.start()
    call.chunk(token_chunk(question.upper()) + FINISH + DONE)
    call.finish()


def ask(all_runs: Runs, prompt: str, conversation_id: str | None = None, **fields: Any) -> str | None:
    """Ask, wait for the end, return the conversation's id."""
    run = all_runs.start(Ask(prompt=prompt, conversation_id=conversation_id, **fields), CALLER)
    ended(run)
    return run.turn.conversation_id


def last_messages(upstream: ScriptedUpstream) -> list[str]:
    return [message["content"] for message in json.loads(upstream.calls[-1].body)["messages"]]


def test_a_conversation_carries_its_turns() -> None:
    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        assert ask(all_runs, "b", conversation_id) == conversation_id
        ask(all_runs, "c", conversation_id)
        assert last_messages(upstream) == ["a", "A", "b", "B", "c"]
        ask(all_runs, "elsewhere")
        assert last_messages(upstream) == ["elsewhere"]


def test_the_last_turn_can_be_replaced_but_a_failed_attempt_leaves_it() -> None:
    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        ask(all_runs, "b", conversation_id)
        upstream.script = lambda call: call.answer(500, b"{}")
        ask(all_runs, "never", conversation_id, replace_last=True)
        upstream.script = echo
        ask(all_runs, "b2", conversation_id, replace_last=True)
        assert last_messages(upstream) == ["a", "A", "b2"]
        ask(all_runs, "c", conversation_id)
        assert last_messages(upstream) == ["a", "A", "b2", "B2", "c"]


def test_replacing_a_turn_that_failed_does_not_cost_the_one_before() -> None:
    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        upstream.script = lambda call: call.answer(500, b"{}")
        ask(all_runs, "b", conversation_id)
        ask(all_runs, "b", conversation_id, replace_last=True)
        upstream.script = echo
        ask(all_runs, "b", conversation_id, replace_last=True)
        assert last_messages(upstream) == ["a", "A", "b"]
        ask(all_runs, "b2", conversation_id, replace_last=True)
        assert last_messages(upstream) == ["a", "A", "b2"]


def test_replacing_a_turn_that_was_stopped_before_its_first_word_does_not_cost_the_one_before() -> None:
    def silent(call: Call) -> None:
        call.start()
        call.await_close()

    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        upstream.script = silent
        run = all_runs.start(Ask(prompt="b", conversation_id=conversation_id), CALLER)
        run.end_early("stopped")
        ended(run)
        upstream.script = echo
        ask(all_runs, "b", conversation_id, replace_last=True)
        assert last_messages(upstream) == ["a", "A", "b"]


def transcript(all_runs: Runs, conversation_id: str | None, caller: Caller = CALLER) -> list[tuple[str, str]] | None:
    turns = all_runs.transcript(conversation_id, caller)
    return turns and [(question.text(), answer.text()) for question, answer in turns]


def test_a_transcript_is_for_whoever_holds_its_id() -> None:
    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        ask(all_runs, "b", conversation_id)
        assert transcript(all_runs, conversation_id) == [("a", "A"), ("b", "B")]
        assert transcript(all_runs, "made-up") is None
        assert transcript(all_runs, None) is None
        run = all_runs.start(Ask(prompt="c"), Caller(owner="alice"))
        ended(run)
        assert transcript(all_runs, run.turn.conversation_id) is None
        assert transcript(all_runs, run.turn.conversation_id, Caller(owner="bob")) is None
        assert transcript(all_runs, run.turn.conversation_id, Caller(owner="alice")) == [("c", "C")]


def test_only_the_newest_turns_are_kept() -> None:
    with scripted(echo) as upstream, runs(openai(upstream.url), max_turns=2) as all_runs:
        conversation_id = ask(all_runs, "a")
        for prompt in "bcd":
            ask(all_runs, prompt, conversation_id)
        assert last_messages(upstream) == ["b", "B", "c", "C", "d"]


def test_a_history_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.relay.conversations.HISTORY_MAX_BYTES", 900)
    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a" * 300)
        ask(all_runs, "b" * 300, conversation_id)
        ask(all_runs, "c", conversation_id)
        assert last_messages(upstream) == ["b" * 300, "B" * 300, "c"]


def test_one_unfinished_run_a_conversation() -> None:
    def script(call: Call) -> None:
        call.start()
        call.await_close()

    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        upstream.script = script
        busy = all_runs.start(Ask(prompt="b", conversation_id=conversation_id), CALLER)
        with pytest.raises(Refusal) as caught:
            ask(all_runs, "c", conversation_id)
        assert (caught.value.code, caught.value.status) == ("conversation_busy", 409)
        busy.end_early("stopped")
        ended(busy)
        upstream.script = echo
        ask(all_runs, "d", conversation_id)
        assert last_messages(upstream) == ["a", "A", "d"]  # nothing had come of it


def test_a_stopped_turn_is_kept_as_far_as_it_came() -> None:
    def half(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("half"))
        call.await_close()

    with scripted(half) as upstream, runs(openai(upstream.url)) as all_runs:
        run = all_runs.start(Ask(prompt="a"), CALLER)
        wait_until(lambda: run.last_seq >= 3, "a token came")
        with pytest.raises(Refusal, match="unfinished run"):
            ask(all_runs, "b", run.turn.conversation_id)  # its first turn: nothing is stored of it yet
        run.end_early("stopped")
        ended(run)
        upstream.script = echo
        ask(all_runs, "b", run.turn.conversation_id)
        assert last_messages(upstream) == ["a", "half", "b"]


@pytest.mark.parametrize(
    ("script", "kept"),
    [
        (lambda call: call.answer(500, b"{}"), False),
        (lambda call: (call.start(), call.chunk(token_chunk("half")), call.finish()), False),
        (echo, True),
    ],
)
def test_only_turns_that_ended_well_enter_the_history(script: Callable[[Call], object], kept: bool) -> None:
    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        upstream.script = script
        ask(all_runs, "b", conversation_id)
        upstream.script = echo
        ask(all_runs, "c", conversation_id)
        assert last_messages(upstream) == (["a", "A", "b", "B", "c"] if kept else ["a", "A", "c"])


def not_found(all_runs: Runs, conversation_id: str | None, caller: Caller = CALLER) -> None:
    with pytest.raises(Refusal) as caught:
        all_runs.start(Ask(prompt="x", conversation_id=conversation_id), caller)
    assert (caught.value.code, caught.value.status) == ("conversation_not_found", 404)


def test_unknown_expired_and_other_callers_conversations_are_not_found() -> None:
    with scripted(echo) as upstream, runs(openai(upstream.url), conversation_ttl_seconds=0.2) as all_runs:
        not_found(all_runs, "made-up")
        run = all_runs.start(Ask(prompt="a"), Caller(owner="alice"))
        ended(run)
        not_found(all_runs, run.turn.conversation_id, Caller(owner="bob"))
        not_found(all_runs, run.turn.conversation_id)
        wait_until(
            lambda: all_runs._store.keys("conversations").get(run.turn.conversation_id or "") is None, "it expired"
        )
        not_found(all_runs, run.turn.conversation_id, Caller(owner="alice"))
        assert len(upstream.calls) == 1


def test_messages_bring_their_own_history_and_make_no_conversation() -> None:
    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        messages = [Message("system", "be brief"), Message("user", "a")]
        run = all_runs.start(Ask(messages=messages), CALLER)
        ended(run)
        assert run.turn.conversation_id is None
        assert last_messages(upstream) == ["be brief", "a"]


def dify_script(remote_id: str) -> Callable[[Call], None]:
    def script(call: Call) -> None:
        call.start()
        head = f'"task_id":"t","conversation_id":"{remote_id}"'
        call.chunk(f'data: {{"event":"message",{head},"answer":"ok"}}\n\n'.encode())
        call.chunk(f'data: {{"event":"message_end",{head},"metadata":{{}}}}\n\n'.encode())
        call.finish()

    return script


def body(upstream: ScriptedUpstream) -> dict[str, Any]:
    return json.loads(upstream.calls[-1].body)  # type: ignore[no-any-return]


def test_dify_keeps_its_own_history_under_its_own_id_and_always_the_same_user() -> None:
    with scripted(dify_script("remote-1")) as upstream, runs(dify(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        first = body(upstream)
        assert first["conversation_id"] == ""
        assert conversation_id not in first["user"]  # whoever holds the id may use the conversation
        ask(all_runs, "b", conversation_id)
        second = body(upstream)
        assert (second["conversation_id"], second["query"]) == ("remote-1", "b")
        assert [question for question, _ in transcript(all_runs, conversation_id) or []] == ["a", "b"]  # for our page
        assert second["user"] == first["user"]


def test_a_user_named_by_the_caller_goes_to_dify_unchanged_and_stays() -> None:
    with scripted(dify_script("remote-1")) as upstream, runs(dify(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a", user="小王")
        ask(all_runs, "b", conversation_id)
        assert [json.loads(call.body)["user"] for call in upstream.calls] == ["小王", "小王"]


def test_a_conversation_that_dify_silently_began_anew_says_so_and_goes_on_there() -> None:
    with scripted(dify_script("remote-1")) as upstream, runs(dify(upstream.url)) as all_runs:
        conversation_id = ask(all_runs, "a")
        upstream.script = dify_script("remote-2")
        run = all_runs.start(Ask(prompt="b", conversation_id=conversation_id), CALLER)
        assert ended(run).metadata["conversation_reset"] is True
        ask(all_runs, "c", conversation_id)
        assert body(upstream)["conversation_id"] == "remote-2"


def test_a_dify_conversation_cannot_move_to_another_upstream() -> None:
    with scripted(dify_script("r")) as one, scripted(dify_script("r")) as two:
        with runs(dify(one.url), dify(two.url)) as all_runs:
            conversation_id = ask(all_runs, "a")
            with pytest.raises(Refusal, match="lives at the upstream 'u0'"):
                ask(all_runs, "b", conversation_id, upstream="u1")


@pytest.mark.parametrize("mode", ["completion", "workflow"])
def test_dify_apps_without_conversations_make_none(mode: str) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(b'data: {"event":"message_end","metadata":{}}\n\n')
        call.finish()

    with scripted(script) as upstream, runs(dify(upstream.url, mode)) as all_runs:
        assert ask(all_runs, "a") is None


def test_an_ended_run_keeps_neither_prompt_nor_history() -> None:
    """It is kept for an hour, and only its log's bytes are counted."""
    with scripted(echo) as upstream, runs(openai(upstream.url)) as all_runs:
        long_question = "a question" + " and so on" * 50_000
        run = all_runs.start(Ask(prompt=long_question), CALLER)
        conversation_id = run.turn.conversation_id
        ended(run)
        assert run.attempts is None
        assert len(msgspec.json.encode(run.turn)) < 20_000
        assert run.turn.context.messages[-1].text().startswith("a question")  # the page still shows it
        assert run.turn.conversation_id == conversation_id
        ask(all_runs, "b", conversation_id)
        assert last_messages(upstream) == [long_question, long_question.upper(), "b"]
