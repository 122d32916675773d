"""A live relay keeps to its description: what /openapi.json allows, and much that it does not, is answered as it says.

schemathesis makes the requests, in a process of its own: it imports ssl before gevent could patch it.
"""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import Call, Relay, relay, scripted
from tests.relay.support import token_chunk
from tests.web.conftest import quick

CONFIG = Path(__file__).with_name("schemathesis.toml")
SECONDS = 170


def check(server: Relay, *arguments: str) -> None:
    """Let schemathesis ask; fail with all that it found."""
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG, "run", *arguments]
    done = subprocess.run(
        [*command, f"{server.url}/openapi.json"], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert "Traceback" not in server.log()


@pytest.mark.timeout(SECONDS + 10)
def test_every_answer_is_as_described() -> None:
    with scripted(quick) as upstream:
        with relay(UPSTREAM="openai", UPSTREAM_URL=upstream.url, UPSTREAM_MODEL="m", CHAT_WAIT_SECONDS="5") as server:
            check(server)
        assert len(upstream.calls) > 20  # it got through to answers


@pytest.mark.timeout(SECONDS + 10)
def test_the_demo_keeps_to_it_too() -> None:
    with relay(CHAT_WAIT_SECONDS="0.2") as server:
        check(server, "--phases", "examples,stateful", "--include-path-regex", "^/(chat|runs|upstreams|v1/models)")


@pytest.mark.timeout(SECONDS + 10)
def test_the_answers_to_an_upstreams_failures_are_described() -> None:
    turn = itertools.cycle(
        [
            lambda call: call.answer(500, b"{}"),
            lambda call: call.answer(400, b'{"error":{"message":"no","code":"context_length_exceeded"}}'),
            lambda call: call.answer(401, b"{}"),
            lambda call: call.answer(429, b"{}", "Retry-After: 1"),
            lambda call: call.answer(200, b"not a stream"),
            _cut,
        ]
    )
    with scripted(lambda call: next(turn)(call)) as upstream:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "MAX_TRIES": "1"}
        with relay(CHAT_WAIT_SECONDS="5", **settings) as server:
            check(server, "--phases", "examples", "--include-path-regex", "^/(stream|chat|runs|v1/chat|api/chat)")
        assert len(upstream.calls) > 5


def _cut(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("half"))
    call.connection.close()
