"""Settings and limits that fit together."""

import contextlib

import pytest
import requests

from streaming.capacity import SPARE_FILES, capacity
from tests.live import Call, relay, scripted
from tests.relay.support import token_chunk
from tests.web.client import request


@pytest.mark.parametrize("max_runs", [1, 100, 5000, 100_000])
@pytest.mark.parametrize("open_files", [256, 1024, 4096, 65_536, 1_048_576])
def test_runs_and_connections_never_need_more_files_than_there_are(max_runs: int, open_files: int) -> None:
    room = capacity(max_runs, open_files)
    assert 1 <= room.runs <= max_runs
    assert room.runs + room.connections <= open_files - SPARE_FILES
    assert room.runs < room.nearly_full_at < room.crowded_at < room.connections
    assert room.idle_places >= 1


def test_the_default_fits_a_usual_limit_whole() -> None:
    assert capacity(5000, 65_536).runs == 5000


def test_the_app_refuses_before_the_backlog_swallows_and_a_resume_is_let_in() -> None:
    def held(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("a"))
        call.await_close()

    with scripted(held) as upstream, contextlib.ExitStack() as clients:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "MAX_RUNS": "5"}
        server = clients.enter_context(relay(open_files=256, **settings))
        first = clients.enter_context(request(f"{server.url}/stream?prompt=hi"))
        next(first.chunks())
        follow = f"{server.url}/runs/{first.headers['x-run-id']}/events"
        room = capacity(5, 256)
        for _ in range(room.crowded_at - 1):
            clients.enter_context(request(follow))
        answer = requests.post(f"{server.url}/runs", json={"prompt": "hi"}, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_many_runs")
        assert int(answer.headers["Retry-After"]) > 0
        with request(follow) as resumed:
            assert resumed.status == 200
