"""The Python examples of the README, run as users run them. Those for browsers: browser/test_example.py."""

import queue
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.faults.proxy import TO_CLIENT, Fault, Proxy
from tests.live import ROOT, WAIT_SECONDS, Call, Relay, ScriptedUpstream, relay, scripted
from tests.relay.support import DONE, FINISH, token_chunk

PYTHON_SSE = ROOT / "examples" / "python_sse.py"


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with scripted(lambda call: None) as upstream:
        yield upstream


@pytest.fixture(params=["auto", "all"])
def server(upstream: ScriptedUpstream, request: pytest.FixtureRequest) -> Iterator[Relay]:
    """A relay that compresses what it usually does, or everything: the example need not care."""
    names = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "COMPRESS": request.param}
    with relay(**names) as server:
        yield server


def run(url: str, question: str = "hi") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PYTHON_SSE, url, question]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT_SECONDS, check=False)


def test_each_token_is_printed_when_it_comes(server: Relay, upstream: ScriptedUpstream) -> None:
    say: queue.Queue[str | None] = queue.Queue()

    def script(call: Call) -> None:
        call.start()
        while (text := say.get(timeout=WAIT_SECONDS)) is not None:
            call.chunk(token_chunk(text))
        call.chunk(FINISH + DONE)
        call.finish()

    upstream.script = script
    command = [sys.executable, PYTHON_SSE, server.url, "hi"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        for text in ("Hel", "lo ", "👋"):
            say.put(text)
            assert process.stdout.read(len(text.encode())) == text.encode()
        say.put(None)
        assert process.stdout.read() == b"\n"
    assert process.returncode == 0


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_cuts_anywhere_cost_nothing(kind: str, server: Relay, upstream: ScriptedUpstream) -> None:
    text = "".join(f"{number} 早上好\n" for number in range(40))

    def script(call: Call) -> None:
        call.start()
        call.chunk(b"".join(token_chunk(piece + "\n") for piece in text.splitlines()) + FINISH + DONE)
        call.finish()

    upstream.script = script
    with Proxy(server.port) as proxy:
        positions = (0, 40, 470, 760)  # before the answer, in its head, and inside events
        proxy.faults.extend(Fault(kind, TO_CLIENT, position) for position in positions)
        done = run(proxy.url)
        assert (done.stdout, done.stderr, done.returncode) == (text + "\n", "", 0)
        assert not proxy.faults
    assert len(upstream.calls) == 1


def test_what_is_not_an_answer_is_no_success(server: Relay, upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("half"))
        call.finish()

    upstream.script = script
    cut = run(server.url)
    assert (cut.stdout, cut.stderr) == ("half\n", "The upstream's answer was cut off before its end.\n")
    refused = run(server.url, " ")
    assert (refused.stdout, refused.stderr) == ("", "'prompt' is empty.\n")
    assert cut.returncode == refused.returncode == 1
