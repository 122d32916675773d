"""What is measured: the relay and its peers, each a process tree of its own that listens on a port."""

import contextlib
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS = HERE / "peers"
START_SECONDS = 120.0  # LiteLLM's proxy takes most of a minute
ASK = '{"prompt":"hi"}'


class Missing(Exception):
    """A peer that is not installed; says what is missing."""


@dataclass(frozen=True)
class Place:
    """Where a target runs: `work` is a directory for what it builds and logs, `upstream_port` the simulator's."""

    work: Path
    port: int
    upstream_port: int
    dialect: str
    redis_url: str

    @property
    def upstream_url(self) -> str:
        """Return the simulator's base URL."""
        return f"http://127.0.0.1:{self.upstream_port}/v1"


@dataclass(frozen=True)
class Command:
    """How a target is started, and which request begins a stream."""

    words: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path = PEERS
    path: str = "/stream"
    body: str = ASK


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def _python(environment: str, program: str) -> str:
    found = ROOT / environment / "bin" / program
    if not found.exists():
        raise Missing(f"{environment} has no {program}: see bench/README.md")
    return str(found)


def _relay(place: Place) -> Command:
    environment = {
        "HOST": "127.0.0.1",
        "PORT": str(place.port),
        "UPSTREAM": place.dialect,
        "UPSTREAM_URL": place.upstream_url,
        "UPSTREAM_API_KEY": "bench",
        "MAX_RUNS": "6000",
        "REDIS_URL": place.redis_url,
        **({"UPSTREAM_MODEL": "bench"} if place.dialect == "openai" else {}),
    }
    return Command([sys.executable, str(ROOT / "app.py")], environment, ROOT)


def _nginx(place: Place) -> Command:
    configuration = place.work / "nginx.conf"
    text = string.Template((PEERS / "nginx.conf").read_text())
    configuration.write_text(text.substitute(work=place.work, port=place.port, upstream_port=place.upstream_port))
    path = "/v1/chat-messages" if place.dialect == "dify" else "/v1/chat/completions"
    return Command([_tool("nginx"), "-p", str(place.work), "-c", str(configuration)], path=path)


def _go(place: Place) -> Command:
    program = place.work / "relay-go"
    if not program.exists():
        subprocess.run([_tool("go"), "build", "-o", program, PEERS / "relay.go"], check=True)  # noqa: S603
    return Command([str(program), str(place.port), place.upstream_url])


def _flask(place: Place) -> Command:
    words = [_python(".venv-bench", "gunicorn"), "-k", "gevent", "--worker-connections", "9000", "--backlog", "4096"]
    return Command([*words, "-b", f"127.0.0.1:{place.port}", "flask_relay:app"])


def _fastapi(place: Place) -> Command:
    words = [_python(".venv-bench", "uvicorn"), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    return Command([*words, "--backlog", "4096", "--port", str(place.port), "fastapi_relay:app"])


def _litellm(place: Place) -> Command:
    words = [_python(".venv-bench-litellm", "litellm"), "--config", str(PEERS / "litellm.yaml"), "--host", "127.0.0.1"]
    body = '{"model":"bench","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    return Command([*words, "--port", str(place.port)], path="/v1/chat/completions", body=body)


TARGETS: dict[str, Callable[[Place], Command]] = {
    "relay": _relay,
    "nginx": _nginx,
    "go": _go,
    "flask": _flask,
    "fastapi": _fastapi,
    "litellm": _litellm,
}
NAMES = {
    "direct": "nothing between",
    "relay": "**Sluice**",
    "nginx": "nginx pass-through",
    "go": "Go `net/http`",
    "flask": "textbook Flask",
    "fastapi": "FastAPI + httpx",
    "litellm": "LiteLLM proxy",
}
ANY_DIALECT = {"relay", "nginx"}  # the other peers understand OpenAI's chunks alone


@dataclass(frozen=True)
class Running:
    """A target that answers; `pid` is the root of its process tree, `ready_seconds` how long it took to start."""

    port: int
    pid: int
    path: str
    body: str
    ready_seconds: float


@contextlib.contextmanager
def running(name: str, place: Place) -> Iterator[Running]:
    """Run a target for the length of a `with` block. Raises Missing."""
    command = TARGETS[name](place)
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "UPSTREAM_URL": place.upstream_url}
    begun = time.monotonic()
    with (place.work / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # our own words
            command.words,
            cwd=command.directory,
            env=environment | dict(command.environment),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while not _answers(place.port):
            if process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                raise Missing(f"{name} does not start: see {place.work / name}.log")
            time.sleep(0.01)
        yield Running(place.port, process.pid, command.path, command.body, time.monotonic() - begun)
    finally:
        _end(process)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
        probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return bool(probe.recv(1))  # a 404 will do
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else's
        process.wait(10)
