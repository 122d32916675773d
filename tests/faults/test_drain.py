"""SIGTERM: what a deploy does many times a day, with every kind of client present."""

import json
import os
import queue
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import requests

from tests.live import Call, Relay, scripted, wait_until
from tests.live import relay as run_relay
from tests.redis_server import redis_server
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import Response, read_head, request

LOOK_SECONDS = 10.0  # how long a loaded machine may take for what must be "at once"


def terminate(server: Relay) -> None:
    server.process.send_signal(signal.SIGTERM)


def awaited_exit(server: Relay, seconds: float) -> float:
    """Wait for the exit; return the seconds it took."""
    begun = time.monotonic()
    assert server.process.wait(seconds) == 0
    return time.monotonic() - begun


def settings(url: str, **more: str) -> dict[str, str]:
    return {"UPSTREAM": "openai", "UPSTREAM_URL": url, "UPSTREAM_MODEL": "m", "HEARTBEAT_SECONDS": "0.5", **more}


class Gate:
    """A script that sends a token, then waits for the test before it ends well."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def __call__(self, call: Call) -> None:
        call.start()
        call.chunk(token_chunk("first "))
        self._open.wait(30)
        call.chunk(token_chunk("last") + FINISH + DONE)
        call.finish()

    def open(self) -> None:
        self._open.set()


def held(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("a"))
    call.await_close()


def started(response: Response) -> None:
    """Read until the first token has come."""
    chunks = response.chunks()
    while b"first" not in next(chunks):
        pass


def bodies(responses: list[Response]) -> list[bytes]:
    """Read all bodies to their ends, side by side, and close the connections."""
    results: queue.Queue[tuple[int, bytes]] = queue.Queue()

    def read(number: int, response: Response) -> None:
        with response:
            results.put((number, response.body()))

    threads = [threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate(responses)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    return [body for _, body in sorted(results.get_nowait() for _ in responses)]


def no_error(server: Relay) -> None:
    log = server.log()
    for word in ("ERROR", "CRITICAL", "Traceback", "graceful timeout"):
        assert word not in log, log


def test_short_runs_get_their_whole_answer_and_the_process_leaves_with_the_last() -> None:
    gate = Gate()
    with scripted(gate) as upstream, run_relay(**settings(upstream.url)) as server:
        formats = ["sse", "ndjson", "text"] * 16 + ["sse", "ndjson"]
        streams = [request(f"{server.url}/stream?prompt=hi&format={name}") for name in formats]
        for stream in streams:
            started(stream)
        idle = request(f"{server.url}/healthz")
        assert idle.json() == {"status": "ok"}  # kept alive, and now idle
        terminate(server)
        assert idle.connection.recv(4096) == b""  # closed at once, although its keep-alive time is not over
        wait_until(lambda: refused(server.port), "nobody is let in any more")
        gate.open()
        texts = bodies(streams)
        assert all(stream.complete for stream in streams)
        for name, text in zip(formats, texts, strict=True):
            assert text.endswith(b"last") if name == "text" else b'"reason":"done"' in text
        assert awaited_exit(server, LOOK_SECONDS) < LOOK_SECONDS
        no_error(server)
        idle.close()


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_while_draining_new_runs_are_refused_and_resumes_are_not() -> None:
    gate = Gate()
    with scripted(gate) as upstream, run_relay(**settings(upstream.url)) as server:
        first = request(f"{server.url}/stream?prompt=hi")
        started(first)
        # A request whose body is half sent when the signal comes: the only kind that can still arrive.
        asking, resuming = (socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(2))
        head = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 16\r\n{}\r\n{{"
        asking.sendall(head.format("/chat", "").encode())
        resuming.sendall(head.format("/stream", "Expect: 100-continue\r\n").encode())
        assert b"100 Continue" in resuming.recv(4096)  # it is being served
        wait_until(lambda: connections(server) == 3, "so is the other")
        terminate(server)
        wait_until(lambda: refused(server.port), "the drain has begun")
        asking.sendall(b'"prompt": "hi"}')
        answer = read_head(asking)
        assert (answer.status, answer.json()["error"]["code"]) == (503, "draining")
        assert int(answer.headers["retry-after"]) > 0
        gate.open()
        assert b'"reason":"done"' in first.body()
        assert awaited_exit(server, LOOK_SECONDS) < LOOK_SECONDS
        assert len(upstream.calls) == 1
        no_error(server)
        for client in (first, asking, resuming):
            client.close()


def connections(server: Relay) -> int:
    """Return how many connections to the relay are established, as the kernel tells."""
    port = f":{server.port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123
        rows = [line.split() for line in table][1:]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)


@pytest.mark.parametrize("grace", ["6", "10"])
def test_what_still_runs_at_the_windows_end_is_interrupted_honestly(grace: str) -> None:
    with scripted(held) as upstream, run_relay(**settings(upstream.url, SHUTDOWN_GRACE_SECONDS=grace)) as server:
        formats = ["sse", "ndjson", "text"] * 17
        streams = [request(f"{server.url}/stream?prompt=hi&format={name}") for name in formats]
        wait_until(lambda: len(upstream.calls) == len(streams), "all runs have begun")
        for stream in streams:
            next(stream.chunks())
        begun = time.monotonic()
        terminate(server)
        texts = bodies(streams)
        window = 3 if grace == "6" else 5
        assert time.monotonic() - begun >= window - 0.5  # nobody was cut short of it
        for name, stream, text in zip(formats, streams, texts, strict=True):
            if name == "text":
                assert not stream.complete  # it cannot say so, so it breaks off
            else:
                assert stream.complete
                assert b'"reason":"interrupted"' in text
        awaited_exit(server, int(grace))
        assert time.monotonic() - begun < int(grace)  # by itself, before the platform would kill it
        assert all(call.closed.wait(5) for call in upstream.calls)
        no_error(server)


def test_a_stuck_client_delays_nobody() -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("x" * 3_000_000))
        call.await_close()

    with scripted(script) as upstream, run_relay(**settings(upstream.url, SHUTDOWN_GRACE_SECONDS="4")) as server:
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", server.port))
        stuck.sendall(b"GET /stream?prompt=hi HTTP/1.1\r\nHost: x\r\n\r\n")
        upstream.next_call()
        with request(f"{server.url}/stream?prompt=hi") as reader:
            next(reader.chunks())
            terminate(server)
            events = reader.events()
            assert json.loads(events[-1].data)["reason"] == "interrupted"
            assert reader.complete
        awaited_exit(server, LOOK_SECONDS)
        no_error(server)
        stuck.close()


def test_difys_stops_are_posted_side_by_side_and_awaited_for_a_second_at_most() -> None:
    message = b'data: {"event":"message","task_id":"%d","conversation_id":"c","answer":"a"}\n\n'
    stops: list[float] = []

    def script(call: Call) -> None:
        if call.path.endswith("/stop"):
            stops.append(time.monotonic())
            call.await_close()  # never answered
            return
        call.start()
        call.chunk(message % len(upstream.calls))
        call.await_close()

    with scripted(script) as upstream:
        dify = {"UPSTREAM": "dify", "UPSTREAM_URL": upstream.url, "SHUTDOWN_GRACE_SECONDS": "4"}
        with run_relay(**dify) as server:
            streams = [request(f"{server.url}/stream?prompt=hi") for _ in range(5)]
            for stream in streams:
                chunks = stream.chunks()
                while b'"a"' not in next(chunks):
                    pass
            begun = time.monotonic()
            terminate(server)
            texts = bodies(streams)
            assert [b"interrupted" in text for text in texts] == [True] * 5, texts
            assert all(b'"upstream_stop":"failed"' in text for text in texts)
            awaited_exit(server, LOOK_SECONDS)
            assert time.monotonic() - begun < 4
            assert len(stops) == 5
            no_error(server)


@pytest.mark.parametrize("clients", ["none", "idle"])
def test_with_nothing_to_wait_for_it_leaves_at_once(clients: str) -> None:
    with run_relay() as server:
        idle: list[requests.Session] = []
        if clients == "idle":
            idle = [requests.Session() for _ in range(20)]
            for session in idle:
                assert session.get(f"{server.url}/healthz", timeout=20).status_code == 200
        terminate(server)
        assert awaited_exit(server, LOOK_SECONDS) < 5  # keep-alive alone would hold it for that long
        no_error(server)
        for session in idle:
            session.close()


def test_a_client_that_left_in_silence_is_noticed_without_a_heartbeat() -> None:
    with scripted(held) as upstream, run_relay(**settings(upstream.url, HEARTBEAT_SECONDS="25")) as server:
        for path in ("/stream?prompt=hi&on_disconnect=cancel", "/stream?prompt=hi&on_disconnect=cancel&format=json"):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            call = upstream.next_call()
            wait_until(lambda: server.counts()["unfinished"] == 1, "the run is going on")
            connection.close()
            assert call.closed.wait(10)  # long before the heartbeat
            wait_until(lambda: server.counts()["unfinished"] == 0, "the run has ended")


def test_a_client_that_half_closed_does_not_take_the_cut_for_an_end() -> None:
    with scripted(held) as upstream, run_relay(**settings(upstream.url, HEARTBEAT_SECONDS="25")) as server:
        with request(f"{server.url}/stream?prompt=hi&format=text") as response:
            assert next(response.chunks()) == b"a"
            response.connection.shutdown(socket.SHUT_WR)
            assert (response.body(), response.complete) == (b"", False)


def test_a_client_whose_body_was_not_needed_is_watched_too() -> None:
    """What is left unread would make its connection readable for good."""
    with scripted(held) as upstream, run_relay(**settings(upstream.url, HEARTBEAT_SECONDS="25")) as server:
        with request(f"{server.url}/stream?prompt=hi&on_disconnect=cancel") as first:
            call = upstream.next_call()
            head = f"POST /stream?last_event_id={first.headers['x-run-id']}.1 HTTP/1.1\r\nHost: x\r\n"
            second = socket.create_connection(("127.0.0.1", server.port))
            second.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n".encode())
            second.sendall(b"{}")
            assert b"200 OK" in second.recv(65536)
        assert not call.closed.wait(0.5)  # one subscriber is left
        second.close()
        assert call.closed.wait(10)


def read_all(client: socket.socket) -> str:
    """Return how the connection ended, behind its bytes."""
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionResetError:
        return f"{data.decode()}reset"
    return f"{data.decode()}end"


def test_a_failure_is_no_end_for_http_1_0_either() -> None:
    """Without chunks only a reset tells."""

    def broken(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("half"))
        call.finish()

    with scripted(broken) as upstream, run_relay(**settings(upstream.url)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            client.sendall(b"GET /stream?prompt=hi&format=text HTTP/1.0\r\nHost: x\r\n\r\n")
            assert read_all(client).endswith("reset")


def test_a_deploy_is_no_end_for_a_slow_client_of_http_1_0() -> None:
    """What the kernel still held would be followed by a plain end of the connection, which is all that 1.0 has."""

    def long(call: Call) -> None:
        call.start()
        call.chunk(b"".join(token_chunk("x" * 1000) for _ in range(2000)))
        call.await_close()

    with (
        scripted(long) as upstream,
        run_relay(SHUTDOWN_GRACE_SECONDS="4", **settings(upstream.url)) as server,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /stream?prompt=hi&format=text HTTP/1.0\r\nHost: x\r\n\r\n")
        assert client.recv(1, socket.MSG_PEEK)  # and no more: the relay's next writes wait
        server.process.terminate()
        awaited_exit(server, 10)
        assert read_all(client).endswith("reset")


def test_ctrl_c_ends_streams_properly_too() -> None:
    with scripted(held) as upstream, run_relay(**settings(upstream.url)) as server:
        stream = request(f"{server.url}/stream?prompt=hi")
        upstream.next_call()
        server.process.send_signal(signal.SIGINT)
        (text,) = bodies([stream])
        assert b'"reason":"interrupted"' in text
        assert stream.complete
        awaited_exit(server, LOOK_SECONDS)
        no_error(server)


def test_a_run_that_nobody_follows_does_not_hold_the_process() -> None:
    """Its log lives here alone, and nobody can come any more."""
    with scripted(held) as upstream, run_relay(**settings(upstream.url)) as server:
        requests.post(f"{server.url}/runs", json={"prompt": "hi", "on_disconnect": "finish"}, timeout=20)
        call = upstream.next_call()
        terminate(server)
        assert call.closed.wait(LOOK_SECONDS)
        assert awaited_exit(server, LOOK_SECONDS) < LOOK_SECONDS


@pytest.mark.parametrize("how", [{"WEB_CONCURRENCY": "4"}, {"GUNICORN_CMD_ARGS": "--workers 3"}])
def test_there_is_one_worker_whatever_is_asked_and_the_log_says_why(how: dict[str, str]) -> None:
    with run_relay(**how) as server:
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        assert len(children) == 1
        assert "1 worker" in server.log()
        assert "memory" in server.log()


def test_a_worker_that_is_still_loading_is_no_reason_to_fail() -> None:
    with redis_server() as redis:
        for _ in range(3):
            with run_relay(UPSTREAM="demo", REDIS_URL=redis.url, WEB_CONCURRENCY="2") as server:
                terminate(server)  # one of the two is ready
                awaited_exit(server, LOOK_SECONDS)
                assert "Traceback" not in server.log()


def test_ctrl_c_hurries_a_shutdown_that_has_begun() -> None:
    """A terminal sends it to the worker too."""
    with scripted(held) as upstream, run_relay(**settings(upstream.url, SHUTDOWN_GRACE_SECONDS="60")) as server:
        with request(f"{server.url}/stream?prompt=hi") as response:
            upstream.next_call()
            terminate(server)
            wait_until(lambda: refused(server.port), "the drain has begun")
            os.killpg(server.process.pid, signal.SIGINT)
            assert response.events()[-1].type == "end"
            awaited_exit(server, LOOK_SECONDS)
