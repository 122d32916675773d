"""A body that nobody wants is read past, for a while: the answer arrives, and the next request is the next one."""

import contextlib
import re
import socket

import pytest
import requests

from streaming.web.unread_body import DRAIN_MAX_BYTES
from tests.live import Relay, relay
from tests.web.client import read_head


def test_a_refused_upload_reads_the_answer_not_a_reset(server: Relay) -> None:
    """The client is still writing when the refusal is made."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n\r\n"
        )
        for _ in range(50):
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(b"a" * 100_000)
        assert read_head(connection).status == 413


@pytest.mark.parametrize("framing", ["Content-Length: 200000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n30d40\r\n"])
@pytest.mark.parametrize("line", ["GET /healthz", "POST /runs/{run_id}/stop", "GET /static/chat.css"])
def test_a_body_that_nobody_read_is_no_next_request(line: str, framing: str, server: Relay) -> None:
    run_id = requests.post(f"{server.url}/runs", json={"prompt": "hi"}, timeout=20).json()["run_id"]
    first = f"{line.format(run_id=run_id)} HTTP/1.1\r\nHost: x\r\n{framing}{'x' * 200_000}"
    end = "\r\n0\r\n\r\n" if "chunked" in framing else ""
    second = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall((first + end + second).encode())
        with connection.makefile("rb") as answers:
            statuses = re.findall(rb"HTTP/1.1 (\d+) ", answers.read())
    assert [status[:1] for status in statuses] == [b"2", b"2"]


@pytest.mark.parametrize("framing", ["Content-Length: 100000\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0"])
def test_the_late_rest_of_an_unwanted_body_is_no_next_request(framing: str, server: Relay) -> None:
    """It is waited for a while; then the connection ends, and what comes meanwhile is body."""
    answers = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\n{framing}\r\n".encode())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while answers.count(b"HTTP/1.1") < 2:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                with contextlib.suppress(TimeoutError):
                    if not (piece := connection.recv(65536)):
                        break
                    answers += piece
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == [b"200"]


def test_a_client_that_still_writes_behind_the_last_answer_gets_it(server: Relay) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 12000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + b"x" * 12_000_000)  # more than the kernel holds
        assert read_head(connection).json() == {"status": "ok"}
        assert connection.recv(1) == b""


@pytest.mark.parametrize("path", ["/healthz", "/nothing"])
def test_an_unwanted_body_that_never_comes_ends_its_connection(path: str) -> None:
    with relay(UPSTREAM="demo", GUNICORN_CMD_ARGS="--keep-alive 60") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n".encode())
            read_head(connection).body()
            assert connection.recv(1) == b""


def test_no_more_of_a_refused_body_is_read_than_is_said(server: Relay) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 100_000_000:
                sent += connection.send(b"x" * 65536)
    assert sent < 2 * DRAIN_MAX_BYTES  # one more would be what the kernel holds
