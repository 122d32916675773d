"""Calls to a Dify app that are no run, on a real socket; and what they may cost a run's end."""

import json
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from streaming.relay import dify_calls as dify_calls_module
from streaming.relay.dify_calls import DifyCalls
from streaming.relay.exchange import HttpUpstream
from streaming.relay.runs import Runs
from streaming.relay.stores.memory import MemoryStore
from streaming.wire.ask import Ask
from streaming.wire.dialects import Verdict
from streaming.wire.dialects.dify_app import DifyApp
from streaming.wire.dialects.dify_files import Upload
from streaming.wire.errors import Failure, Refusal
from tests.live import Call, free_port, scripted, wait_until
from tests.relay.support import CALLER, LIMITS, dify, ended, kept_session, runs
from tests.scripted_dify import FILE_ID, MESSAGE_ID, PARAMETERS, Dify, as_json, event, form_of

SUGGESTING = {**PARAMETERS, "suggested_questions_after_answer": {"enabled": True}}
HI = Ask(prompt="hi", user="Zoë")


class Pieces(list[bytes]):
    """Content in pieces; its length is in bytes."""

    def __len__(self) -> int:
        return sum(map(len, self))


UPLOAD = Upload(name="a.png", media_type="image/png", content=Pieces([b"\x89PNG", b"x" * 300_000]))


def calls_to(url: str, store: MemoryStore | None = None) -> DifyCalls:
    users = (store or MemoryStore()).keys("message-users")
    return DifyCalls("d", DifyApp(url=url, api_key="app-1"), kept_session(), LIMITS, users=users, user_seconds=60)


def known(calls: DifyCalls, message_id: str, user: str = "Zoë") -> str:
    """Let an answer of a user be known; return its id."""
    calls.finish(Verdict(reason="stopped", metadata={"message_id": message_id}), user, suggest=False)
    return message_id


@contextmanager
def app(**routes: Callable[[Call], object]) -> Iterator[tuple[Dify, DifyCalls]]:
    script = Dify()
    script.routes |= routes
    with scripted(script) as upstream:
        yield script, calls_to(upstream.url)


# -- parameters --------------------------------------------------------------------------------------------------------


def test_parameters_are_asked_for_once() -> None:
    with app() as (script, calls):
        first = calls.parameters(20)
        assert first is not None
        assert first.opening == PARAMETERS["opening_statement"]
        assert calls.parameters(20) is first
        (call,) = script.calls("parameters")
        assert (call.method, call.path, call.body) == ("GET", "/v1/parameters", b"")
        assert call.headers["authorization"] == "Bearer app-1"
        assert "content-type" not in call.headers


def silent(call: Call) -> None:
    call.await_close()


def trickling(call: Call) -> None:
    """Bytes for ever, each well in time."""
    call.start(content_type="application/json")
    while not call.await_close(0.02):
        call.chunk(b" ")


@pytest.mark.parametrize(
    "script",
    [
        silent,
        trickling,
        lambda call: call.connection.close(),
        lambda call: as_json(call, 500, {"code": "internal_server_error", "message": "secret"}),
        lambda call: call.answer(200, b"<html>secret", "Content-Type: text/html"),
        lambda call: call.answer(200, b'{"opening_statement":"' + b"x" * (300 * 1024) + b'"}'),
        lambda call: call.answer(302, b"", "Location: http://127.0.0.1:1/secret"),
    ],
)
def test_an_app_that_cannot_tell_is_not_asked_again_at_once(
    script: Callable[[Call], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dify_calls_module, "CALL_SECONDS", 0.3)
    with app(parameters=script) as (dify_app, calls):
        assert calls.parameters(20) is None
        assert calls.parameters(20) is None
        assert len(dify_app.calls("parameters")) == 1
    assert "'d'" in caplog.text
    assert "secret" not in caplog.text


# -- uploads and ratings -----------------------------------------------------------------------------------------------


def test_an_upload_arrives_byte_for_byte_with_its_length() -> None:
    with app() as (script, calls):
        assert calls.upload(UPLOAD, "Zoë").id == FILE_ID
        (call,) = script.calls("upload")
        assert "transfer-encoding" not in call.headers
        form = form_of(call)
        assert form["user"] == "Zoë"
        assert form["file"] == ({"name": "file", "filename": "a.png", "type": "image/png"}, b"".join(UPLOAD.content))


def test_an_upload_on_a_kept_connection_that_died_is_sent_again_whole() -> None:
    script = Dify()
    answers = iter([script.routes["upload"], lambda call: call.connection.close(), script.routes["upload"]])
    script.routes["upload"] = lambda call: next(answers)(call)
    with scripted(script) as upstream:
        calls = calls_to(upstream.url)
        calls.upload(UPLOAD, "u")
        calls.upload(UPLOAD, "u")
        _, died, again = script.calls("upload")
        assert form_of(again)["file"] == form_of(died)["file"]


@pytest.mark.parametrize("script", [silent, trickling])
def test_an_app_that_never_answers_an_upload_is_left(
    script: Callable[[Call], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dify_calls_module, "UPLOAD_SECONDS", 0.3)
    with app(upload=script) as (_, calls), pytest.raises(Failure) as caught:
        calls.upload(UPLOAD, "u")
    assert caught.value.code == "upstream_timeout"


def test_an_app_that_is_not_there_is_unreachable() -> None:
    calls = calls_to(f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(Failure) as caught:
        calls.rate(known(calls, MESSAGE_ID), "like", None)
    assert caught.value.code == "upstream_unreachable"


def test_a_rating_is_given_in_the_name_of_who_asked() -> None:
    script = Dify()
    with asked(script) as (all_runs, calls):
        message_id = ended(all_runs.start(HI, CALLER)).metadata["message_id"]
        calls.rate(message_id, "dislike", "too short")
        (call,) = script.calls("feedbacks")
        assert call.path == f"/v1/messages/{MESSAGE_ID}/feedbacks"
        assert json.loads(call.body) == {"rating": "dislike", "user": "Zoë", "content": "too short"}
        with pytest.raises(Refusal) as caught:
            calls.rate("another-message", "like", None)
        assert caught.value.status == 410
        assert len(script.calls("feedbacks")) == 1


def test_an_answer_whose_sources_are_too_many_to_tell_can_be_rated_all_the_same() -> None:
    script = Dify()
    sources = [{"position": n, "content": "x" * 30_000} for n in range(10)]

    def chat(call: Call) -> None:
        call.start()
        call.chunk(event("message", answer="a") + event("message_end", metadata={"retriever_resources": sources}))
        call.finish()

    script.routes["chat-messages"] = chat
    with asked(script) as (all_runs, _):
        metadata = ended(all_runs.start(HI, CALLER)).metadata
        assert metadata == {"message_id": MESSAGE_ID, "omitted": "too large"}


def test_another_worker_of_the_same_store_knows_whose_message_it_is() -> None:
    script, store = Dify(), MemoryStore()
    with scripted(script) as upstream:
        known(calls_to(upstream.url, store), MESSAGE_ID, "Zoë")
        calls_to(upstream.url, store).rate(MESSAGE_ID, "like", None)
        assert json.loads(script.calls("feedbacks")[0].body)["user"] == "Zoë"


# -- suggested questions -----------------------------------------------------------------------------------------------


@contextmanager
def asked(script: Dify, **bounds: Any) -> Iterator[tuple[Runs, DifyCalls]]:
    """Runs over a scripted Dify app."""
    with scripted(script) as upstream:
        calls = calls_to(upstream.url)
        one = HttpUpstream("d", "dify", dify(upstream.url), kept_session(), LIMITS, calls)
        with runs(upstreams=[one], **bounds) as all_runs:
            yield all_runs, calls


def suggesting() -> Dify:
    script = Dify()
    script.routes["parameters"] = lambda call: as_json(call, 200, SUGGESTING)
    return script


def test_suggested_questions_come_with_the_end() -> None:
    script = suggesting()
    with asked(script) as (all_runs, calls):
        calls.parameters(20)
        run = all_runs.start(HI, CALLER)
        metadata = ended(run).metadata
        assert metadata == {"message_id": MESSAGE_ID, "suggested_questions": ["And then?", "Why?"]}
        (call,) = script.calls("suggested")
        assert (call.method, call.path) == ("GET", f"/v1/messages/{MESSAGE_ID}/suggested?user=Zo%C3%AB")


def test_a_run_finds_out_by_itself_whether_the_app_suggests_questions() -> None:
    """Nobody opened a page before."""
    with asked(suggesting()) as (all_runs, _):
        assert ended(all_runs.start(HI, CALLER)).metadata["suggested_questions"] == ["And then?", "Why?"]


def test_an_end_does_not_wait_for_an_app_that_does_not_tell_what_it_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dify_calls_module, "END_WAIT_SECONDS", 0.05)
    script = suggesting()
    script.routes["parameters"] = silent
    with asked(script) as (all_runs, _):
        assert ended(all_runs.start(HI, CALLER)).metadata == {"message_id": MESSAGE_ID}
        assert len(script.calls("parameters")) == 1


def test_an_end_does_not_wait_for_questions_that_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dify_calls_module, "END_WAIT_SECONDS", 0.05)
    script, go = suggesting(), queue.Queue[None]()
    quick = script.routes["suggested"]

    def slow(call: Call) -> None:
        go.get(timeout=20)
        quick(call)

    script.routes["suggested"] = slow
    with asked(script) as (all_runs, calls):
        calls.parameters(20)
        end = ended(all_runs.start(HI, CALLER))  # while nobody has let the questions go
        assert (end.reason, end.metadata["suggested_questions"]) == ("done", None)
        assert calls.suggested(MESSAGE_ID, 0) is None
        go.put(None)
        assert calls.suggested(MESSAGE_ID, 20) == ["And then?", "Why?"]
        assert len(script.calls("suggested")) == 1  # a second one would be paid again


def test_questions_that_fail_cost_nothing_but_themselves() -> None:
    script = suggesting()
    script.routes["suggested"] = lambda call: as_json(call, 500, {"code": "internal_server_error"})
    with asked(script) as (all_runs, calls):
        calls.parameters(20)
        end = ended(all_runs.start(HI, CALLER))
        assert (end.reason, end.error, end.metadata["suggested_questions"]) == ("done", None, None)
        with pytest.raises(Failure):
            calls.suggested(MESSAGE_ID, 20)
        assert len(script.calls("suggested")) == 1


def test_a_run_whose_time_is_over_while_it_waits_for_questions_is_still_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dify_calls_module, "END_WAIT_SECONDS", 15.0)
    script = suggesting()
    script.routes["suggested"] = silent
    with asked(script, run_max_seconds=3) as (all_runs, calls):
        calls.parameters(20)
        end = ended(all_runs.start(HI, CALLER))
        assert (end.reason, end.metadata["suggested_questions"]) == ("done", None)


def failing(call: Call) -> None:
    call.start()
    call.chunk(event("workflow_started"))
    call.chunk(event("error", code="internal_server_error", status=500, message="x"))
    call.finish()


def paused(call: Call) -> None:
    call.start()
    call.chunk(event("workflow_started") + event("human_input_required") + event("workflow_paused"))
    call.finish()


@pytest.mark.parametrize("chat", [failing, paused])
def test_no_questions_follow_what_is_no_whole_answer(chat: Callable[[Call], object]) -> None:
    script = suggesting()
    script.routes["chat-messages"] = chat
    with asked(script) as (all_runs, calls):
        calls.parameters(20)
        metadata = ended(all_runs.start(HI, CALLER)).metadata
        assert metadata["message_id"] == MESSAGE_ID
        assert "suggested_questions" not in metadata
        assert script.calls("suggested") == []


def test_a_stopped_answer_waits_for_no_questions() -> None:
    script, stopped = suggesting(), queue.Queue[None]()

    def chat(call: Call) -> None:
        call.start()
        call.chunk(event("message", answer="a"))
        stopped.get(timeout=20)
        call.chunk(event("message_end"))
        call.finish()

    def stop(call: Call) -> None:
        stopped.put(None)
        as_json(call, 200, {"result": "success"})

    script.routes |= {"chat-messages": chat, "stop": stop}
    script.arrived["stop"] = queue.Queue()
    with asked(script) as (all_runs, calls):
        calls.parameters(20)
        run = all_runs.start(HI, CALLER)
        wait_until(lambda: run.has_token, "a token came")
        run.end_early("stopped")
        end = ended(run)
        assert (end.reason, end.upstream_stop, end.metadata) == ("stopped", "confirmed", {"message_id": MESSAGE_ID})
        assert script.calls("suggested") == []


def test_no_questions_are_asked_for_where_the_app_makes_none() -> None:
    script = Dify()
    with asked(script) as (all_runs, calls):
        calls.parameters(20)
        assert "suggested_questions" not in ended(all_runs.start(HI, CALLER)).metadata
        assert script.calls("suggested") == []


def test_only_the_newest_answers_questions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dify_calls_module, "SUGGESTED_KEPT", 2)
    with app() as (script, calls):
        for message_id in ("m1", "m2", "m3", "m3", "m2", "m1"):
            assert calls.suggested(known(calls, message_id), 20) == ["And then?", "Why?"]
        assert [call.path.split("/")[3] for call in script.calls("suggested")] == ["m1", "m2", "m3", "m1"]
