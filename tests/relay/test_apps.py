"""Whose app, whose user, whose message: what the relay decides before it calls an app."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streaming.relay.apps import Apps
from streaming.relay.caller import Caller
from streaming.relay.conversations import Conversations
from streaming.relay.dify_calls import DifyCalls
from streaming.relay.exchange import HttpUpstream
from streaming.relay.runs import Runs
from streaming.relay.stores.memory import MemoryStore
from streaming.wire.ask import Ask
from streaming.wire.dialects.dify_app import DifyApp
from streaming.wire.errors import Refusal
from tests.live import Call, scripted
from tests.relay.support import (
    CALLER,
    DONE,
    FINISH,
    LIMITS,
    allowance,
    dify,
    ended,
    kept_session,
    openai,
    runs,
    token_chunk,
)
from tests.scripted_dify import FILE_ID, MESSAGE_ID, PARAMETERS, Dify, as_json, form_of


class Content(list[bytes]):
    """Content in pieces; its length is in bytes."""

    def __len__(self) -> int:
        return sum(map(len, self))


class World:
    """A bare model named m and a Dify app named d, in this order, with one store between them."""

    def __init__(self, all_runs: Runs, apps: Apps, script: Dify) -> None:
        self.runs = all_runs
        self.apps = apps
        self.script = script

    def upload(self, name: str = "a.png", content: bytes = b"x", **fields: str | None) -> dict[str, str]:
        """Upload a file; return the user that Dify got and the answer."""
        told = {"upstream": "d", "conversation_id": None, "user": None, "caller": Caller(), **fields}
        uploaded = self.apps.upload(name, Content([content]), **told)  # type: ignore[arg-type]
        return {"sent": form_of(self.script.arrived["upload"].get())["user"], "told": uploaded.user, "id": uploaded.id}

    def sent_user(self) -> str:
        """Return the user of the newest ask that reached Dify."""
        return str(json.loads(self.script.calls("chat-messages")[-1].body)["user"])


def model(call: Call) -> None:
    call.answer(200, token_chunk("a") + FINISH + DONE, "Content-Type: text/event-stream")


@pytest.fixture
def world() -> Iterator[World]:
    script = Dify()
    with scripted(script) as app, scripted(model) as bare, _world(script, app.url, bare.url) as made:
        yield made


@contextmanager
def _world(script: Dify, app_url: str, model_url: str) -> Iterator[World]:
    store, session = MemoryStore(), kept_session()
    users = store.keys("message-users")
    calls = DifyCalls("d", DifyApp(url=app_url, api_key="k"), session, LIMITS, users=users, user_seconds=60)
    upstreams = [
        HttpUpstream("m", "openai", openai(model_url), session, LIMITS),
        HttpUpstream("d", "dify", dify(app_url), session, LIMITS, calls),
    ]
    with runs(upstreams=upstreams, store=store) as all_runs:
        conversations = Conversations(store, ttl_seconds=60, max_turns=50, claim_seconds=120)
        yield World(
            all_runs,
            Apps(["m", "d"], {"d": calls}, conversations, allowance=allowance(store), owners=all_runs.owners),
            script,
        )


def refused(code: str, status: int, call: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(Refusal) as caught:
        call(*args, **kwargs)  # type: ignore[operator]
    assert (caught.value.code, caught.value.status) == (code, status)
    return caught.value.message


# -- whose file --------------------------------------------------------------------------------------------------------


def test_a_file_can_go_with_the_ask_that_names_the_user_of_its_upload(world: World) -> None:
    first = world.upload()
    assert first["sent"] == first["told"]
    assert first["id"] == FILE_ID
    second = world.upload(user=first["told"])
    assert second["sent"] == first["sent"]
    run = world.runs.start(Ask(prompt="hi", upstream="d", user=first["told"]), CALLER)
    ended(run)
    assert world.sent_user() == first["sent"]
    # The conversation stays that user's, named or not.
    assert world.upload(conversation_id=run.turn.conversation_id, upstream=None)["sent"] == first["sent"]


def test_two_visitors_never_share_a_user(world: World) -> None:
    assert world.upload()["sent"] != world.upload()["sent"]


def test_a_file_for_a_conversation_belongs_to_its_user(world: World) -> None:
    run = world.runs.start(Ask(prompt="hi", upstream="d"), CALLER)
    ended(run)
    uploaded = world.upload(conversation_id=run.turn.conversation_id, upstream=None)
    assert uploaded["sent"] == uploaded["told"] == world.sent_user()


def test_another_callers_conversation_tells_nothing_of_its_user(world: World) -> None:
    run = world.runs.start(Ask(prompt="hi", upstream="d"), Caller(owner="alice"))
    ended(run)
    conversation_id = run.turn.conversation_id
    world.upload(conversation_id=conversation_id, caller=Caller(owner="alice"))
    for owner in ("bob", None):
        refused(
            "conversation_not_found", 404, world.upload, conversation_id=conversation_id, caller=Caller(owner=owner)
        )
    refused("conversation_not_found", 404, world.upload, conversation_id="made up")


def test_a_file_goes_to_an_upstream_that_takes_files(world: World) -> None:
    refused("not_supported", 400, world.upload, upstream="m")
    refused("not_supported", 400, world.upload, upstream=None)  # the first one is a bare model
    assert "m, d" in refused("unknown_upstream", 400, world.upload, upstream="x")
    assert world.script.calls("upload") == []


# -- which file --------------------------------------------------------------------------------------------------------


def test_what_the_app_does_not_take_is_refused_before_it_is_sent(world: World) -> None:
    refused("unsupported_file_type", 415, world.upload, "a.exe")
    refused("unsupported_file_type", 415, world.upload, "a.png.exe\u200b")
    world.upload("../a.png\u200b")  # what cannot be seen does not count
    assert world.script.calls("upload") == []


def test_a_size_is_that_of_its_kind(world: World) -> None:
    """1 MiB for images, 2 for documents."""
    content = b"x" * ((1 << 20) + 1)
    refused("file_too_large", 413, world.upload, "a.png", content)
    world.upload("a.png", content[1:])
    world.upload("a.pdf", content)


def test_an_app_without_files_takes_none(world: World) -> None:
    bare = {name: value for name, value in PARAMETERS.items() if name != "file_upload"}
    world.script.routes["parameters"] = lambda call: as_json(call, 200, bare)
    refused("not_supported", 400, world.upload)


def test_an_app_that_cannot_tell_what_it_takes_gets_what_is_harmless(world: World) -> None:
    world.script.routes["parameters"] = lambda call: as_json(call, 500, {})
    world.upload("a.png")
    refused("unsupported_file_type", 415, world.upload, "a.html")


# -- whose message -----------------------------------------------------------------------------------------------------


def test_a_run_that_is_no_message_cannot_be_rated(world: World) -> None:
    run = world.runs.start(Ask(prompt="hi", upstream="m"), CALLER)
    ended(run)
    refused("not_supported", 400, world.apps.rate, run, "like", None)
    refused("not_supported", 400, world.apps.suggested, run)
    world.script.routes["chat-messages"] = lambda call: as_json(call, 401, {"code": "unauthorized"})
    run = world.runs.start(Ask(prompt="hi", upstream="d"), CALLER)
    assert ended(run).reason == "error"
    refused("not_supported", 400, world.apps.rate, run, "like", None)


def test_a_run_is_rated_when_it_has_ended(world: World) -> None:
    def held(call: Call) -> None:
        call.start()
        call.await_close()

    chat = world.script.routes["chat-messages"]
    world.script.routes["chat-messages"] = held
    run = world.runs.start(Ask(prompt="hi", upstream="d"), CALLER)
    refused("run_unfinished", 409, world.apps.rate, run, "like", None)
    run.end_early("stopped", within_seconds=0)
    ended(run)
    world.script.routes["chat-messages"] = chat
    run = world.runs.start(Ask(prompt="hi", upstream="d"), CALLER)
    ended(run)
    world.apps.rate(run, "like", None)
    assert [call.path for call in world.script.calls("feedbacks")] == [f"/v1/messages/{MESSAGE_ID}/feedbacks"]


def test_suggested_questions_are_not_asked_for_where_the_app_makes_none(world: World) -> None:
    run = world.runs.start(Ask(prompt="hi", upstream="d"), CALLER)
    ended(run)
    refused("not_supported", 400, world.apps.suggested, run)
    assert world.script.calls("suggested") == []


def test_parameters_are_told_for_each_upstream(world: World) -> None:
    told = world.apps.parameters()
    assert list(told) == ["m", "d"]
    assert told["m"] is not None
    assert told["m"].form == []
    assert told["d"] is not None
    assert told["d"].opening == PARAMETERS["opening_statement"]
