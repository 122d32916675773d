"""Secrets: whatever goes wrong, keys, prompts, query strings and run ids are not printed, and not shown to others."""

import json
import logging
import socket
from collections.abc import Callable

import pytest

from streaming.tracebacks import QuietFormatter
from tests import redaction
from tests.live import Call, relay, scripted
from tests.relay.support import token_chunk
from tests.web.client import request

KEY, PROMPT, QUERY, FIELD = "sk-marked-key", "a marked prompt", "marked-query", "marked-field"


def telling(status: int) -> Callable[[Call], None]:
    """Refuse, with everything that was in the call."""
    return lambda call: call.answer(
        status, json.dumps({"error": {"message": f"{call.headers} {call.body!r}"}}).encode()
    )


def breaking_off(call: Call) -> None:
    call.start()
    call.chunk(token_chunk(PROMPT))
    call.connection.shutdown(socket.SHUT_RDWR)


def no_dialect(call: Call) -> None:
    call.start()
    call.chunk(f'data: {{"error": {{"message": "{PROMPT} {KEY}"}}}}\n\n'.encode())
    call.finish()


def no_json(call: Call) -> None:
    call.start()
    call.chunk(f"data: {PROMPT}\n\n".encode())
    call.finish()


def elsewhere(call: Call) -> None:
    call.answer(302, b"", f"Location: http://127.0.0.1:1/?{QUERY}={KEY}")


UPSTREAMS = [telling(status) for status in (400, 401, 404, 429, 500, 503)]
UPSTREAMS += [breaking_off, no_dialect, no_json, elsewhere, lambda call: call.send(PROMPT.encode() + b"\r\n\r\n")]


def test_whatever_goes_wrong_nothing_secret_is_printed_or_told() -> None:
    with (
        scripted(telling(500)) as upstream,
        relay(
            UPSTREAM="openai",
            UPSTREAM_URL=f"{upstream.url}?{QUERY}=1",
            UPSTREAM_MODEL="m",
            UPSTREAM_API_KEY=KEY,
            MAX_TRIES="1",
        ) as server,
    ):
        shown = b""
        for script in UPSTREAMS:
            upstream.script = script
            with request(f"{server.url}/chat?{QUERY}=1", "POST", json_body={"prompt": PROMPT}) as response:
                shown += response.body().replace(PROMPT.encode(), b"", 1)  # the part of the answer that came
        for method, path, body in (
            ("POST", f"/runs?{QUERY}=1", json.dumps({"prompt": PROMPT, "options": FIELD}).encode()),
            ("POST", "/runs", f'{{"prompt": "{PROMPT}'.encode()),
            ("GET", f"/stream?prompt={QUERY}&flush_ms={FIELD}", None),
            ("GET", f"/{QUERY}/{'x' * 9000}", None),
            ("GET", f"/runs/{QUERY}/events?after={FIELD}", None),
            ("BAD METHOD", f"/{QUERY}", None),
        ):
            with request(
                server.url + path, method, body=body, headers={"Content-Type": "application/json"}
            ) as response:
                assert 400 <= response.status < 500
                shown += response.body()
        log = server.log()
    for secret in (KEY, PROMPT, QUERY):
        assert secret not in log
        assert secret.encode() not in shown
    assert FIELD not in log


def test_a_traceback_tells_where_and_not_with_what() -> None:
    def broken() -> None:
        try:
            {}[PROMPT]
        except KeyError as error:
            raise ValueError(KEY) from error

    try:
        broken()
    except ValueError as error:
        record = logging.LogRecord("n", logging.ERROR, "", 0, "failed", (), (ValueError, error, error.__traceback__))
    text = QuietFormatter("%(message)s").format(record)
    assert text.startswith("failed\nTraceback")
    assert text.endswith("ValueError")
    assert "KeyError\n\nwhich led to" in text
    assert "in broken" in text
    assert KEY not in text
    assert PROMPT not in text


@pytest.mark.parametrize("line", [f"{PROMPT} failed\n", "Bearer sk-overheard\n", "GET /stream?prompt=hi\n"])
def test_the_check_of_all_tests_sees_what_it_should(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_logs", [])
    monkeypatch.setattr(redaction, "_secrets", set())
    lines = redaction.collected({"UPSTREAM": "openai"})
    redaction.overhear(b"POST / HTTP/1.1\r\nAuthorization: Bearer sk-overheard", json.dumps({"query": PROMPT}).encode())
    lines += ["all is well\n", line]
    assert [leak.endswith(line) for leak in redaction.leaks()] == [True]
