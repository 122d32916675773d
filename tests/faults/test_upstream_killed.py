"""A real upstream process, killed with SIGKILL at every stage of its answer."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from tests.faults import upstream_process
from tests.faults.cases import Event, Model, checked_end, text_of, whole_events
from tests.faults.conftest import RelayOf
from tests.faults.upstream_process import STAGES, TEXTS, WIRES
from tests.leaks import connections_to
from tests.live import Relay, scripted, wait_until
from tests.web.client import request

KEPT = {  # stage -> the text that had left the upstream
    "mid-event": TEXTS[0],
    "mid-character": TEXTS[0],
    "last token": "".join(TEXTS),
    "finished": "".join(TEXTS),
}
CASES = [(wire, stage) for wire in WIRES for stage in STAGES]


class Victim:
    """One upstream process."""

    def __init__(self, wire: str, stage: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", upstream_process.__file__, wire, stage],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = 0

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has closed what it held."""
        self.process.kill()
        self.process.wait(20)

    def close(self) -> None:
        """Leave nothing of it behind."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def name_of(wire: str, stage: str) -> str:
    """Return the upstream's name in the relay: each has its own, and so its own breaker."""
    return f"{wire}-{stage}".replace(" ", "_")


@pytest.fixture(scope="module")
def victims() -> Iterator[dict[tuple[str, str], Victim]]:
    """A process for each case, all started at once."""
    started = {case: Victim(*case) for case in CASES}
    try:
        for victim in started.values():
            victim.port = int(victim.line())
        yield started
    finally:
        for victim in started.values():
            victim.close()


@pytest.fixture(scope="module")
def server(
    clean_relay: RelayOf, victims: dict[tuple[str, str], Victim], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Relay]:
    """A relay that knows all of them, and one that works, which it asks where none is named."""
    with scripted(Model()) as works:
        tables = [f'[[upstream]]\nname = "works"\ndialect = "openai"\nmodel = "m"\nurl = "{works.url}"\n']
        for (wire, stage), victim in victims.items():
            dialect = 'dialect = "openai"\nmodel = "m"' if wire.startswith("openai") else 'dialect = "dify"'
            url = f"http://127.0.0.1:{victim.port}/v1"
            tables.append(f'[[upstream]]\nname = "{name_of(wire, stage)}"\n{dialect}\nurl = "{url}"\n')
        file = tmp_path_factory.mktemp("upstreams") / "upstreams.toml"
        file.write_text("".join(tables))
        with clean_relay(UPSTREAMS_FILE=str(file), MAX_TRIES="1", HEARTBEAT_SECONDS="0.5") as relay:
            yield relay


@pytest.mark.parametrize(("wire", "stage"), CASES)
def test_a_killed_upstream_is_told_as_it_was(
    wire: str, stage: str, server: Relay, victims: dict[tuple[str, str], Victim]
) -> None:
    victim = victims[wire, stage]
    if stage == "not listening":
        victim.kill()
    ask = {"prompt": "hi", "upstream": name_of(wire, stage)}
    data = b""
    with request(f"{server.url}/stream?format=ndjson", "POST", json_body=ask) as response:
        chunks = response.chunks()
        if stage != "not listening":
            assert victim.line() == "reached"
            while text_of(whole_events("ndjson", data)) != KEPT.get(stage, ""):  # it is with the subscriber already
                data += next(chunks)
            victim.kill()
        data += b"".join(chunks)
        assert response.complete
    events = whole_events("ndjson", data)
    check(wire, stage, events)
    assert requests.get(f"{server.url}/runs/{events[0][2]['run_id']}", timeout=20).json()["text"] == text_of(events)
    wait_until(lambda: not connections_to(server, victim.port), "the relay's side is closed too")


def check(wire: str, stage: str, events: list[Event]) -> None:
    end = checked_end(events)
    assert text_of(events) == KEPT.get(stage, "")
    if stage == "finished":
        assert (end["reason"], end["error"]) == ("done", None)
        return
    code = "upstream_unreachable" if stage == "not listening" else "upstream_truncated"
    assert (end["reason"], end["error"]["code"], end["error"]["retryable"]) == ("error", code, True)
    assert end["usage"]["exact"] is False
    accepted = "upstream" in [type_ for _, type_, _ in events]
    assert accepted == (STAGES.index(stage) >= STAGES.index("headers"))
