"""A relay under abuse: its CPU, its memory, and how long a good caller waits."""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import requests

from tests.leaks import worker_pid
from tests.live import Relay, ScriptedUpstream, relay, scripted
from tests.web.conftest import quick

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


class Scene:
    """The relay in front of a quick upstream, and one good caller who asks without a pause."""

    def __init__(self, server: Relay, upstream: ScriptedUpstream) -> None:
        self.server = server
        self.upstream = upstream
        self._pid = worker_pid(server)
        self._delays_ms: list[float] = []
        self._session = requests.Session()
        for _ in range(20):  # what is made once is made
            self._ask()
        self.calm = self._told(self._asked(2.0))

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the worker's CPU time so far: user, system."""
        fields = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return int(fields[11]) * TICK_SECONDS, int(fields[12]) * TICK_SECONDS

    def resident_mb(self) -> float:
        """Return the worker's memory."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _ask(self) -> float:
        begun = time.monotonic()
        answer = self._session.post(f"{self.server.url}/chat", json={"prompt": "hi"}, timeout=60)
        assert answer.status_code == 200, answer.text
        return (time.monotonic() - begun) * 1000

    def _asked(self, seconds: float) -> list[float]:
        until, delays = time.monotonic() + seconds, list[float]()
        while time.monotonic() < until:
            delays.append(self._ask())
            gevent.sleep(0.01)
        return delays

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let the good caller ask while the block runs."""
        over = False

        def ask() -> None:
            while not over:
                self._delays_ms.append(self._ask())
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
        middle = statistics.median(delays_ms)
        return f"p50 {middle:.1f} ms, worst {max(delays_ms):.0f} ms of {len(delays_ms)}"

    def told(self) -> str:
        """Return the good caller's delays."""
        return f"good caller: {self.calm} before; {self._told(self._delays_ms)} meanwhile"


@contextmanager
def scene(**settings: str) -> Iterator[Scene]:
    """Play a scene inside a `with` block; the settings are the relay's."""
    with scripted(quick) as upstream:
        model = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
        with relay(**model, **settings) as server:
            yield Scene(server, upstream)
