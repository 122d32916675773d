"""From where: what pages of other origins can make a browser send costs nothing, and those that may do can read."""

import json
from collections.abc import Iterator

import pytest

from tests.live import Relay, ScriptedUpstream, relay
from tests.web.client import Response, request
from tests.web.ws_client import connected

ALLOWED = "https://app.example,https://*.team.example:8443"
OWN = "own"  # stands for the relay's own origin

ask = json.dumps({"prompt": "hi"}).encode()
chat = json.dumps({"messages": [{"role": "user", "parts": [{"type": "text", "text": "hi"}]}]}).encode()
completion = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
FORM, PLAIN, JSON = "application/x-www-form-urlencoded", "text/plain", "application/json"

PAID = {  # name: method, path, media type, body
    "an image": ("GET", "/stream?prompt=hi", "", None),
    "a form": ("POST", "/chat", FORM, b"prompt=hi"),
    "a form's stream": ("POST", "/stream", FORM, b"prompt=hi"),
    "JSON": ("POST", "/runs", JSON, ask),
    "an AI SDK chat as text/plain": ("POST", "/api/chat", PLAIN, chat),
    "OpenAI": ("POST", "/v1/chat/completions", JSON, completion),
}
FOREIGN = {
    "cross-site, without an origin": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "a link": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "another origin of the site": {"Sec-Fetch-Site": "same-site", "Origin": "https://www.relay.example"},
    "cross-site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    "an old browser": {"Origin": "https://evil.example"},
    "nobody": {"Origin": "null"},
    "an image of a page that may": {"Sec-Fetch-Site": "cross-site", "Referer": "https://app.example/"},
    "almost one that may": {"Origin": "https://app.example.evil.example"},
    "the scheme of no page that may": {"Origin": "http://app.example"},
    "a port of no page that may": {"Origin": "https://a.team.example"},
    "a name without a name before it": {"Origin": "https://team.example:8443"},
    "two": {"Origin": "https://app.example, https://evil.example"},
}
WELCOME = {
    "no browser": {},
    "the own page": {"Sec-Fetch-Site": "same-origin", "Origin": OWN},
    "the own page behind a proxy that changes the host": {
        "Sec-Fetch-Site": "same-origin",
        "Origin": "https://outside.example",
    },
    "the own page in an old browser": {"Origin": OWN},
    "typed into the address bar": {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
    "a page that may": {"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example"},
    "a page that may, of many": {"Origin": "https://a.b.team.example:8443"},
}


@pytest.fixture(scope="module")
def _open_relay(_upstream: ScriptedUpstream) -> Iterator[Relay]:
    with relay(UPSTREAM="openai", UPSTREAM_URL=_upstream.url, UPSTREAM_MODEL="m", CORS_ORIGINS=ALLOWED) as server:
        yield server


@pytest.fixture
def closed(_relay: Relay) -> Relay:
    """The usual relay, without the setting."""
    return _relay


@pytest.fixture
def server(_open_relay: Relay, upstream: ScriptedUpstream) -> Relay:
    """A relay that pages of two origins may use."""
    return _open_relay


def send(server: Relay, paid: str, headers: dict[str, str]) -> Response:
    """Send a paid request with these headers."""
    method, path, media_type, body = PAID[paid]
    own = {name: server.url if value == OWN else value for name, value in headers.items()}
    return request(server.url + path, method, body=body, headers={"Content-Type": media_type, **own})


@pytest.mark.parametrize("paid", PAID)
@pytest.mark.parametrize("headers", FOREIGN)
def test_what_other_pages_make_a_browser_send_costs_nothing(
    paid: str, headers: str, server: Relay, upstream: ScriptedUpstream
) -> None:
    with send(server, paid, FOREIGN[headers]) as refused:
        assert refused.status == 403
        assert refused.json()["error"]["code"] == "forbidden"
        assert "access-control-allow-origin" not in refused.headers
    assert server.counts()["unfinished"] == 0
    assert upstream.calls == []


@pytest.mark.parametrize("paid", PAID)
@pytest.mark.parametrize("headers", WELCOME)
def test_the_own_page_those_that_may_and_what_is_no_browser_are_served(
    paid: str, headers: str, server: Relay, upstream: ScriptedUpstream
) -> None:
    with send(server, paid, WELCOME[headers]) as response:
        assert response.status in {200, 201}
        response.body()
    upstream.next_call()


def test_a_page_that_may_reads_the_answer_and_what_its_headers_say(server: Relay) -> None:
    with send(server, "JSON", WELCOME["a page that may"]) as response:
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in response.headers
        assert "Origin" in response.headers["vary"]
        exposed = {name.strip().lower() for name in response.headers["access-control-expose-headers"].split(",")}
        assert exposed >= {"x-run-id", "x-request-id", "retry-after", "location", "x-workflow-run-id"}
        assert exposed >= {"x-workflow-stream-tail-index", "ratelimit-remaining", "x-conversation-id"}


def test_it_reads_refusals_too(server: Relay) -> None:
    headers = {"Origin": "https://app.example", "Content-Type": JSON}
    with request(f"{server.url}/runs", "POST", body=b"{", headers=headers) as refused:
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (400, "https://app.example")


@pytest.mark.parametrize(("origin", "allowed"), [("https://app.example", True), ("https://evil.example", False)])
def test_preflights_are_answered_kept_and_free(
    origin: str, allowed: bool, server: Relay, upstream: ScriptedUpstream
) -> None:
    asked = {
        "Origin": origin,
        "Sec-Fetch-Site": "cross-site",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,last-event-id",
    }
    with request(f"{server.url}/stream", "OPTIONS", headers=asked) as response:
        assert response.status == 200
        granted = response.headers.get("access-control-allow-headers", "")
        assert set(granted.split(", ")) == ({*asked["Access-Control-Request-Headers"].split(",")} if allowed else {""})
        assert ("access-control-max-age" in response.headers) is allowed
    assert upstream.calls == []


def test_with_a_star_every_page_may_but_an_image_still_may_not() -> None:
    with relay(UPSTREAM="demo", CORS_ORIGINS="*") as server:
        with send(server, "JSON", FOREIGN["cross-site"]) as response:
            assert (response.status, response.headers["access-control-allow-origin"]) == (201, "*")
            assert "access-control-allow-credentials" not in response.headers
        with send(server, "an image", FOREIGN["cross-site, without an origin"]) as refused:
            assert refused.status == 403


def test_without_the_setting_no_other_page_may(closed: Relay, upstream: ScriptedUpstream) -> None:
    with send(closed, "JSON", {"Origin": "https://app.example"}) as refused:
        assert refused.status == 403
        assert not any(name.startswith("access-control") for name in refused.headers)
    assert upstream.calls == []


def test_pages_and_what_costs_nothing_can_be_opened_from_anywhere(server: Relay) -> None:
    for path in ("/", "/healthz", "/embed.js", "/upstreams"):
        with request(server.url + path, headers=FOREIGN["a link"]) as response:
            assert response.status == 200, path


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_socket_of_another_page_is_closed(headers: str, server: Relay) -> None:
    lines = [f"{name}: {value}" for name, value in FOREIGN[headers].items()]
    with connected(server, header=lines) as ws:
        assert ws.closed() == 1008


def test_a_socket_of_a_page_that_may_is_served(server: Relay) -> None:
    with connected(server, header=["Origin: https://app.example", "Sec-Fetch-Site: cross-site"]) as ws:
        assert ws.answer(type="ping")["type"] == "pong"


@pytest.mark.parametrize(
    ("path", "who"), [("/", "same-origin"), ("/upstreams", "same-origin"), ("/client.js", "cross-origin")]
)
def test_every_answer_tells_browsers_to_be_careful(path: str, who: str, server: Relay) -> None:
    with request(server.url + path, headers={"X-Forwarded-Proto": "https", "Accept": "text/html"}) as response:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == who
        assert response.headers["strict-transport-security"] == "max-age=31536000"
        if path == "/":
            assert response.headers["cross-origin-opener-policy"] == "same-origin"
            assert response.headers["referrer-policy"] == "same-origin"
    with request(server.url + path) as response:
        assert "strict-transport-security" not in response.headers
