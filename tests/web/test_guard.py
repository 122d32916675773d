"""Who may ask a live relay: keys, tokens, the page's visitors, anybody, and nobody; and how often."""

import re
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
import requests
from flask import Flask
from flask import request as flask_request
from itsdangerous import TimestampSigner

from streaming.access_settings import api_keys
from streaming.web import visitors
from streaming.web.credentials import ApiKeys, Tokens
from streaming.web.guard import Guard
from streaming.wire.errors import Refusal
from tests.live import Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.redis_server import redis_server
from tests.web.conftest import quick
from tests.web.ws_client import connected

ALICE = "alice-0123456789abcdef"
FREE = "free-0123456789abcdef"
JWT_SECRET = "j" * 32
SECRET_KEY = "s" * 32
TOKEN = jwt.encode({"sub": "a", "exp": 9e9}, JWT_SECRET)
ASK = {"prompt": "hi"}
WAYS = ("API_KEYS", "PUBLIC_PAGE", "ALLOW_ANONYMOUS")
PAID_ROUTES = ("/stream", "/chat", "/runs", "/v1/chat/completions", "/api/chat")


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedUpstream]:
    with scripted(quick) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def settings(model: ScriptedUpstream) -> dict[str, str]:
    return {"UPSTREAM": "openai", "UPSTREAM_URL": model.url, "UPSTREAM_MODEL": "m", "ALLOW_ANONYMOUS": ""}


@pytest.fixture(scope="module")
def locked(settings: dict[str, str]) -> Iterator[Relay]:
    """A relay for two keys, tokens, and the visitors of its page, which come through one proxy."""
    with relay(
        **settings,
        API_KEYS=f"alice:{ALICE},frank@free:{FREE}",
        JWT_SECRET=JWT_SECRET,
        PUBLIC_PAGE="1",
        SECRET_KEY=SECRET_KEY,
        RATE_LIMIT="2/day,free=1/day",
        TRUSTED_PROXIES="1",
    ) as server:
        yield server


def body_for(route: str) -> dict[str, Any]:
    if route == "/v1/chat/completions":
        return {"messages": [{"role": "user", "content": "hi"}]}
    if route == "/api/chat":
        return {
            "id": "chat-0123456789abcdef",
            "messages": [{"role": "user", "parts": [{"type": "text", "text": "hi"}]}],
        }
    return ASK


def ask(server: Relay, route: str = "/chat", body: dict[str, Any] | None = None, **headers: str) -> requests.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(f"{server.url}{route}", json=body or body_for(route), headers=names, timeout=20)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def code(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def visit(server: Relay, **headers: str) -> tuple[str, requests.Response]:
    """Open the page; return the token that is in it."""
    page = requests.get(f"{server.url}/", headers={"Accept": "text/html", **headers}, timeout=20)
    (token,) = re.findall(r'name="visitor_token" value="([^"]+)"', page.text)
    return token, page


def calls_of(model: ScriptedUpstream, server: Relay) -> int:
    """Return how many calls came, once none is on its way."""
    wait_until(lambda: server.counts()["unfinished"] == 0, "every run has ended")
    return len(model.calls)


def address(number: int) -> dict[str, str]:
    """Return the header of another visitor's address: what is counted for one is not counted for the others."""
    return {"X_Forwarded_For": f"203.0.113.{number}"}


# -- keys and tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", PAID_ROUTES)
def test_every_way_to_ask_wants_a_key(locked: Relay, model: ScriptedUpstream, route: str) -> None:
    calls = calls_of(model, locked)
    nobody = ask(locked, route)
    assert code(nobody) == (401, "unauthorized")
    assert nobody.headers["WWW-Authenticate"] == "Bearer"
    for wrong in (bearer("wrong-0123456789abcdef"), bearer(""), {"Authorization": f"Basic {ALICE}"}, bearer("a.b.c")):
        assert code(ask(locked, route, **wrong)) == (401, "unauthorized")
    assert len(model.calls) == calls
    assert ask(locked, route, **bearer(ALICE)).status_code in {200, 201}


def test_a_get_wants_one_too_but_following_and_stopping_do_not(locked: Relay) -> None:
    assert code(requests.get(f"{locked.url}/stream?prompt=hi", timeout=20)) == (401, "unauthorized")
    run_id = ask(locked, "/runs", **bearer(ALICE)).json()["run_id"]
    followed = f"/runs/{run_id}/events?format=text"  # to the end: what comes after it shows all of it
    for path in (followed, f"/stream?last_event_id={run_id}.0&format=text", f"/runs/{run_id}"):
        assert "你好" in requests.get(f"{locked.url}{path}", timeout=20).content.decode()
    assert requests.post(f"{locked.url}/runs/{run_id}/stop", timeout=20).status_code == 200


def test_what_there_is_to_ask_is_told_to_who_may(locked: Relay) -> None:
    for path in ("/v1/models", "/v1/models/m", "/upstreams"):
        assert requests.get(f"{locked.url}{path}", timeout=20).status_code == 401
        assert requests.get(f"{locked.url}{path}", headers=bearer(ALICE), timeout=20).status_code == 200
    for path in ("/healthz", "/readyz", "/client.js", "/embed.js", "/"):
        assert requests.get(f"{locked.url}{path}", timeout=20).status_code == 200


def test_a_token_is_as_good_as_a_key(locked: Relay) -> None:
    claims = {"sub": "carol", "exp": time.time() + 60}
    assert ask(locked, **bearer(jwt.encode(claims, JWT_SECRET))).status_code == 200
    assert code(ask(locked, **bearer(jwt.encode(claims, "k" * 32)))) == (401, "unauthorized")
    assert code(ask(locked, **bearer(jwt.encode({**claims, "exp": 1}, JWT_SECRET)))) == (401, "unauthorized")


def test_a_tier_has_its_own_rate_and_is_told_when_to_come_back(locked: Relay, model: ScriptedUpstream) -> None:
    key = "k" * 16
    first = ask(locked, "/runs", {**ASK, "idempotency_key": key}, **bearer(FREE))
    calls = calls_of(model, locked)
    refused = ask(locked, "/v1/chat/completions", **bearer(FREE))
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limited"
    wait_seconds = int(refused.headers["Retry-After"])
    assert 86_000 < wait_seconds <= 86_400
    assert {name: refused.headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")} == {
        "Limit": "1",
        "Remaining": "0",
        "Reset": str(wait_seconds),
    }
    again = ask(locked, "/runs", {**ASK, "idempotency_key": key}, **bearer(FREE))
    assert again.json()["run_id"] == first.json()["run_id"]
    assert calls_of(model, locked) == calls
    with connected(locked, header=[f"Authorization: Bearer {FREE}"]) as ws:
        frame = ws.answer(type="ask", prompt="hi")
        assert (frame["type"], frame["error"]["code"], frame["error"]["status"]) == ("refused", "rate_limited", 429)


# -- the WebSocket -----------------------------------------------------------------------------------------------------


def test_a_socket_says_who_asks_in_its_handshake_or_its_first_message(locked: Relay) -> None:
    with connected(locked, header=[f"Authorization: Bearer {ALICE}"]) as ws:
        ws.say(type="ask", prompt="hi")
        assert ws.frames()[-1]["reason"] == "done"
    with connected(locked, subprotocols=["sluice", f"bearer.{ALICE}"]) as ws:
        assert ws.library.getsubprotocol() == "sluice"
        ws.say(type="ask", prompt="hi")
        run_id = ws.frames()[-1]["run_id"]
    with connected(locked) as ws:
        assert ws.answer(type="ask", prompt="hi")["error"]["code"] == "unauthorized"
        assert ws.answer(type="auth", token="wrong-0123456789abcdef")["error"]["code"] == "unauthorized"
        assert ws.answer(type="ask", prompt="hi")["error"]["code"] == "unauthorized"
        assert ws.answer(type="follow", run_id=run_id)["type"] == "start"
        ws.frames()
        assert ws.answer(type="auth", token=ALICE, ref=1) == {"run_id": None, "ref": 1, "type": "authorized"}
        ws.say(type="ask", prompt="hi")
        assert ws.frames()[-1]["reason"] == "done"


def test_a_socket_with_a_wrong_key_learns_it_by_its_close_code(locked: Relay) -> None:
    for options in ({"header": ["Authorization: Bearer x"]}, {"subprotocols": ["sluice", "bearer.wrong"]}):
        with connected(locked, **options) as ws:
            assert ws.closed() == 4401


# -- visitors ----------------------------------------------------------------------------------------------------------


def test_a_visitor_asks_and_goes_on_with_the_token_of_its_page(locked: Relay) -> None:
    token, page = visit(locked)
    assert page.headers["Cache-Control"] == "private, no-cache"
    headers = {"X_Visitor_Token": token, **address(1)}
    first = ask(locked, "/chat", **headers)
    assert first.status_code == 200
    conversation_id = first.json()["conversation_id"]
    assert ask(locked, "/runs", {**ASK, "conversation_id": conversation_id}, **headers).status_code == 201
    other, _ = visit(locked)
    stolen = ask(locked, "/runs", {**ASK, "conversation_id": conversation_id}, X_Visitor_Token=other, **address(2))
    assert code(stolen) == (404, "conversation_not_found")


def test_a_visitors_token_opens_nothing_else(locked: Relay) -> None:
    token, _ = visit(locked)
    headers = {"X_Visitor_Token": token, **address(3)}
    for route in ("/stream", "/v1/chat/completions", "/api/chat", "/files"):
        assert code(ask(locked, route, **headers)) == (403, "forbidden")
    for field in ({"messages": [{"role": "user", "content": "hi"}]}, {**ASK, "model": "dear"}, {**ASK, "options": {}}):
        assert code(ask(locked, "/runs", field, **headers)) == (403, "forbidden")
    assert code(ask(locked, "/runs", **bearer(token))) == (401, "unauthorized")


def test_a_visitor_is_limited_and_so_is_its_address(locked: Relay) -> None:
    def ask_as(token: str, number: int) -> int:
        return ask(locked, "/runs", X_Visitor_Token=token, **address(number)).status_code

    token, _ = visit(locked)
    assert [ask_as(token, 4) for _ in range(3)] == [201, 201, 429]
    assert ask_as(token, 5) == 429  # another address is no new visitor
    fresh = [visit(locked)[0] for _ in range(10)]
    assert {ask_as(each, 6) for each in fresh + fresh} == {201}
    assert ask_as(visit(locked)[0], 6) == 429  # a new visitor is no new address
    assert ask_as(visit(locked)[0], 7) == 201


def test_a_forged_token_is_worth_nothing(locked: Relay) -> None:
    token, _ = visit(locked)
    signed_part, _, signature = token.rpartition(".")  # the last letter's low bits are no part of a signature
    for forged in (
        f"{signed_part}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        "x" + token,
        TimestampSigner("x" * 32).sign("v").decode(),
    ):
        assert code(ask(locked, X_Visitor_Token=forged)) == (401, "unauthorized")


def signed(visitor: str, age_seconds: float) -> str:
    """Return a token that the relay made so long ago."""

    class Then(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(time.time() - age_seconds)

    return Then(SECRET_KEY, salt=visitors._SALT, sep=".").sign(visitor).decode()


def test_an_old_token_is_exchanged_for_a_new_one_of_the_same_visitor(locked: Relay) -> None:
    token, _ = visit(locked)
    mine = ask(locked, "/chat", X_Visitor_Token=token, **address(8)).json()["conversation_id"]
    visitor = token.partition(".")[0]
    old = signed(visitor, visitors.TOKEN_SECONDS + 10)
    assert code(ask(locked, X_Visitor_Token=old)) == (401, "unauthorized")
    renewed = requests.post(f"{locked.url}/visitor", headers={"X-Visitor-Token": old}, timeout=20).json()
    assert renewed["expires_in"] == visitors.TOKEN_SECONDS
    go_on = {**ASK, "conversation_id": mine}
    assert ask(locked, "/runs", go_on, X_Visitor_Token=renewed["token"], **address(8)).status_code == 201
    ancient = signed(visitor, visitors.KEPT_SECONDS + 10)
    other = requests.post(f"{locked.url}/visitor", headers={"X-Visitor-Token": ancient}, timeout=20).json()["token"]
    assert not other.startswith(visitor)


def test_the_cookie_remembers_and_lets_nobody_ask(locked: Relay) -> None:
    token, page = visit(locked)
    cookie = page.headers["Set-Cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Lax", "Path=/"))
    assert "Secure" not in cookie
    assert "Secure" in visit(locked, **{"X-Forwarded-Proto": "https"})[1].headers["Set-Cookie"]
    sent = {"Cookie": f"{visitors.COOKIE}={token}"}
    assert visit(locked, **sent)[0].partition(".")[0] == token.partition(".")[0]
    assert code(ask(locked, "/chat", **sent)) == (401, "unauthorized")


def test_a_page_without_javascript_sends_its_token_as_a_field(locked: Relay) -> None:
    token, _ = visit(locked)
    form = {"prompt": "hi", "visitor_token": token, "on_disconnect": "finish"}
    headers = {"Accept": "text/html", "X-Forwarded-For": "203.0.113.9"}
    browser = {"headers": headers, "cookies": {visitors.COOKIE: token}, "timeout": 20}
    shown = requests.post(f"{locked.url}/chat", data=form, **browser)
    assert shown.status_code == 200
    assert "你好" in shown.content.decode()
    (conversation_id,) = re.findall(r'name="conversation_id" value="([^"]+)"', shown.text)
    (next_token,) = re.findall(r'name="visitor_token" value="([^"]+)"', shown.text)
    more = {**form, "visitor_token": next_token, "conversation_id": conversation_id}
    assert requests.post(f"{locked.url}/chat", data=more, **browser).status_code == 200
    refused = requests.post(f"{locked.url}/chat", data={"prompt": "lost?"}, **browser)
    assert (refused.status_code, "lost?" in refused.text) == (401, True)
    assert 'name="visitor_token"' in refused.text


# -- nobody has said who may ask ---------------------------------------------------------------------------------------


def test_on_this_machine_alone_everybody_here_may_ask(settings: dict[str, str], model: ScriptedUpstream) -> None:
    with relay(**settings) as server:
        assert {ask(server, "/runs").status_code for _ in range(12)} == {201}
        assert ask(server, "/v1/chat/completions", **bearer("whatever its client sends")).status_code == 200
        calls = calls_of(model, server)
        for through in ({"X_Forwarded_For": "127.0.0.1"}, {"Host": "evil.example"}, {"Via": "1.1 x"}):
            refused = ask(server, **through)
            assert code(refused) == (401, "unauthorized")
            assert all(
                way in refused.json()["error"]["message"] for way in ("API_KEYS", "PUBLIC_PAGE", "ALLOW_ANONYMOUS")
            )
        assert len(model.calls) == calls
        assert requests.post(f"{server.url}/visitor", timeout=20).status_code == 404
        with connected(server) as ws:
            assert ws.answer(type="auth", token="x")["type"] == "authorized"  # nobody asks for one
        with connected(server, host="evil.example") as ws:
            assert ws.answer(type="ask", prompt="hi")["error"]["code"] == "unauthorized"
            assert ws.answer(type="auth", token="x")["error"]["code"] == "unauthorized"
        assert "Set-Cookie" not in requests.get(server.url, headers={"Accept": "text/html"}, timeout=20).headers
        assert "Nobody has said who may ask" in server.log()


def test_on_a_public_address_the_demo_alone_answers_and_the_start_says_so(settings: dict[str, str]) -> None:
    with relay(**settings, HOST="0.0.0.0") as server:
        answer = ask(server).json()
        assert "/slow" in answer["text"] or "demo" in answer["text"].lower() or "演示" in answer["text"]
        known = requests.get(f"{server.url}/upstreams", timeout=20).json()["upstreams"]
        assert [each["dialect"] for each in known] == ["demo"]
        (line,) = [line for line in server.log().splitlines() if "Nobody has said" in line]
        assert all(way in line for way in WAYS)
        assert {ask(server, "/runs").status_code for _ in range(9)} == {201}
        assert ask(server, "/runs").status_code == 429


def test_whoever_said_everybody_gets_everybody_with_a_limit(settings: dict[str, str], model: ScriptedUpstream) -> None:
    changed = {"HOST": "0.0.0.0", "ALLOW_ANONYMOUS": "1", "MAX_STREAMS_PER_CALLER": "1"}
    with relay(**{**settings, **changed}, DISCONNECT_GRACE_SECONDS="0.2", TRUSTED_PROXIES="X-Real-IP") as server:
        model.script = lambda call: (call.start(), call.await_close())
        try:
            forgotten = ask(server, "/runs", {**ASK, "on_disconnect": "finish"}).json()["run_id"]
            refused = ask(server)
            assert code(refused) == (429, "too_many_streams")
            wait_until(lambda: server.counts()["unfinished"] == 0, "the forgotten run has ended")
            assert requests.get(f"{server.url}/runs/{forgotten}", timeout=20).json()["end"]["reason"] == "abandoned"
        finally:
            model.script = quick
        assert ask(server, X_Real_IP="192.0.2.7").status_code == 200


def test_all_workers_count_together_and_a_redis_that_hangs_holds_nobody(settings: dict[str, str]) -> None:
    shared = {"ALLOW_ANONYMOUS": "1", "RATE_LIMIT": "4/day", "WEB_CONCURRENCY": "2", "TRUSTED_PROXIES": "X-Real-IP"}
    with redis_server() as redis, relay(**{**settings, **shared}, REDIS_URL=redis.url) as server:
        answers: list[int] = []
        while len(answers) < 12:  # 503: a worker that has not begun yet
            answers += {ask(server, "/runs").status_code} - {503}
        assert sorted(answers) == [201] * 4 + [429] * 8
        wait_until(lambda: server.counts()["unfinished"] == 0, "every run has ended")
        with redis.frozen():
            assert code(ask(server, X_Real_IP="192.0.2.7")) == (503, "store_unavailable")


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Host": "localhost:8000"}, True),
        ({"Host": "relay.example", "Authorization": f"Bearer {ALICE}"}, True),
        ({"Host": "relay.example"}, False),
        ({"Host": "localhost:8000", "X-Forwarded-For": "192.0.2.1"}, False),
        ({"Host": "relay.example", "Authorization": "Bearer wrong-0123456789abcdef"}, False),
        (
            {"Host": "relay.example", "Authorization": f"Bearer {jwt.encode({'sub': 'a', 'exp': 9e9}, JWT_SECRET)}"},
            False,
        ),
        ({"Host": "relay.example", "X-Visitor-Token": visitors.Visitors(SECRET_KEY).token()}, False),
    ],
    ids=["local", "key", "anonymous", "proxied", "wrong key", "token", "visitor"],
)
def test_metrics_are_for_who_holds_a_key_and_for_this_machine(headers: dict[str, str], allowed: bool) -> None:
    guard = Guard(
        keys=ApiKeys(api_keys([f"alice:{ALICE}"])),
        tokens=Tokens(secret=JWT_SECRET, public_key="", audience="", issuer=""),
        page=visitors.Visitors(SECRET_KEY),
        anonymous=True,
        demo_only=True,
        proxies="auto",
    )
    with Flask("test").test_request_context(headers=headers, environ_base={"REMOTE_ADDR": "127.0.0.1"}):
        if allowed:
            guard.check_operator(flask_request)
            return
        with pytest.raises(Refusal, match="unauthorized"):
            guard.check_operator(flask_request)


def test_keys_without_a_public_page_show_usage_in_its_place(settings: dict[str, str]) -> None:
    with relay(**settings, API_KEYS=ALICE) as server:
        page = requests.get(server.url, headers={"Accept": "text/html"}, timeout=20)
        assert page.headers["Content-Type"].startswith("text/plain")
        assert "Authorization: Bearer" in page.text
        assert ask(server, **bearer(ALICE)).status_code == 200
        assert ALICE not in server.log()
