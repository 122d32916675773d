"""The bounds of a WebSocket: what is no protocol, what is too much, silence, and clients that do not read."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websocket import ABNF, WebSocketTimeoutException

from streaming.web.ws_socket import FRAMES_AT_ONCE, TOO_MANY_FRAMES
from tests import live
from tests.faults.proxy import LINGER_AND_RESET
from tests.leaks import descriptors, worker_pid
from tests.live import Call, Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.ws_client import Client, connected, masked, text_of

PING = json.dumps({"type": "ping", "ref": "p"})


@pytest.fixture
def ws(server: Relay) -> Iterator[Client]:
    with connected(server) as client:
        yield client


def pong(client: Client) -> bool:
    return client.frame() == {"run_id": None, "ref": "p", "type": "pong"}


# -- the protocol ------------------------------------------------------------------------------------------------------

TOO_LARGE = 1024 * 1024 + 1  # tests/web/conftest.py sets 1 MiB
NO_PROTOCOL = {
    "binary": (masked(b"{}", ABNF.OPCODE_BINARY), 1003),
    "the beginning of binary": (masked(b"{", ABNF.OPCODE_BINARY, 0), 1003),
    "bad UTF-8": (masked(b"\xff"), 1007),
    "UTF-8 cut at the message's end": (masked(b"{" + "好".encode()[:2]), 1007),
    "a lone surrogate in UTF-8": (masked(b"\xed\xa0\x80"), 1007),
    "unmasked": (b"\x81\x02{}", 1002),
    "deflated": (b"\xc1" + masked("{}")[1:], 1002),
    "unknown opcode": (b"\x83" + masked("{}")[1:], 1002),
    "a continuation of nothing": (masked("{}", ABNF.OPCODE_CONT), 1002),
    "a message inside a message": (masked("{", fin=0) + masked("{}"), 1002),
    "a long ping": (b"\x89\xfe\x00\x7e" + bytes(130), 1002),
    "a fragmented ping": (b"\x09\x80" + bytes(4), 1002),
    "a close of one byte": (masked(b"\x03", ABNF.OPCODE_CLOSE), 1002),
    "one byte too many": (masked("x" * TOO_LARGE), 1009),
    "one byte too many, in pieces": (masked("x" * (TOO_LARGE - 1), fin=0) + masked("x", ABNF.OPCODE_CONT), 1009),
    "characters of three bytes": (masked("好" * (TOO_LARGE // 3 + 1)), 1009),
    "10 MB": (masked("x" * 10_000_000), 1009),
    "the announcement of 8 EB": (b"\x81\xff\x7f" + bytes(11) + bytes(2 * TOO_LARGE), 1009),
}


@pytest.mark.parametrize("case", NO_PROTOCOL)
def test_what_is_not_the_protocol_closes_the_socket_and_the_client_learns_why(case: str, ws: Client) -> None:
    data, code = NO_PROTOCOL[case]
    ws.raw(data)
    assert ws.closed() == code


def test_a_message_of_the_largest_size_is_read(ws: Client, upstream: ScriptedUpstream) -> None:
    message = {"type": "ping", "ref": "p"}
    ws.raw(masked(json.dumps(message).ljust(TOO_LARGE - 1)))
    assert pong(ws)


def test_a_message_in_any_pieces_is_read_and_pings_may_come_between(ws: Client) -> None:
    for byte in masked(PING):
        ws.raw(bytes([byte]))
    assert pong(ws)
    data = json.dumps({"type": "ping", "ref": "好👋"}, ensure_ascii=False).encode()
    for size in (1, 2, 3, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        ws.raw(masked(pieces[0], fin=0) + masked(b"beat", ABNF.OPCODE_PING) + masked(b"", ABNF.OPCODE_CONT, 0))
        for piece in pieces[1:]:
            ws.raw(masked(piece, ABNF.OPCODE_CONT, 0))
        ws.raw(masked(b"", ABNF.OPCODE_CONT))
        opcode, data_ = ws.library.recv_data(control_frame=True)
        while opcode == ABNF.OPCODE_PING:
            opcode, data_ = ws.library.recv_data(control_frame=True)
        assert (opcode, data_) == (ABNF.OPCODE_PONG, b"beat")
        assert ws.frame()["ref"] == "好👋"


@pytest.mark.parametrize("kind", ["fragments", "messages", "pings"])
def test_a_flood_of_frames_closes_the_socket_before_it_costs_much(kind: str, ws: Client) -> None:
    frame = {
        "fragments": masked(b"x", ABNF.OPCODE_CONT, 0),
        "messages": masked(PING),
        "pings": masked(b"", ABNF.OPCODE_PING),
    }[kind]
    ws.raw(masked(b"x", fin=0) * (kind == "fragments") + frame * FRAMES_AT_ONCE * 20)
    assert ws.closed() == TOO_MANY_FRAMES


def test_what_a_busy_page_sends_is_no_flood(ws: Client) -> None:
    for _ in range(FRAMES_AT_ONCE // 4):
        ws.library.send(PING)
    for _ in range(FRAMES_AT_ONCE // 4):
        assert pong(ws)


def test_deflate_is_not_agreed_to(server: Relay) -> None:
    with connected(server, header={"Sec-WebSocket-Extensions": "permessage-deflate"}) as ws:
        assert "sec-websocket-extensions" not in ws.library.getheaders()
        ws.library.send(PING)
        assert pong(ws)


@pytest.mark.parametrize("close", [b"", b"\x03\xe8", b"\x0f\xa0bye"])
def test_a_clients_close_is_answered_and_the_connection_ends(close: bytes, ws: Client) -> None:
    ws.raw(masked(close, ABNF.OPCODE_CLOSE))
    opcode, data = ws.library.recv_data()
    assert (opcode, data) == (ABNF.OPCODE_CLOSE, close)
    assert ws.library.sock.recv(1) == b""


# -- silence -----------------------------------------------------------------------------------------------------------

QUICK = {"HEARTBEAT_SECONDS": "0.1", "WRITE_TIMEOUT_SECONDS": "2", "WS_IDLE_SECONDS": "2"}


@pytest.fixture(scope="module")
def quick() -> Iterator[Relay]:
    """A relay with short patience, whose answers never come."""
    with scripted(lambda call: call.await_close()) as upstream:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
        with relay(**settings, **QUICK) as server:
            with connected(server) as ws:
                ws.closed()  # opens what is opened once
            yield server
            wait_until(lambda: server.counts()["unfinished"] == 0, "no run is left")
            assert "ERROR" not in server.log()
            assert "Traceback" not in server.log()


def test_a_socket_that_nobody_needs_is_closed(quick: Relay) -> None:
    with connected(quick) as ws:
        until = time.monotonic() + 3
        while time.monotonic() < until:  # whoever says something is not idle
            ws.library.recv_data(control_frame=True)  # the relay's own ping: some time has gone by
            ws.library.send(PING)
            assert pong(ws)
        begun = time.monotonic()
        assert ws.closed() == 4408
        assert time.monotonic() - begun > 1.5


def test_a_client_that_leaves_inside_the_handshake_is_no_error_of_ours(quick: Relay) -> None:
    key = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", quick.port)) as client:
            client.sendall(f"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{key}\r\n\r\n".encode())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
    with connected(quick) as ws:  # it comes behind them
        ws.library.send(PING)
        assert pong(ws)
    assert "Traceback" not in quick.log()


def test_a_message_that_never_ends_is_no_word(quick: Relay) -> None:
    with connected(quick) as ws:
        ws.raw(masked("{", fin=0))
        ws.library.settimeout(0.1)
        for _ in range(100):
            with contextlib.suppress(WebSocketTimeoutException):
                assert ws.closed() == 4408
                return
            ws.raw(masked(" ", ABNF.OPCODE_CONT, 0))
    raise AssertionError("it was never closed")


def test_a_socket_with_a_run_stays_and_is_pinged_in_silence(quick: Relay) -> None:
    with connected(quick) as ws:
        ws.say(type="ask", prompt="hi")
        run_id = ws.frame()["run_id"]
        pings, until = 0, time.monotonic() + 3  # longer than idle sockets and unanswered pings have
        while time.monotonic() < until:
            opcode, _ = ws.library.recv_data(control_frame=True)  # answers it
            assert opcode == ABNF.OPCODE_PING
            pings += 1
        assert pings > 3
        ws.say(type="stop", run_id=run_id)
        assert ws.frame()["reason"] == "stopped"
        assert ws.closed() == 4408  # from here on its time runs again


def test_a_client_that_answers_no_ping_is_let_go(quick: Relay) -> None:
    with connected(quick) as ws:
        ws.say(type="ask", prompt="hi", on_disconnect="finish")
        run_id = ws.frame()["run_id"]
        frame = ws.library.recv_frame()  # which answers none
        while frame.opcode == ABNF.OPCODE_PING:
            frame = ws.library.recv_frame()
        assert (frame.opcode, frame.data[:2]) == (ABNF.OPCODE_CLOSE, (3008).to_bytes(2))
    with connected(quick) as ws:
        assert ws.answer(type="stop", run_id=run_id)["reason"] == "stopped"


# -- clients that do not read ------------------------------------------------------------------------------------------

TOKENS = 400
STUCK = 20


def token(number: int) -> str:
    """Return a text of about 10,000 bytes that no other token has."""
    return f"{number} 好 " + "x" * 9_990


TEXT = "".join(map(token, range(TOKENS)))
ROOMY = {"RUN_MAX_BYTES": "64MiB", "LOG_MAX_BYTES": "128MiB", "HEARTBEAT_SECONDS": "0.5"}


class Bulk:
    """A script: one token, at the word `begin` all others but the last, at the word `finish` that one."""

    def __init__(self) -> None:
        self.begin, self.finish = threading.Event(), threading.Event()

    def __call__(self, call: Call) -> None:
        call.start()
        call.chunk(token_chunk(token(0)))
        self.begin.wait(50)
        for number in range(1, TOKENS - 1):
            call.chunk(token_chunk(token(number)))
        self.finish.wait(50)
        call.chunk(token_chunk(token(TOKENS - 1)) + FINISH + DONE)
        call.finish()


def sockets(server: Relay) -> int:
    """Return how many sockets the worker has open."""
    return sum(link.startswith("socket:") for _, link in descriptors(worker_pid(server)))


def resident_mb(server: Relay) -> float:
    status = Path(f"/proc/{worker_pid(server)}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def small_window(family: int, address: str | tuple[str, int]) -> socket.socket:
    connection = socket.socket(family)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(live.WAIT_SECONDS)
    connection.connect(address)
    return connection


def no_error(server: Relay) -> None:
    assert "ERROR" not in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])  # with no help from the kernel for the latter
def test_stuck_sockets_are_dropped_and_neither_the_run_nor_others_wait_for_them(
    family: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk, port, path = Bulk(), live.free_port(), str(tmp_path / "s")
    monkeypatch.setattr(live, "free_port", lambda: port)
    with scripted(bulk) as upstream, ExitStack() as stack:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", **ROOMY}
        both = f"--bind 127.0.0.1:{port} --bind unix:{path}"
        server = stack.enter_context(relay(WRITE_TIMEOUT_SECONDS="1", GUNICORN_CMD_ARGS=both, **settings))
        reader = stack.enter_context(connected(server))
        reader.say(type="ask", prompt="hi")
        frames = reader.frames("token")
        alone = sockets(server)
        address = path if family == socket.AF_UNIX else ("127.0.0.1", port)
        stuck = [stack.enter_context(connected(server, socket=small_window(family, address))) for _ in range(STUCK)]
        for number, client in enumerate(stuck):
            for _ in range(1 + number % 3):  # several runs at once wait for the same client
                client.say(type="follow", run_id=frames[0]["run_id"])
        bulk.begin.set()
        while len(frames) < TOKENS + 1:  # with start and upstream, without the last token
            frames.append(reader.frame())
        wait_until(lambda: sockets(server) <= alone, "the stuck sockets are dropped")
        assert server.counts()["unfinished"] == 1
        bulk.finish.set()
        frames += reader.frames()
        assert text_of(frames) == TEXT
        with connected(server) as back:  # who was dropped comes back
            back.say(type="follow", run_id=frames[0]["run_id"])
            assert text_of(back.frames()) == TEXT
        no_error(server)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("what", ["pings", "refused messages", "stops", "follows"])
def test_a_client_that_talks_and_never_listens_takes_no_memory(what: str, server: Relay) -> None:
    with connected(server, socket=small_window(socket.AF_INET, ("127.0.0.1", server.port))) as ws:
        ws.say(type="ask", prompt="hi")
        run_id = ws.frames()[0]["run_id"]
        said = {
            "pings": masked(b"x" * 125, ABNF.OPCODE_PING),
            "refused messages": masked('{"type":"unknown"}'),
            "stops": masked(json.dumps({"type": "stop", "run_id": run_id})),
            "follows": masked(json.dumps({"type": "follow", "run_id": run_id})),
        }
        before = resident_mb(server)
        ws.library.settimeout(1)
        data = said[what] * 1_000_000
        with pytest.raises(OSError):
            ws.raw(data)
        assert resident_mb(server) - before < 5
        with connected(server) as other:
            other.library.send(PING)
            assert pong(other)
