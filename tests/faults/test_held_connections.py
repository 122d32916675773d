"""Clients that hold connections, or send heads without end: they are let go, cost little, and nobody waits for them."""

import re
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import gevent
import pytest
import requests

from streaming.capacity import capacity
from streaming.web.client_server import ACCEPTED_AT_ONCE
from streaming.web.connection import HEAD_MAX_BYTES
from tests.leaks import descriptors, worker_pid
from tests.live import WAIT_SECONDS, Relay, relay, scripted, wait_until
from tests.web.client import HeadCut, read_head
from tests.web.conftest import quick

MANY = 300
BOMBS = 100
BOMB_BYTES = 4 << 20
START = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Relay]:
    with relay(UPSTREAM="demo") as server:
        yield server


def opened(stack: ExitStack, server: Relay, count: int) -> list[socket.socket]:
    """Return so many connections, closed with the stack."""
    address = ("127.0.0.1", server.port)
    return [stack.enter_context(socket.create_connection(address, timeout=WAIT_SECONDS)) for _ in range(count)]


def held(server: Relay) -> int:
    return sum(link.startswith("socket:") for _, link in descriptors(worker_pid(server)))


def resident_mb(server: Relay) -> float:
    status = Path(f"/proc/{worker_pid(server)}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def is_served(server: Relay) -> bool:
    return requests.post(f"{server.url}/chat", json={"prompt": "hi"}, timeout=WAIT_SECONDS).status_code == 200


def say_nothing(connection: socket.socket) -> None:
    """Hold an idle connection."""


def trickle_a_head(connection: socket.socket) -> None:
    """Send a head that gets longer and longer, a little at a time: each byte comes before any timeout of silence."""
    with suppress(OSError):
        connection.sendall(START)
        for number in range(1000):
            connection.sendall(b"X-%d: y\r\n" % number)
            gevent.sleep(0.2)


@pytest.mark.parametrize("hold", [say_nothing, trickle_a_head])
def test_who_holds_a_connection_is_let_go_and_nobody_waits(
    hold: Callable[[socket.socket], None], server: Relay
) -> None:
    with ExitStack() as stack:
        connections = opened(stack, server, MANY)
        writers = [gevent.spawn(hold, connection) for connection in connections]
        wait_until(lambda: held(server) >= MANY, "all are connected")
        assert is_served(server)
        wait_until(lambda: held(server) < MANY // 10, "all are let go")
        gevent.joinall(writers, timeout=WAIT_SECONDS, raise_error=True)
        wait_until(lambda: len(select.select(connections, [], [], 0)[0]) == MANY, "every client sees it")
    assert is_served(server)


def test_a_kept_connection_on_which_nothing_is_asked_any_more_is_let_go(server: Relay) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as connection:
        for _ in range(2):
            connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = read_head(connection)
            assert (answer.status, answer.headers["connection"]) == (404, "keep-alive")
            while not answer.rest.endswith(b"}\n"):
                answer.rest += connection.recv(65536)
        assert connection.recv(1) == b""


BOMB_HEADS = {
    "one long line": b"X: " + b"y" * BOMB_BYTES,
    "many lines": b"X: y\r\n" * (BOMB_BYTES // 6),
    "long lines": (b"X: " + b"y" * 8000 + b"\r\n") * (BOMB_BYTES // 8005),
}


@pytest.mark.parametrize("bomb", BOMB_HEADS)
def test_a_head_without_end_is_refused_before_it_fills_the_memory(bomb: str, server: Relay) -> None:
    assert is_served(server)
    before = resident_mb(server)

    def send(connection: socket.socket) -> bytes:
        with suppress(OSError):
            connection.sendall(START + BOMB_HEADS[bomb])
        with suppress(OSError):
            return connection.recv(65536)
        return b""

    with ExitStack() as stack:
        sent = [gevent.spawn(send, connection) for connection in opened(stack, server, BOMBS)]
        assert is_served(server)
        gevent.joinall(sent, timeout=WAIT_SECONDS, raise_error=True)
    assert all(each.ready() for each in sent)
    assert {each.value.split(b" ")[1] for each in sent if each.value} <= {b"400", b"431"}
    assert resident_mb(server) - before < 2 * BOMBS * HEAD_MAX_BYTES / 2**20 + 10
    wait_until(lambda: is_served(server), "it serves on")


def test_the_largest_head_that_is_one_is_answered_and_the_next_may_be_as_large(server: Relay) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 7900) for number in range(8))
    with ExitStack() as stack:
        (connection,) = opened(stack, server, 1)
        for _ in range(3):
            connection.sendall(START + lines + b"\r\n")
            response = read_head(connection)
            assert (response.status, response.json()) == (200, {"status": "ok"})
        connection.sendall(START + lines * 2 + b"\r\n")
        assert read_head(connection).status == 431


KEY = "alice-0123456789abcdef"
JSON = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
WRONG = b"POST /runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n" + JSON
ASKING = f"POST /chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nExpect: 100-continue\r\n".encode() + JSON
ROOM = capacity(5000, 256)


@pytest.fixture
def small() -> Iterator[Relay]:
    """A relay with room for a few dozen connections."""
    with scripted(quick) as upstream:
        model = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
        with relay(open_files=256, **model, API_KEYS=KEY) as server:
            yield server


def good_answers(server: Relay, count: int) -> list[int]:
    """Ask so many times, each on a new connection; return the statuses.

    Among dozens of new connections with three idle places it may be let go before it has asked: then it asks again.
    """
    headers = {"Authorization": f"Bearer {KEY}"}
    statuses: list[int] = []
    while len(statuses) < count:
        with suppress(requests.ConnectionError):
            answer = requests.post(f"{server.url}/chat", json={"prompt": "hi"}, headers=headers, timeout=WAIT_SECONDS)
            statuses.append(answer.status_code)
    return statuses


def busy(stack: ExitStack, server: Relay, count: int) -> list[socket.socket]:
    """Return so many connections that are being served until their bodies come, closed with the stack."""
    connections: list[socket.socket] = []
    for _ in range(count):
        connections += opened(stack, server, 1)
        connections[-1].sendall(ASKING)
        assert read_head(connections[-1]).status == 100
    return connections


def kept(server: Relay) -> str:
    return requests.get(f"{server.url}/healthz", timeout=WAIT_SECONDS).headers["connection"]


def test_idle_connections_make_room_for_new_ones(small: Relay) -> None:
    with ExitStack() as stack:
        connections = opened(stack, small, 5 * ROOM.connections)
        assert good_answers(small, 5) == [200] * 5
        (oldest,) = connections[:1]
        assert oldest.recv(1) == b""


def test_no_connection_is_kept_where_there_is_little_room(small: Relay) -> None:
    """Behind the last one nobody would be let in, and those who are would keep their places."""
    assert kept(small) == "keep-alive"
    with ExitStack() as stack:
        busy(stack, small, ROOM.nearly_full_at - 1)
        wait_until(lambda: kept(small) == "close", "all of them are being served")
    wait_until(lambda: kept(small) == "keep-alive", "there is room again")


def test_who_has_just_come_has_time_to_ask(small: Relay) -> None:
    with ExitStack() as stack:
        busy(stack, small, ROOM.nearly_full_at)
        wait_until(lambda: kept(small) == "close", "all of them are being served")
        first, *_ = opened(stack, small, ROOM.idle_places - 1)  # the last place is the next newcomer's
        assert good_answers(small, 3) == [200] * 3
        first.sendall(START + b"\r\n")
        assert read_head(first).status == 200


def test_when_it_is_full_clients_wait_and_are_let_in_again(small: Relay) -> None:
    with ExitStack() as stack:
        connections = busy(stack, small, ROOM.connections)
        (late,) = opened(stack, small, 1)
        late.sendall(START + b"\r\n")
        assert not select.select([late], [], [], 0.5)[0]  # that nothing comes has no event
        for connection in connections[:ACCEPTED_AT_ONCE]:  # so many may be more than there is room for
            connection.close()
        assert read_head(late).status == 200


FLOODS = {
    "refused": (WRONG + b"{}", 401),
    "refused, their bodies never come": (WRONG, 401),
    "answered": (START + b"\r\n", 200),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_on_more_connections_than_there_is_room_for_keeps_nobody_out(kind: str, small: Relay) -> None:
    (asked, status), over, answers = FLOODS[kind], False, 0

    def flood() -> None:
        nonlocal answers
        while not over:
            with socket.create_connection(("127.0.0.1", small.port), timeout=WAIT_SECONDS) as connection:
                with suppress(OSError, HeadCut):  # it may be let go between two requests
                    while not over:
                        connection.sendall(asked)
                        answer = read_head(connection)
                        assert answer.status == status
                        assert answer.body()
                        answers += 1

    floods = [gevent.spawn(flood) for _ in range(2 * ROOM.connections)]
    try:
        wait_until(lambda: answers, "it has begun")
        assert good_answers(small, 5) == [200] * 5
    finally:
        over = True
        gevent.joinall(floods, timeout=WAIT_SECONDS, raise_error=True)
    assert all(each.ready() for each in floods)
    assert answers > 20
