"""What is refused in front of the app is refused as behind it: the same answer, the same line, the same count.

A request goes on to the app when there is something special about it: here a `Purpose` that means nothing.
"""

import contextlib
import json
import re
import secrets
import socket
from collections.abc import Iterator

import jwt
import pytest
import requests

from streaming.web.early_refusals import ROUTES
from streaming.web.visitors import Visitors
from tests.live import WAIT_SECONDS, Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.scraping import Scraped
from tests.web.client import read_head
from tests.web.conftest import quick

ALICE, POOR = "alice-0123456789abcdef", "poor-0123456789abcdef"
JWT_SECRET, SECRET_KEY = "j" * 32, "s" * 32
OLD_TOKEN = jwt.encode({"sub": "a", "exp": 1}, JWT_SECRET)
ODD_TOKEN = jwt.encode({"sub": "\ud800", "exp": 9e9}, JWT_SECRET)
VISITOR = Visitors(SECRET_KEY).token()
MAX_BODY_BYTES = 1024
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
    ("keys", [FORM, "Accept: Text/HTML"], b"prompt=<b>", 401),
    ("keys", [FORM, "Accept: text/html", f"Authorization: Bearer {ALICE}"], b"x" * 2000, 413),
    ("keys", [JSON, f"Authorization: Bearer {ODD_TOKEN}"], None, 401),
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


def common(model: ScriptedUpstream) -> dict[str, str]:
    return {
        "UPSTREAM": "openai",
        "UPSTREAM_URL": model.url,
        "UPSTREAM_MODEL": "m",
        "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }


@pytest.fixture(scope="module")
def relays(model: ScriptedUpstream) -> Iterator[dict[str, Relay]]:
    servers: dict[str, Relay] = {}
    try:
        for name, settings in SETTINGS.items():
            servers[name] = Relay(**common(model), **settings)
        for name, headers in (("keys", {"Authorization": f"Bearer {POOR}"}), ("anybody", {"X-Real-IP": "192.0.2.9"})):
            answers = [
                requests.post(f"{servers[name].url}/runs", json={"prompt": "hi"}, headers=headers, timeout=20)
                for _ in range(2)
            ]
            assert [answer.status_code for answer in answers] == [201, 429]
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def answered(
    server: Relay, route: str, headers: list[str], body: bytes, *, half: bool = False
) -> tuple[int, list[bytes], bytes]:
    """Return status, sorted header lines without what tells the time, and body.

    `half`: the body is sent as it is, and the client's side of the connection ends with it.
    """
    framing = [] if half else [f"Content-Length: {len(body)}"]
    if CHUNKED in headers:
        framing, body = [], b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    lines = [f"POST {route} HTTP/1.1", "Host: relay.example", *headers, *framing]
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        if half:
            connection.shutdown(socket.SHUT_WR)
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
def test_an_early_answer_is_the_one_behind_it(
    relays: dict[str, Relay], settings: str, headers: list[str], body: bytes | None, status: int, route: str
) -> None:
    server, request_id = relays[settings], secrets.token_hex(8)
    headers = [f"X-Request-Id: {request_id}", *headers]
    body = BODIES.get(route, ASK) if body is None else body
    counted, answers = [refusals(server, route)], []
    for way in ([], [PAST]):
        answers.append(answered(server, route, [*headers, *way], body))
        counted.append(refusals(server, route))
    early, behind_it = answers
    assert early == behind_it
    assert early[0] == status if route == "/runs" else 400 <= early[0] < 500
    assert [count - counted[0] for count in counted] == [0, 1, 2]
    if route == "/runs":  # all routes' would be a flood, of which the log tells only the number
        wait_until(lambda: len(lines_about(server, request_id)) == 2, "both are in the log")
        assert len(set(lines_about(server, request_id))) == 1


def test_a_websockets_handshake_is_no_question(relays: dict[str, Relay]) -> None:
    headers = ["X-Request-Id: x", JSON, "Connection: Upgrade", "Upgrade: websocket"]
    early, behind_it = (answered(relays["keys"], "/runs", [*headers, *way], ASK) for way in ([], [PAST]))
    assert early == behind_it
    assert early[0] == 400


def refusals(server: Relay, route: str) -> float:
    """Return how many requests were refused there."""
    return Scraped(server.url).total("sluice_refusals_total", endpoint=ROUTES[route].endpoint)


BROKEN = {  # of a chunked form that asks a question: all that comes of it
    "no last chunk": b"%x\r\n%b\r\n",
    "half a chunk": b"1%x\r\n%b",
    "a wrong size": b"%x\r\n%b\r\nsecret\r\n",
    "no chunk's end": b"%x\r\n%b0\r\n\r\n",
}


@pytest.mark.parametrize("way", [[], [PAST]], ids=["early", "behind it"])
@pytest.mark.parametrize("case", BROKEN)
def test_half_a_body_never_asks_half_a_question(
    relays: dict[str, Relay], model: ScriptedUpstream, case: str, way: list[str]
) -> None:
    """What had come before the fault is given once more to whoever reads once more."""
    form = f"visitor_token={VISITOR}&prompt=half a question".encode()
    calls = len(model.calls)
    raw = BROKEN[case] % (len(form), form)
    assert answered(relays["page"], "/runs", [FORM, "Transfer-encoding: chunked", *way], raw, half=True)[0] == 400
    assert len(model.calls) == calls


@pytest.mark.parametrize("case", BROKEN)
def test_a_page_about_half_a_form_does_not_show_it_as_a_whole_one(relays: dict[str, Relay], case: str) -> None:
    form = f"visitor_token={VISITOR}&prompt=half a question".encode()
    headers = [FORM, "Transfer-encoding: chunked", "Accept: text/html"]
    status, fields, page = answered(relays["page"], "/chat", headers, BROKEN[case] % (len(form), form), half=True)
    assert (status, b"Content-Type: text/html; charset=utf-8" in fields) == (400, True)
    assert b"half a question" not in page


@pytest.mark.parametrize(("form", "status"), [(b"prompt=\xff", 400), (b"prompt=" + b"x" * 2000, 413)])
def test_a_form_that_cannot_be_read_is_refused_once_and_with_a_page(
    relays: dict[str, Relay], form: bytes, status: int
) -> None:
    before = refusals(relays["page"], "/chat")
    told, fields, _ = answered(relays["page"], "/chat", [FORM, "Accept: text/html"], form)
    assert (told, b"Content-Type: text/html; charset=utf-8" in fields) == (status, True)
    assert refusals(relays["page"], "/chat") - before == 1


@pytest.mark.parametrize("way", [[], [PAST]], ids=["early", "behind it"])
def test_a_body_that_breaks_off_where_it_becomes_too_large_is_the_clients_fault(
    relays: dict[str, Relay], way: list[str]
) -> None:
    form = b"visitor_token=".ljust(MAX_BODY_BYTES, b"x")
    raw = b"%x\r\n%b\r\n" % (len(form), form)
    status, _, body = answered(relays["page"], "/runs", [FORM, "Transfer-encoding: chunked", *way], raw, half=True)
    assert (status, json.loads(body)["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("way", [[], [PAST]], ids=["early", "behind it"])
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
    with relay(**common(model), API_KEYS=f"poor@poor:{POOR}", RATE_LIMIT="poor=1/day") as server:
        headers = [f"Authorization: Bearer {POOR}", JSON, *way]
        status, _, begun = answered(server, "/runs", [*headers, *header], body)
        assert status == 201
        for _ in range(2):
            assert answered(server, "/runs", headers, ASK)[0] == 429
            status, _, again = answered(server, "/runs", [*headers, *header], body)
            assert (status, json.loads(again)["run_id"]) == (201, json.loads(begun)["run_id"])


def test_who_is_spent_may_still_ask_by_get_for_what_it_began(model: ScriptedUpstream) -> None:
    with relay(**common(model), API_KEYS=f"poor@poor:{POOR}", RATE_LIMIT="poor=1/day") as server:
        headers = {"Authorization": f"Bearer {POOR}", "Content-Type": "application/json"}

        def ask(**fields: str) -> requests.Response:
            return requests.get(f"{server.url}/stream", {"prompt": "hi", **fields}, headers=headers, timeout=20)

        begun = ask(idempotency_key="once")
        assert ask().status_code == ask().status_code == 429
        assert ask(idempotency_key="once").headers["X-Run-Id"] == begun.headers["X-Run-Id"]


def test_a_question_that_passes_is_read_once(relays: dict[str, Relay]) -> None:
    """Its body too, where a visitor's token was looked for in it."""
    body = f"prompt=hi&visitor_token={VISITOR}".encode()
    assert answered(relays["page"], "/runs", [FORM], body)[0] == 201
    assert answered(relays["page"], "/chat", [FORM, PAST], body)[0] == 200


def test_a_body_that_nobody_wants_is_read_so_that_the_answer_arrives(relays: dict[str, Relay]) -> None:
    body = b"x" * 8_000_000  # more than the kernel keeps
    assert answered(relays["keys"], "/runs", ["Connection: close", JSON], body)[0] == 401


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked\r\n\r\n186a0", "Content-Length: 100000\r\n"])
@pytest.mark.parametrize(("path", "status"), [("/runs", 401), ("/nothing", 404)])
def test_the_rest_of_a_refused_body_is_never_read_as_a_request(
    relays: dict[str, Relay], path: str, status: int, framing: str
) -> None:
    """It comes when nobody waits for it any more; behind a proxy it could swallow another client's request."""
    with socket.create_connection(("127.0.0.1", relays["keys"].port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n".encode())
        answer = read_head(connection)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        rest = answer.rest
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3000)
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                rest += piece
    assert b"HTTP/1.1" not in rest
