"""The upstreams of the soak. What they answer follows from the question alone, so every client knows it beforehand."""

import json
import random
import struct
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from tests.live import Call
from tests.relay.support import DONE, FINISH, token_chunk

WORDS = ["早上", "好", " 👋", "\n\n", "a", " plain", " wörds", "👨‍👩‍👧", '"}', "data: x\n\n", "\u2028", " and so on"]
SLOW_SECONDS = 0.02  # between two tokens
BIG_TOKEN = "x" * 900
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# What a run comes to when nobody interferes: its reason, its error's code, and whether the whole text is there.
OUTCOMES = {
    "ok": ("done", None, True),
    "slow": ("done", None, True),
    "big": ("done", None, True),
    "failing": ("error", "upstream_failed", False),
    "truncated": ("error", "upstream_truncated", False),
    "reset": ("error", "upstream_truncated", False),
    "hanging": ("error", "upstream_timeout", False),
    "mute": ("error", "upstream_timeout", False),
}


@dataclass(frozen=True)
class Plan:
    """How an upstream shall answer: the prompt of a run, as JSON. `seed` is each run's own."""

    how: str
    seed: int
    tokens: int

    def prompt(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def of(prompt: str) -> "Plan":
        return Plan(**json.loads(prompt))

    def texts(self) -> list[str]:
        """Return the answer's tokens."""
        chance = random.Random(self.seed)
        filler = BIG_TOKEN if self.how == "big" else ""
        return [f"{chance.choice(WORDS)}{number}{filler}" for number in range(self.tokens)]

    def said(self) -> list[str]:
        """Return the tokens that are really sent."""
        whole = OUTCOMES[self.how][2]
        return self.texts() if whole else self.texts()[: 0 if self.how == "mute" else self.tokens // 2]


class Seen:
    """The calls that reached the upstreams, by the plan's seed, until they are forgotten."""

    def __init__(self) -> None:
        self._calls: dict[int, list[Call]] = {}

    def add(self, plan: Plan, call: Call) -> None:
        self._calls.setdefault(plan.seed, []).append(call)

    def take(self, plan: Plan) -> list[Call]:
        """Return the plan's calls and forget them."""
        return self._calls.pop(plan.seed, [])


def hang_up_hard(call: Call) -> None:
    call.connection.setsockopt(SOL_SOCKET, SO_LINGER, RESET_ON_CLOSE)
    call.connection.close()


class OpenAI:
    """A script that does what the question says."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._endings: dict[str, Callable[[Call], object]] = {
            "failing": self._fail,
            "truncated": lambda call: call.connection.close(),
            "reset": hang_up_hard,
            "hanging": lambda call: call.await_close(60),
        }

    def __call__(self, call: Call) -> None:
        plan = Plan.of(json.loads(call.body)["messages"][-1]["content"])
        self._seen.add(plan, call)
        try:
            self._answer(call, plan)
        except OSError:
            call.closed.set()
            raise

    def _answer(self, call: Call, plan: Plan) -> None:
        if plan.how == "mute":
            call.await_close(60)
            return
        call.start()
        chance = random.Random(~plan.seed)
        texts = plan.said()
        while texts:
            size = 1 if plan.how == "slow" else chance.randint(1, 20)
            call.chunk(b"".join(map(token_chunk, texts[:size])))
            del texts[:size]
            threading.Event().wait(SLOW_SECONDS if plan.how == "slow" else chance.choice([0, 0, 0.001]))
        self._endings.get(plan.how, self._finish)(call)

    @staticmethod
    def _finish(call: Call) -> None:
        call.chunk(FINISH + DONE)
        call.finish()

    @staticmethod
    def _fail(call: Call) -> None:
        call.chunk(b'data: {"error":{"message":"the model broke","type":"server_error"}}\n\n')
        call.finish()


def broken(call: Call) -> None:
    """A script that never answers well."""
    chance = random.random()
    if chance < 0.5:
        call.answer(503, b'{"error":{"message":"busy"}}')
    elif chance < 0.8:
        call.answer(429, b"{}", "Retry-After: 1")
    else:
        call.answer(502, b"<html>bad gateway</html>", "Content-Type: text/html")


class Dify:
    """A script like a chat app: its stop call ends the stream of its task."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._stopped: dict[str, threading.Event] = {}

    def __call__(self, call: Call) -> None:
        if call.method == "GET":  # what the app is like: it has nothing to tell
            call.answer(404, b"{}")
            return
        if call.path.endswith("/stop"):
            stopped = self._stopped.get(call.path.split("/")[-2])
            if stopped is not None:
                stopped.set()
            call.answer(200, b'{"result":"success"}')
            return
        plan = Plan.of(json.loads(call.body)["query"])
        self._seen.add(plan, call)
        task, stopped = str(plan.seed), threading.Event()
        self._stopped[task] = stopped
        try:
            self._answer(call, plan, task, stopped)
        finally:
            del self._stopped[task]

    def _answer(self, call: Call, plan: Plan, task: str, stopped: threading.Event) -> None:
        call.start()
        for text in plan.said():
            call.chunk(_dify_event("message", task, answer=text))
            stopped.wait(SLOW_SECONDS if plan.how == "slow" else 0)
            if stopped.is_set():
                break
        if plan.how == "hanging" and not stopped.wait(60):
            return
        call.chunk(_dify_event("message_end", task, metadata={"usage": {"total_tokens": 3}}))
        call.finish()


def _dify_event(event: str, task: str, **fields: Any) -> bytes:
    ids = {"task_id": task, "message_id": f"m{task}", "conversation_id": f"c{task}"}
    return b"data: " + json.dumps({"event": event, **ids, **fields}).encode() + b"\n\n"
