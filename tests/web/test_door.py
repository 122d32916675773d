"""What is refused at the door is refused as behind it: the same answer, the same line, the same count.

A request goes past the door when there is something special about it: here a `Purpose` that means nothing.
"""

import json
import re
import secrets
import socket
from collections.abc import Iterator

import jwt
import pytest
import requests

from streaming.web.door import ROUTES
from streaming.web.visitors import Visitors
from tests.live import WAIT_SECONDS, Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.scraping import Scraped
from tests.web.conftest import quick

ALICE, POOR = "alice-0123456789abcdef", "poor-0123456789abcdef"
JWT_SECRET, SECRET_KEY = "j" * 32, "s" * 32
OLD_TOKEN = jwt.encode({"sub": "a", "exp": 1}, JWT_SECRET)
VISITOR = Visitors(SECRET_KEY).token()
PAST = "Purpose: none"
CHUNKED = "Transfer-Encoding: chunked"
JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"
ASK, FORM_ASK = b'{"prompt": "hi"}', b"prompt=hi"
BODIES = {
    "/v1/chat/completions": b'{"messages": [{"role": "user", "content": "hi"}]}',
    "/api/chat": b'{"id": "c", "messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "a"}]}]}',
}

SETTINGS = {
    "keys": {"API_KEYS": f"alice:{ALICE},poor@poor:{POOR}", "RATE_LIMIT": "poor=1/day", "JWT_SECRET": JWT_SECRET},
    "page": {"PUBLIC_PAGE": "1", "SECRET_KEY": SECRET_KEY, "COMPRESS": "off", "CORS_ORIGINS": "https://a.example"},
    "anybody": {"ALLOW_ANONYMOUS": "1", "RATE_LIMIT": "1/day", "TRUSTED_PROXIES": "X-Real-IP"},
    "nobody said": {"ALLOW_ANONYMOUS": ""},
}

REFUSED: list[tuple[str, list[str], bytes | None, int]] = [  # settings, header fields, body, status
    ("keys", [JSON], None, 401),
    ("keys", [JSON, "Authorization: Bearer wrong"], None, 401),
    ("keys", [JSON, f"Authorization: bearer {OLD_TOKEN}"], None, 401),
    ("keys", [JSON, "Authorization: Basic d3Jvbmc6d3Jvbmc="], None, 401),
    ("keys", ["X-Forwarded-Proto: https", "Connection: close", "Accept-Encoding: gzip"], b"", 401),
    ("keys", ["traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"], b"x", 401),
    ("keys", [f"Authorization: Bearer {ALICE}", JSON], b'"' + b"x" * 2000 + b'"', 413),
    ("keys", [f"Authorization: Bearer {ALICE}", FORM], b"x" * 2000, 413),
    ("keys", [f"Authorization: Bearer {POOR}", JSON], None, 429),
    ("keys", [f"Authorization: Bearer {POOR}", JSON], b'{"prompt": 7}', 429),
    ("keys", [f"Authorization: Bearer {POOR}", FORM], FORM_ASK, 429),
    ("keys", [JSON, CHUNKED, f"Authorization: Bearer {POOR}"], None, 429),
    ("keys", [JSON, CHUNKED, f"Authorization: Bearer {ALICE}"], b"x" * 2000, 413),
    ("keys", [FORM, CHUNKED, f"Authorization: Bearer {ALICE}"], b"prompt=" + b"x" * 2000, 413),
    ("keys", [JSON, CHUNKED], b"x" * 2000, 401),
    ("keys", [JSON, "Origin: https://evil.example"], None, 403),
    ("keys", [JSON, "Sec-Fetch-Site: cross-site"], None, 403),
    ("keys", [JSON, "Accept: text/html"], None, 401),
    ("keys", [FORM, "Accept: text/*"], b"prompt=<b>", 401),
    ("keys", [JSON, "Sec-Purpose: prefetch"], None, 401),
    ("keys", [JSON, "X-Moz: prefetch"], None, 401),
    ("page", [JSON, "Last-Event-ID: nonsense"], None, 401),
    ("page", [JSON, "Origin: https://a.example"], None, 401),
    ("page", [JSON], None, 401),
    ("page", [JSON, "X-Visitor-Token: forged"], None, 401),
    ("page", [FORM], b"prompt=hi&visitor_token=forged", 401),
    ("page", [FORM], b"prompt=\xff", 400),
    ("page", [FORM], b"prompt=" + b"x" * 2000, 413),
    ("anybody", [JSON, "X-Real-IP: 192.0.2.9"], None, 429),
    ("nobody said", [JSON, "X-Forwarded-For: 192.0.2.1"], None, 401),
]


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedUpstream]:
    with scripted(quick) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def relays(model: ScriptedUpstream) -> Iterator[dict[str, Relay]]:
    common = {"UPSTREAM": "openai", "UPSTREAM_URL": model.url, "UPSTREAM_MODEL": "m", "MAX_BODY_BYTES": "1024"}
    servers: dict[str, Relay] = {}
    try:
        for name, settings in SETTINGS.items():
            servers[name] = Relay(**common, **settings)
        for name, headers in (("keys", {"Authorization": f"Bearer {POOR}"}), ("anybody", {"X-Real-IP": "192.0.2.9"})):
            codes = [
                requests.post(f"{servers[name].url}/runs", json={"prompt": "hi"}, headers=headers, timeout=20)
                for _ in range(2)
            ]
            assert [answer.status_code for answer in codes] == [201, 429]
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def answered(server: Relay, route: str, headers: list[str], body: bytes) -> tuple[int, list[bytes], bytes]:
    """Return status, sorted header lines without what tells the time, and body."""
    framing = f"Content-Length: {len(body)}"
    if CHUNKED in headers:
        framing, body = "X-Framing: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    lines = [f"POST {route} HTTP/1.1", "Host: relay.example", *headers, framing]
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        data = b""
        while (length := re.search(rb"Content-Length: (\d+)\r\n(?:.*\r\n)*\r\n", data)) is None:
            data += received(connection)
        while len(data) < length.end() + int(length[1]):
            data += received(connection)
    head, _, rest = data.partition(b"\r\n\r\n")
    fields = [re.sub(rb"(Date|Retry-After|RateLimit-Reset): .*", rb"\1", line) for line in head.split(b"\r\n")]
    rest = re.sub(rb'name="idempotency_key" value="[^"]+"', b"", rest)  # of a page with a form
    return int(fields[0].split()[1]), sorted(fields), rest


def received(connection: socket.socket) -> bytes:
    """Return what has come next."""
    piece = connection.recv(65536)
    assert piece
    return piece


def lines_about(server: Relay, request_id: str) -> list[str]:
    """Return what the log says of the request, without the time."""
    return [line.split(" ", 2)[2] for line in server.log().splitlines() if f"request_id={request_id}" in line]


@pytest.mark.parametrize(("settings", "headers", "body", "status"), REFUSED)
@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_at_the_door_is_the_one_behind_it(
    relays: dict[str, Relay], settings: str, headers: list[str], body: bytes | None, status: int, route: str
) -> None:
    server, request_id = relays[settings], secrets.token_hex(8)
    headers = [f"X-Request-Id: {request_id}", *headers]
    body = BODIES.get(route, ASK) if body is None else body
    counted, answers = [refusals(server, route)], []
    for way in ([], [PAST]):
        answers.append(answered(server, route, [*headers, *way], body))
        counted.append(refusals(server, route))
    at_the_door, behind_it = answers
    assert at_the_door == behind_it
    assert at_the_door[0] == status or route != "/runs"
    assert [count - counted[0] for count in counted] == [0, 1, 2]
    if route == "/runs":  # all routes' would be a flood, of which the log tells only the number
        wait_until(lambda: len(lines_about(server, request_id)) == 2, "both are in the log")
        assert len(set(lines_about(server, request_id))) == 1


def refusals(server: Relay, route: str) -> float:
    """Return how many requests were refused there."""
    return Scraped(server.url).total("sluice_refusals_total", endpoint=ROUTES[route].endpoint)


@pytest.mark.parametrize("way", [[], [PAST]], ids=["at the door", "behind it"])
@pytest.mark.parametrize(
    ("header", "body"),
    [
        (["Idempotency-Key: once"], b'{"prompt": "hi"}'),
        ([], b'{"prompt": "hi", "idempotency_key": "once"}'),
        ([], b'{"prompt": "hi", "\\u0069dempotency_\\u006bey": "once"}'),
    ],
    ids=["header", "field", "escaped"],
)
def test_who_is_spent_may_still_ask_for_what_it_began(
    model: ScriptedUpstream, way: list[str], header: list[str], body: bytes
) -> None:
    common = {"UPSTREAM": "openai", "UPSTREAM_URL": model.url, "UPSTREAM_MODEL": "m"}
    with relay(**common, API_KEYS=f"poor@poor:{POOR}", RATE_LIMIT="poor=1/day") as server:
        headers = [f"Authorization: Bearer {POOR}", JSON, *way]
        status, _, begun = answered(server, "/runs", [*headers, *header], body)
        assert status == 201
        for _ in range(2):
            assert answered(server, "/runs", headers, ASK)[0] == 429
            status, _, again = answered(server, "/runs", [*headers, *header], body)
            assert (status, json.loads(again)["run_id"]) == (201, json.loads(begun)["run_id"])


def test_a_question_that_passes_the_door_is_read_once(relays: dict[str, Relay]) -> None:
    """Its body too, where the door has looked for a visitor's token in it."""
    body = f"prompt=hi&visitor_token={VISITOR}".encode()
    assert answered(relays["page"], "/runs", [FORM], body)[0] == 201
    assert answered(relays["page"], "/chat", [FORM, PAST], body)[0] == 200


def test_a_body_that_nobody_wants_is_read_so_that_the_answer_arrives(relays: dict[str, Relay]) -> None:
    body = b"x" * 8_000_000  # more than the kernel keeps
    assert answered(relays["keys"], "/runs", ["Connection: close", JSON], body)[0] == 401
