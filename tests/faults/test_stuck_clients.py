"""Clients that stop reading: they cost no memory, slow nobody, and are dropped quietly."""

import re
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest

from tests import live
from tests.leaks import descriptors, worker_pid
from tests.live import Call, Relay, relay, scripted, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import Response, request

STUCK = 200
TOKENS = 20_000
FORMATS = ("sse", "ndjson", "text")
ALLOWED_MB = 10.0
BULK = {"RUN_MAX_BYTES": "64MiB", "LOG_MAX_BYTES": "128MiB", "HEARTBEAT_SECONDS": "0.5"}
NEVER = {"WRITE_TIMEOUT_SECONDS": "3600"}


def token(number: int) -> str:
    """Return a text of about 1,000 bytes that no other token has."""
    return f"{number} 你好 " + "x" * 990


TEXT = "".join(map(token, range(TOKENS)))


class Bulk:
    """A script: one token, then at the word `begin` all others but the last, then at the word `finish` the rest."""

    def __init__(self) -> None:
        self.called, self.begin, self.finish = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, call: Call) -> None:
        self.called.set()
        call.start()
        call.chunk(token_chunk(token(0)))
        self.begin.wait(300)
        for first in range(1, TOKENS - 1, 50):
            numbers = range(first, min(first + 50, TOKENS - 1))
            call.chunk(b"".join(token_chunk(token(number)) for number in numbers))
        self.finish.wait(300)
        call.chunk(token_chunk(token(TOKENS - 1)) + FINISH + DONE)
        call.finish()


class StuckClient:
    """A client with a small window that looks at what has arrived and never takes it."""

    def __init__(self, address: tuple[str, int] | str, target: str) -> None:
        self.connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.connection.settimeout(120)
        self.connection.connect(address)
        self.connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def await_answer(self) -> None:
        """Wait for the answer's first byte, and leave it where it is."""
        assert self.connection.recv(1, socket.MSG_PEEK)

    def read_rest(self) -> bytes:
        """Take what the kernel still has, until the connection's end."""
        data = b""
        try:
            while piece := self.connection.recv(65536):
                data += piece
        except ConnectionResetError:
            pass
        return data

    def __enter__(self) -> "StuckClient":
        return self

    def __exit__(self, *_: type[BaseException] | TracebackType | BaseException | None) -> None:
        self.connection.close()


@contextmanager
def stuck_clients(address: tuple[str, int] | str, run_id: str, count: int) -> Iterator[list[StuckClient]]:
    with ExitStack() as stack:
        clients = []
        for number in range(count):
            target = f"/runs/{run_id}/events?format={FORMATS[number % len(FORMATS)]}"
            clients.append(stack.enter_context(StuckClient(address, target)))
        for client in clients:
            client.await_answer()
        yield clients


@contextmanager
def bulk_relay(**settings: str) -> Iterator[tuple[Relay, Bulk, str]]:
    """A fresh relay with one run whose upstream has been called."""
    bulk = Bulk()
    with scripted(bulk) as upstream:
        with relay(UPSTREAM="openai", UPSTREAM_URL=upstream.url, UPSTREAM_MODEL="m", **BULK, **settings) as server:
            with request(f"{server.url}/runs", "POST", json_body={"prompt": "hi", "on_disconnect": "finish"}) as made:
                run_id = made.json()["run_id"]
            assert bulk.called.wait(30)  # from here on the run opens no further socket
            yield server, bulk, run_id


def follow(server: Relay, run_id: str) -> Response:
    return request(f"{server.url}/runs/{run_id}/events?format=text")


def assert_whole(response: Response) -> None:
    body = response.body()
    assert response.complete
    assert len(body) == len(TEXT.encode())
    assert zlib.crc32(body) == zlib.crc32(TEXT.encode())


def memory_mb(pid: int, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def no_error(server: Relay) -> None:
    log = server.log()
    for word in ("ERROR", "CRITICAL", "Traceback"):
        assert word not in log, log


@dataclass
class Growth:
    """MB that a worker grew by: `peak` at any moment, `held` at the end of the run."""

    peak: float
    held: float


def growth(stuck: int) -> Growth:
    """Return what one run of 20 MB costs with so many stuck clients, while one reads it all."""
    with bulk_relay(**NEVER) as (server, bulk, run_id):
        pid = worker_pid(server)
        before = memory_mb(pid, "VmRSS")
        with stuck_clients(("127.0.0.1", server.port), run_id, stuck) as clients, follow(server, run_id) as reader:
            bulk.begin.set()
            bulk.finish.set()
            assert_whole(reader)
            # Nobody was dropped, so it was beside stuck clients that the run and its reader came to their ends.
            assert connections(server) >= len(clients)
            assert server.counts() == {"unfinished": 0, "ended": 1}
            grown = Growth(memory_mb(pid, "VmHWM") - before, memory_mb(pid, "VmRSS") - before)
            no_error(server)
        return grown


def connections(server: Relay) -> int:
    """Return how many sockets the worker has open."""
    return sum(target.startswith("socket:") for _, target in descriptors(worker_pid(server)))


@pytest.mark.timeout(240)
def test_stuck_clients_cost_no_memory_and_slow_nobody() -> None:
    alone, beside = growth(0), growth(STUCK)
    print(f"one run of {len(TEXT.encode()) / 1e6:.0f} MB: {alone}; with {STUCK} stuck clients: {beside}")
    assert beside.peak - alone.peak < ALLOWED_MB
    assert beside.held - alone.held < ALLOWED_MB


def assert_dropped(server: Relay, bulk: Bulk, run_id: str, address: tuple[str, int] | str, count: int) -> None:
    alone = connections(server)
    with stuck_clients(address, run_id, count) as clients, follow(server, run_id) as reader:
        bulk.begin.set()
        body, without_last = bytearray(), len(TEXT.encode()) - len(token(TOKENS - 1).encode())
        for chunk in reader.chunks():
            body += chunk
            if len(body) == without_last:  # the run goes on: nobody has left because it ended
                wait_until(lambda: connections(server) <= alone + 1, "the stuck clients are dropped", 50)
                assert server.counts()["unfinished"] == 1
                bulk.finish.set()
        assert reader.complete
        assert zlib.crc32(body) == zlib.crc32(TEXT.encode())
        for client in clients:
            rest = client.read_rest()
            assert rest
            assert not rest.endswith(b"0\r\n\r\n")  # it does not look like an end
        with follow(server, run_id) as back:  # whoever was dropped may come back
            assert_whole(back)
    no_error(server)


@pytest.mark.timeout(240)
def test_stuck_clients_are_dropped_quietly_and_their_run_goes_on() -> None:
    with bulk_relay(WRITE_TIMEOUT_SECONDS="1") as (server, bulk, run_id):
        assert_dropped(server, bulk, run_id, ("127.0.0.1", server.port), STUCK)


@pytest.mark.timeout(240)
def test_the_worker_drops_them_itself_where_the_kernel_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux ends stuck TCP connections through TCP_USER_TIMEOUT; a Unix socket behind nginx has no such thing."""
    port, path = live.free_port(), str(tmp_path / "s")
    monkeypatch.setattr(live, "free_port", lambda: port)
    both = f"--bind 127.0.0.1:{port} --bind unix:{path}"
    with bulk_relay(WRITE_TIMEOUT_SECONDS="1", GUNICORN_CMD_ARGS=both) as (server, bulk, run_id):
        assert_dropped(server, bulk, run_id, path, 20)
