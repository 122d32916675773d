"""The lines about runs and refusals, as a real relay writes them."""

import hashlib
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import requests

from streaming import lines
from streaming.lines import FLOOD_LINES, SLOW_FIRST_TOKEN_MS, SLOW_TOTAL_MS, Refusals, is_remarkable
from streaming.relay.observing import Refused, RunEnded
from streaming.relay.pace import Pace
from streaming.wire.events import End, Timing
from tests.live import Call, Relay, relay, scripted, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import request

SECRET = "S3CRET"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def answering(call: Call) -> None:
    """Answer, or fail in words that nobody may see."""
    if b"fail" in call.body:
        call.answer(500, json.dumps({"error": {"message": SECRET}}).encode())
        return
    call.start()
    call.chunk(token_chunk(SECRET) + FINISH + DONE)
    call.finish()


def lines_of(server: Relay) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log().splitlines()]


def about(server: Relay, message: str, count: int) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        return [line for line in lines_of(server) if line["message"] == message]

    wait_until(lambda: len(found()) >= count, f"{count} lines say '{message}'")
    assert len(found()) == count
    return found()


def test_one_line_for_each_run_and_each_refusal_and_not_a_word_of_what_was_said() -> None:
    with scripted(answering) as upstream:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "MAX_TRIES": "1"}
        with relay(**settings, UPSTREAM_API_KEY=f"sk-{SECRET}", LOG_FORMAT="json", WEB_CONCURRENCY="2") as server:
            known = {"X-Request-Id": "asked-1", "traceparent": f"00-{TRACE}-{PARENT}-01"}
            answer = requests.get(f"{server.url}/stream?prompt={SECRET}&user={SECRET}", headers=known, timeout=20)
            run_id = answer.headers["X-Run-Id"]
            requests.post(f"{server.url}/chat", json={"prompt": f"fail {SECRET}"}, timeout=20)
            requests.get(f"{server.url}/runs/{run_id}/events?after=2&prompt={SECRET}", timeout=20)
            requests.get(f"{server.url}/stream?promt={SECRET}", headers={"X-Request-Id": "refused-1"}, timeout=20)
            requests.get(f"{server.url}/{SECRET}?{SECRET}", timeout=20)
            requests.get(f"{server.url}/runs/{run_id[:-1]}_/events?{SECRET}", timeout=20)
            with request(f"{server.url}/" + SECRET * 2000) as response:
                assert response.status == 414
            done, failed = about(server, "run ended", 2)
            form = {"on_disconnect": SECRET}
            requests.post(f"{server.url}/chat", data=form, headers={"Accept": "text/html"}, timeout=20)
            refused = about(server, "request refused", 5)
        lines = lines_of(server)  # the last ones too: every line of the process is JSON
    assert SECRET not in server.log()
    assert run_id not in server.log()
    assert {line["logger"] for line in lines} >= {"gunicorn.error", "sluice"}
    assert any("1 worker" in line["message"] for line in lines)

    assert {name: done[name] for name in ("level", "upstream", "model", "reason", "tries", "resumes", "bytes")} == {
        "level": "info",
        "upstream": "openai",
        "model": "m",
        "reason": "done",
        "tries": 1,
        "resumes": 0,
        "bytes": len(SECRET),
    }
    assert done["run"] == hashlib.sha256(run_id.encode()).hexdigest()[:16]
    assert (done["request_id"], done["trace_id"]) == ("asked-1", TRACE)
    assert 0 < done["headers_ms"] <= done["first_token_ms"] <= done["total_ms"]
    assert done["completion_tokens"] > 0
    assert done["exact"] is False
    assert (failed["level"], failed["reason"], failed["code"]) == ("warning", "error", "upstream_failed")
    assert [(line["code"], line["status"], line.get("endpoint")) for line in refused] == [
        ("bad_request", 400, "relay.stream"),
        ("not_found", 404, None),
        ("run_not_found", 404, "relay.events"),
        ("uri_too_long", 414, None),
        ("bad_request", 400, "relay.chat"),
    ]
    assert refused[0]["request_id"] == "refused-1"
    assert all(line["request_id"] for line in refused)


def test_text_lines_say_the_same() -> None:
    with relay(UPSTREAM="demo") as server:
        requests.post(f"{server.url}/chat", json={"prompt": "/long 1"}, timeout=20)
        hashes = "run=[0-9a-f]{16} who=[0-9a-f]{16}"
        pattern = rf"^\S+ \S+ INFO sluice run ended {hashes} upstream=demo model=demo reason=done .* tries=1 "
        wait_until(lambda: re.search(pattern, server.log(), re.MULTILINE), "the line is there")
        assert re.search(r"^\S+ \S+ INFO gunicorn.error Booting worker", server.log(), re.MULTILINE)


def test_of_ordinary_runs_only_a_share_leaves_a_line() -> None:
    with relay(UPSTREAM="demo", LOG_SAMPLE="0", LOG_FORMAT="json") as server:
        for prompt in ("/long 1", "/fail x", "/long 1"):
            requests.post(f"{server.url}/chat", json={"prompt": prompt}, timeout=20)
        requests.post(f"{server.url}/chat", json={}, timeout=20)
        about(server, "request refused", 1)
        (line,) = about(server, "run ended", 1)
        assert line["code"] == "upstream_failed"


@pytest.mark.parametrize(
    ("change", "remarkable"),
    [
        (lambda end: end, False),
        (lambda end: msgspec.structs.replace(end, timing=None), False),
        (lambda end: msgspec.structs.replace(end, reason="stopped"), False),
        (lambda end: msgspec.structs.replace(end, reason="abandoned"), False),
        (lambda end: msgspec.structs.replace(end, reason="error"), True),
        (lambda end: msgspec.structs.replace(end, reason="interrupted"), True),
        (lambda end: msgspec.structs.replace(end, timing=Timing(first_token=SLOW_FIRST_TOKEN_MS)), True),
        (lambda end: msgspec.structs.replace(end, timing=Timing(first_token=1.0, total=SLOW_TOTAL_MS)), True),
    ],
)
def test_failed_and_slow_runs_always_do(change: Callable[[End], End], remarkable: bool) -> None:
    end = change(End(reason="done", timing=Timing(first_token=10.0, total=100.0)))
    run = RunEnded(
        run_id="r",
        owner=None,
        request_id=None,
        trace=None,
        upstream="u",
        dialect="openai",
        model=None,
        tries=1,
        resumes=0,
        began=0.0,
        stop_seconds=None,
        pace=Pace(),
        end=end,
    )
    assert is_remarkable(run) is remarkable


def test_a_flood_of_refusals_leaves_a_hundred_lines_and_then_how_many_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lines, "FLOOD_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "sluice")

    def told(message: str) -> list[dict[str, Any]]:
        return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == message]

    refusals = Refusals()
    refused = Refused(code="unauthorized", status=401, endpoint="relay.start", request_id="r")
    for _ in range(FLOOD_LINES + 30):
        refusals.tell(refused)
    refusals.tell(Refused(code="internal", status=500, endpoint="relay.start", request_id="ours"))
    assert [each["request_id"] for each in told("request refused")] == ["r"] * FLOOD_LINES + ["ours"]
    wait_until(lambda: told("more requests refused"), "the rest is told")
    (more,) = told("more requests refused")
    assert more == {"code": "unauthorized", "status": 401, "endpoint": "relay.start", "count": 30}
    refusals.tell(refused)
    assert len(told("request refused")) == FLOOD_LINES + 2
