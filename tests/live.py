"""Real parts for tests: the relay as its own gunicorn process, and an upstream that does what a script says.

Works with and without gevent's patches (in a patched process the threads are greenlets).
"""

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests

from streaming.settings import VARIABLES
from tests import redaction

ROOT = Path(__file__).parent.parent
WAIT_SECONDS = 20.0  # how long anything awaited may take on a slow machine
WHO_MAY_ASK = {"API_KEYS", "JWT_SECRET", "JWT_PUBLIC_KEY", "PUBLIC_PAGE", "ALLOW_ANONYMOUS"}
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for something that sends no event of its own."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds} s: {what}")
        time.sleep(0.01)


class Relay:
    """The relay as users run it: `python app.py` with these settings. `log()` is what it printed."""

    def __init__(self, open_files: int | None = None, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://{settings.get('HOST', '127.0.0.1')}:{self.port}"
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        # A developer's .env must not reach a test; gunicorn itself reads WEB_CONCURRENCY, and not an empty one.
        environment |= dict.fromkeys(set(VARIABLES) - {"WEB_CONCURRENCY"}, "")
        if not WHO_MAY_ASK & settings.keys():  # most tests are about other things; "" = as without settings
            environment |= {"ALLOW_ANONYMOUS": "1", "RATE_LIMIT": "off"}
        environment |= {"HOST": "127.0.0.1", "PORT": str(self.port), "PYTHONUNBUFFERED": "1", **settings}
        self._lines = redaction.collected(settings)
        limit = [] if open_files is None else ["prlimit", f"--nofile={open_files}"]
        self.process = subprocess.Popen(
            [*limit, sys.executable, ROOT / "app.py"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a Ctrl-C of the test run is not for it
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            wait_until(self._ready, "the relay is ready")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.log()}") from None

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.append(line)

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError("the relay did not start")
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def log(self) -> str:
        """Return what the process has printed so far."""
        return "".join(self._lines)

    def counts(self) -> dict[str, int]:
        """Return the numbers of unfinished and kept runs."""
        return requests.get(f"{self.url}/readyz", timeout=5).json()["runs"]

    def kill(self) -> None:
        """SIGKILL all its processes; return when the last has closed the port: till then a client may be reset."""
        os.killpg(self.process.pid, signal.SIGKILL)
        wait_until(self._refuses, "nobody listens any more")

    def _refuses(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        except OSError:  # reset: it goes at this moment
            pass
        return False

    def stop(self) -> int:
        """End the process; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
                self.process.wait(10)
        self._reader.join(5)
        return self.process.returncode


@contextlib.contextmanager
def relay(open_files: int | None = None, **settings: str) -> Iterator[Relay]:
    """Run a relay for the length of a `with` block, with at most `open_files` descriptors (None = no special limit)."""
    server = Relay(open_files, **settings)
    try:
        yield server
    finally:
        server.stop()


class Call:
    """One request that reached the upstream. The script writes to it.

    `closed` is set when the relay hangs up, `finished` when a chunked answer was written to its end.
    """

    def __init__(self, connection: socket.socket, head: bytes, body: bytes) -> None:
        self.connection = connection
        self.body = body
        self.method, self.path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        self.headers = {
            name.lower(): value
            for name, value in re.findall(r"^([^:\r\n]+): ?(.*?)\r?$", head.decode("latin-1"), re.MULTILINE)
        }
        redaction.overhear(head, body)
        self.closed = threading.Event()
        self.finished = threading.Event()

    def send(self, data: bytes) -> None:
        """Write raw bytes to the connection."""
        self.connection.sendall(data)
        time.sleep(0)  # gevent lets others run only when a write must wait: a fast relay would starve its own reader

    def start(self, *, chunked: bool = True, content_type: str = "text/event-stream") -> None:
        """Write the headers of a streaming answer."""
        framing = "Transfer-Encoding: chunked" if chunked else "Connection: close"
        self.send(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n".encode())

    def chunk(self, data: bytes) -> None:
        """Write one HTTP chunk."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def finish(self) -> None:
        """Write the last HTTP chunk."""
        self.send(b"0\r\n\r\n")
        self.finished.set()

    def answer(self, status: int, body: bytes, headers: str = "Content-Type: application/json") -> None:
        """Write a whole answer."""
        self.send(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n\r\n".encode() + body)

    def await_close(self, seconds: float = WAIT_SECONDS) -> bool:
        """Wait until the relay closes the connection; return whether it did."""
        self.connection.settimeout(seconds)
        try:
            while self.connection.recv(4096):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        self.closed.set()
        return True


class ScriptedUpstream:
    """An HTTP server on a real socket. `script(call)` runs for each request, in a thread of its own.

    `calls` are all requests seen; `next_call()` waits for one.
    """

    def __init__(self, script: Callable[[Call], object]) -> None:
        self.calls: list[Call] = []
        self.script = script
        self._arrived: queue.Queue[Call] = queue.Queue()
        # Python's 128 overflow when 1,000 runs begin while this process waits for its turn: the kernel resets the rest.
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._connections: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def next_call(self) -> Call:
        """Return the next request in order of arrival."""
        return self._arrived.get(timeout=WAIT_SECONDS)

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while request := _read_request(connection):
                call = Call(connection, *request)
                self.calls.append(call)
                self._arrived.put(call)
                self.script(call)

    def forget(self) -> None:
        """Let go of past requests and closed connections, of which a long run makes many."""
        self.calls.clear()
        while not self._arrived.empty():
            self._arrived.get()
        self._connections = [connection for connection in self._connections if connection.fileno() >= 0]

    def stop_listening(self) -> None:
        """Refuse new connections; those that are open go on."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        """Stop listening and hang up on everybody."""
        self.stop_listening()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _read_request(connection: socket.socket) -> tuple[bytes, bytes] | None:
    """Read head and body without a file object: that would keep the socket open after a script closed it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        piece = connection.recv(65536)
        if not piece:
            return None
        body += piece
    return head, body


@contextlib.contextmanager
def scripted(script: Callable[[Call], object]) -> Iterator[ScriptedUpstream]:
    """Run a scripted upstream for the length of a `with` block."""
    upstream = ScriptedUpstream(script)
    try:
        yield upstream
    finally:
        upstream.close()
