"""A relay under abuse: its CPU, its memory, and how long a good caller waits."""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import requests

from tests.abuse.sender import KEY
from tests.leaks import worker_pid
from tests.live import Call, Relay, ScriptedUpstream, relay, scripted
from tests.relay.support import DONE, FINISH, token_chunk

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


class Scene:
    """The relay in front of a quick upstream, and one good caller who asks without a pause."""

    def __init__(self, server: Relay, upstream: ScriptedUpstream) -> None:
        self.server = server
        self.upstream = upstream
        self._pid = worker_pid(server)
        self._delays_ms: list[float] = []
        self._session = requests.Session()
        self._asks = 0
        for _ in range(20):  # what is made once is made
            self.ask()
        self.calm = self._told(self._asked(4.0))

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the worker's CPU time so far: user, system."""
        fields = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return int(fields[11]) * TICK_SECONDS, int(fields[12]) * TICK_SECONDS

    def resident_mb(self) -> float:
        """Return the worker's memory."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def ask(self, key: str = KEY) -> float:
        """Ask a question; return how long the answer took, in ms."""
        begun = time.monotonic()
        headers = {"Authorization": f"Bearer {key}"}
        answer = self._session.post(f"{self.server.url}/chat", json={"prompt": "hi"}, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        self._asks += 1
        return (time.monotonic() - begun) * 1000

    def _asked(self, seconds: float) -> list[float]:
        until, delays = time.monotonic() + seconds, list[float]()
        while time.monotonic() < until:
            delays.append(self.ask())
            gevent.sleep(0.01)
        return delays

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let the good caller ask while the block runs."""
        over = False

        def ask() -> None:
            while not over:
                self._delays_ms.append(self.ask())
                gevent.sleep(0.01)

        caller = gevent.spawn(ask)
        try:
            yield
        finally:
            over = True
            caller.join(60)
            caller.get()

    @staticmethod
    def _told(delays_ms: list[float]) -> str:
        ordered = sorted(delays_ms)
        p99 = ordered[len(ordered) * 99 // 100]
        return f"p50 {statistics.median(ordered):.1f}, p99 {p99:.1f}, worst {ordered[-1]:.0f} ms of {len(ordered)}"

    def told(self) -> str:
        """Return the good caller's delays. The upstream must have got nothing but what was asked well."""
        assert len(self.upstream.calls) == self._asks
        return f"good caller: {self.calm} before; {self._told(self._delays_ms)} meanwhile"


def answer_at_once(call: Call) -> None:
    """Answer in one write: a second one would wait 40 ms for the first one's receipt, and hide what is measured."""
    call.answer(200, token_chunk("Hi") + FINISH + DONE, "Content-Type: text/event-stream")


@contextmanager
def scene(**settings: str) -> Iterator[Scene]:
    """Play a scene inside a `with` block; the settings are the relay's."""
    with scripted(answer_at_once) as upstream:
        model = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
        with relay(**model, **{"API_KEYS": KEY, **settings}) as server:
            yield Scene(server, upstream)
