"""Two callers, every route, and every id that one of them has, in the hands of the other.

Whoever holds a run's id may read and stop the run; nothing else of one caller's may reach the other.
"""

import json
import queue
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from app import create_app
from streaming.settings import Settings
from tests.live import Call, Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.redis_server import redis_server
from tests.relay.support import DONE, FINISH, token_chunk
from tests.scripted_dify import FILE_ID, Dify
from tests.web.ws_client import connected

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
CHAT = "chat-0123456789abcdef"
SECRET, EARLIER = "the-secret-of-alice", "what-alice-said-before"
KEY = "an-idempotency-key-of-alice"
GATE = "wait-for-it"


def echoing(release: "queue.Queue[None]") -> Callable[[Call], None]:
    """Return a script that answers with all that it was sent; a question with GATE is answered in two steps."""

    def script(call: Call) -> None:
        sent = json.loads(call.body)["messages"]
        call.start()
        call.chunk(token_chunk(json.dumps(sent)))
        if GATE in sent[-1]["content"]:
            release.get(timeout=600)
        call.chunk(FINISH + DONE)
        call.finish()

    return script


class World:
    """A relay for Alice and Bob over a model that echoes and a Dify app; and what Alice has there."""

    def __init__(self, server: Relay, model: ScriptedUpstream, app: Dify) -> None:
        self.server = server
        self.model = model
        self.app = app
        self.ids: dict[str, str] = {}

    def send(self, who: str | None, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request as somebody; None = without a key."""
        headers = {**({"Authorization": f"Bearer {who}"} if who else {}), **options.pop("headers", {})}
        options.setdefault("timeout", 30)
        return requests.request(method, f"{self.server.url}{path}", headers=headers, **options)

    def begin(self) -> None:
        """Let Alice have a conversation of two turns, an unfinished chat, a keyed run, a file and a Dify answer."""
        first = self.send(ALICE, "POST", "/chat", json={"prompt": EARLIER, "upstream": "model"}).json()
        ask = {"prompt": SECRET, "upstream": "model", "conversation_id": first["conversation_id"]}
        second = self.send(ALICE, "POST", "/chat", json=ask, headers={"Idempotency-Key": KEY}).json()
        assert second["conversation_id"] == first["conversation_id"]
        with self.send(ALICE, "POST", "/api/chat", json=_chat(f"{SECRET} {GATE}"), stream=True) as chat:
            chatting = chat.headers["X-Run-Id"]
        form = {"upstream": "app", "user": "u-1"}
        uploaded = self.send(ALICE, "POST", "/files", data=form, files={"file": ("a.png", b"x")})
        assert uploaded.status_code == 201, uploaded.text
        files = [{"type": "image", "transfer_method": "local_file", "upload_file_id": uploaded.json()["id"]}]
        dify = self.send(
            ALICE, "POST", "/chat", json={"prompt": SECRET, "upstream": "app", "files": files, "user": "u-1"}
        )
        self.ids = {
            "conversation": first["conversation_id"],
            "run": second["run_id"],
            "chatting": chatting,
            "file": uploaded.json()["id"],
            "dify_run": dify.json()["run_id"],
            "dify_conversation": dify.json()["conversation_id"],
        }

    def settle(self) -> None:
        """Wait until every run but the chat's has ended."""
        wait_until(lambda: self.server.counts()["unfinished"] == 1, "every run but the chat's has ended")


def _chat(words: str) -> dict[str, Any]:
    return {
        "id": CHAT,
        "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": words}]}],
        "trigger": "submit-message",
        "upstream": "model",
    }


@pytest.fixture(scope="module", params=["memory", "redis"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    release: queue.Queue[None] = queue.Queue()
    dify = Dify()
    with scripted(echoing(release)) as model, scripted(dify) as app:
        file = tmp_path_factory.mktemp("isolation") / "upstreams.toml"
        file.write_text(
            f'[[upstream]]\nname = "model"\ndialect = "openai"\nurl = "{model.url}"\nmodel = "m"\n'
            f'[[upstream]]\nname = "app"\ndialect = "dify"\nurl = "{app.url}"\napi_key_env = "KEY"\n'
        )
        settings = {"UPSTREAMS_FILE": str(file), "KEY": "app-1", "API_KEYS": f"alice:{ALICE},bob:{BOB}"}
        settings |= {"PUBLIC_PAGE": "1", "SECRET_KEY": "s" * 32, "RATE_LIMIT": "off"}
        if request.param == "memory":
            with relay(**settings) as server:
                yield from _begun(World(server, model, dify), release)
        else:
            with redis_server() as redis, relay(**settings, REDIS_URL=redis.url) as server:
                yield from _begun(World(server, model, dify), release)


def _begun(world: World, release: "queue.Queue[None]") -> Iterator[World]:
    world.begin()
    yield world
    for _ in range(20):
        release.put(None)  # nobody waits any more
    wait_until(lambda: world.server.counts()["unfinished"] == 0, "every run has ended")


@pytest.fixture
def stranger(world: World) -> Iterator[str]:
    yield BOB
    world.settle()


# -- what each route tells Bob of what is Alice's ----------------------------------------------------------------------

ASKING = ("/stream", "/chat", "/runs")
Outcome = tuple[int, str | None]

REFUSED: dict[str, tuple[str, str, dict[str, Any], Outcome]] = {
    **{
        f"{route}, conversation": (
            "POST",
            route,
            {"json": {"prompt": "tell me", "upstream": "model", "conversation_id": "{conversation}"}},
            (404, "conversation_not_found"),
        )
        for route in ASKING
    },
    "GET /stream, conversation": (
        "GET",
        "/stream?prompt=tell&upstream=model&conversation_id={conversation}",
        {},
        (404, "conversation_not_found"),
    ),
    "replacing the last turn": (
        "POST",
        "/runs",
        {"json": {"prompt": "no", "conversation_id": "{conversation}", "replace_last": True}},
        (404, "conversation_not_found"),
    ),
    "a conversation at Dify": (
        "POST",
        "/chat",
        {"json": {"prompt": "no", "upstream": "app", "conversation_id": "{dify_conversation}"}},
        (404, "conversation_not_found"),
    ),
    "a run's id as a conversation": (
        "POST",
        "/chat",
        {"json": {"prompt": "no", "conversation_id": "{run}"}},
        (404, "conversation_not_found"),
    ),
    "/v1, conversation": (
        "POST",
        "/v1/chat/completions",
        {
            "json": {"model": "app", "messages": [{"role": "user", "content": "tell me"}]},
            "headers": {"X-Conversation-Id": "{dify_conversation}"},
        },
        (404, "conversation_not_found"),
    ),
    "an upload into a conversation": (
        "POST",
        "/files",
        {"data": {"upstream": "app", "conversation_id": "{dify_conversation}"}, "files": {"file": ("a.png", b"x")}},
        (404, "conversation_not_found"),
    ),
    "a file": (
        "POST",
        "/chat",
        {"json": {"prompt": "what is it?", "upstream": "app", "user": "u-1", "files": [{"upload_file_id": "{file}"}]}},
        (404, "file_not_found"),
    ),
    "a file as an input": (
        "POST",
        "/chat",
        {"json": {"prompt": "what?", "upstream": "app", "inputs": {"doc": [{"upload_file_id": "{file}"}]}}},
        (404, "file_not_found"),
    ),
    "a rating": ("POST", "/runs/{dify_run}/feedback", {"json": {"rating": "dislike"}}, (404, "run_not_found")),
    "suggested questions": ("GET", "/runs/{dify_run}/suggested", {}, (404, "run_not_found")),
    "a chat's stream": ("GET", f"/api/chat/{CHAT}/stream", {}, (204, None)),
    "a chat's stream by index": ("GET", f"/api/chat/{CHAT}/stream?startIndex=0", {}, (404, "run_not_found")),
    "a chat's stop": ("POST", f"/api/chat/{CHAT}/stop", {}, (204, None)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_alices_is_not_there_for_bob(name: str, world: World, stranger: str) -> None:
    world.settle()
    calls, dify_calls = len(world.model.calls), len(world.app.calls("chat-messages"))
    method, path, options, (status, code) = _filled(REFUSED[name], world.ids)
    answer = world.send(stranger, method, path, **options)
    assert (answer.status_code, answer.json()["error"]["code"] if answer.content else None) == (status, code)
    assert not _leaks(answer)
    assert (len(world.model.calls), len(world.app.calls("chat-messages"))) == (calls, dify_calls)
    assert not world.app.calls("feedbacks")


def _filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], value)
    if isinstance(value, dict):
        return {name: _filled(item, ids) for name, item in value.items()}
    return type(value)(_filled(item, ids) for item in value) if isinstance(value, tuple | list) else value


def _leaks(answer: requests.Response) -> list[str]:
    text = answer.text + str(answer.headers)
    return [word for word in (SECRET, EARLIER) if word in text]


def test_alice_herself_has_all_of_it(world: World) -> None:
    """Or the tests above would prove nothing."""
    world.settle()
    ids = world.ids
    seen = world.send(ALICE, "GET", f"/api/chat/{CHAT}/stream", stream=True)
    with seen:
        assert seen.headers["X-Run-Id"] == ids["chatting"]
    assert world.send(ALICE, "POST", f"/runs/{ids['dify_run']}/feedback", json={"rating": "like"}).status_code == 200
    world.app.arrived["feedbacks"].get(timeout=20)
    ask = {"prompt": "and?", "upstream": "model", "conversation_id": ids["conversation"]}
    assert EARLIER in world.send(ALICE, "POST", "/chat", json=ask).json()["text"]
    files = [{"type": "image", "transfer_method": "local_file", "upload_file_id": ids["file"]}]
    again = {"prompt": "again", "upstream": "app", "user": "u-1", "files": files}
    assert world.send(ALICE, "POST", "/chat", json=again).status_code == 200
    assert ids["file"] == FILE_ID


def test_the_same_idempotency_key_is_bobs_own(world: World, stranger: str) -> None:
    ask = {"prompt": SECRET, "upstream": "model"}
    answer = world.send(stranger, "POST", "/chat", json=ask, headers={"Idempotency-Key": KEY})
    assert answer.status_code == 200
    assert answer.json()["run_id"] != world.ids["run"]
    assert EARLIER not in answer.text


def test_the_same_chat_id_is_bobs_own_and_stops_nothing_of_alices(world: World, stranger: str) -> None:
    answer = world.send(stranger, "POST", "/api/chat", json=_chat("what did I say?"))
    assert answer.status_code == 200
    assert answer.headers["X-Run-Id"] != world.ids["chatting"]
    assert not _leaks(answer)
    assert world.send(None, "GET", f"/runs/{world.ids['chatting']}").json()["state"] == "running"


def test_a_socket_goes_on_with_its_own_callers_conversations_alone(world: World, stranger: str) -> None:
    with connected(world.server, header=[f"Authorization: Bearer {stranger}"]) as ws:
        refused = ws.answer(type="ask", prompt="x", conversation_id=world.ids["conversation"])
        assert (refused["type"], refused["error"]["code"]) == ("refused", "conversation_not_found")
    with connected(world.server, header=[f"Authorization: Bearer {ALICE}"]) as ws:
        ws.say(type="ask", prompt="mine", upstream="model", conversation_id=world.ids["conversation"])
        ws.frames()
        assert ws.answer(type="auth", token=stranger)["type"] == "authorized"
        ws.say(type="ask", prompt="whose?", upstream="model")
        told = json.dumps(ws.frames())
        assert not [word for word in (SECRET, EARLIER) if word in told]


# -- what the holder of a run's id may see -----------------------------------------------------------------------------


@pytest.mark.parametrize("who", [BOB, None], ids=["bob", "nobody"])
def test_a_runs_id_shows_the_run_and_nothing_before_it(world: World, who: str | None) -> None:
    run = world.ids["run"]
    for path in (f"/runs/{run}", f"/runs/{run}/events?format=ndjson", f"/stream?last_event_id={run}.0&format=text"):
        assert SECRET in world.send(who, "GET", path).text
    page = world.send(who, "GET", f"/runs/{run}", headers={"Accept": "text/html"})
    assert SECRET in page.text
    assert f'aria-label="You">{EARLIER}' not in page.text  # the transcript is the conversation's owner's
    assert world.ids["conversation"] not in page.text
    assert world.send(who, "POST", f"/runs/{run}/stop").json()["reason"] == "done"
    assert world.send(who, "GET", f"/api/chat/{run}/stream?startIndex=0").status_code == 200
    assert (
        world.send(None, "POST", f"/runs/{world.ids['dify_run']}/feedback", json={"rating": "like"}).status_code == 401
    )


# -- visitors ----------------------------------------------------------------------------------------------------------


def test_one_visitor_has_nothing_of_anothers(world: World) -> None:
    tokens = [world.send(None, "POST", "/visitor").json()["token"] for _ in range(2)]
    mine, other = ({"X-Visitor-Token": token} for token in tokens)
    ask = {"prompt": SECRET}
    begun = world.send(None, "POST", "/chat", json=ask, headers={**mine, "Idempotency-Key": KEY}).json()
    go_on = {"prompt": "tell me", "conversation_id": begun["conversation_id"]}
    for thief in ({"headers": other}, {"headers": {"Authorization": f"Bearer {BOB}"}}):
        stolen = world.send(None, "POST", "/runs", json=go_on, **thief)
        assert (stolen.status_code, stolen.json()["error"]["code"]) == (404, "conversation_not_found")
    same = world.send(None, "POST", "/chat", json=ask, headers={**other, "Idempotency-Key": KEY}).json()
    assert same["run_id"] != begun["run_id"]
    page = requests.get(
        f"{world.server.url}/runs/{begun['run_id']}",
        headers={"Accept": "text/html"},
        cookies={"sluice_visitor": tokens[1]},
        timeout=20,
    )
    assert begun["conversation_id"] not in page.text
    again = world.send(None, "POST", "/chat", json=go_on, headers=mine)
    assert (again.status_code, SECRET in again.text) == (200, True)
    world.settle()


# -- every route -------------------------------------------------------------------------------------------------------

OPEN = {"/", "/healthz", "/readyz", "/static/chat.js", "/static/chat.css", "/accent.css", "/visitor", "/upstreams"}
OPEN |= {"/static/<path:filename>", "/<any('client.js', 'embed.js'):name>", "/v1/models", "/v1/models/<path:model>"}
BY_RUN_ID = {"/runs/<run_id>", "/runs/<run_id>/events", "/runs/<run_id>/stop"}
OWNED = {"/stream", "/chat", "/runs", "/v1/chat/completions", "/api/chat", "/ws", "/files"}
OWNED |= {"/api/chat/<path:chat_id>/stream", "/api/chat/<path:chat_id>/stop"}
OWNED |= {"/runs/<run_id>/feedback", "/runs/<run_id>/suggested"}


def test_every_route_is_looked_at_here() -> None:
    """A new route belongs into one of the lists, and a new id of a caller's into the tests above."""
    rules = {rule.rule for rule in create_app(Settings()).url_map.iter_rules()}
    assert rules - OPEN - BY_RUN_ID - OWNED <= {"/metrics", "/openapi.json", "/probe"}  # these have no caller's ids
    assert rules >= OPEN | BY_RUN_ID | OWNED
