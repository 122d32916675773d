"""`flask doctor --local`, against upstreams on real sockets that each refuse in their own way."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app import _dialect
from streaming.doctor.local import examine_settings
from streaming.doctor.verdict import Verdict
from streaming.dotenv import load_dotenv
from tests.answering import answering
from tests.live import ROOT, Call, free_port, scripted
from tests.redis_server import redis_server
from tests.relay.support import DONE, FINISH, token_chunk

SECRET = "sk-very-secret"


def one_token(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("Hi") + FINISH + DONE)
    call.finish()


def refusing(status: int, body: bytes = b"{}") -> Callable[[Call], None]:
    return lambda call: call.answer(status, body)


def truncating(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("Hi"))
    call.finish()


def breaking_off(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("Hi"))
    call.connection.close()


def falling_silent(call: Call) -> None:
    call.start()
    call.await_close()


def settings(url: str, **more: str) -> dict[str, str]:
    return {"UPSTREAM": "openai", "UPSTREAM_URL": url, "UPSTREAM_MODEL": "m1", "UPSTREAM_API_KEY": SECRET, **more}


def examined(**environment: str) -> dict[str, Verdict]:
    found = list(examine_settings(lambda: environment, _dialect))
    assert SECRET not in str(found)
    return {verdict.check: verdict for verdict in found}


def test_a_good_upstream_is_asked_for_one_token() -> None:
    with scripted(one_token) as upstream:
        found = examined(**settings(upstream.url))
        (call,) = upstream.calls
    assert {name: verdict.state for name, verdict in found.items()} == {"settings": "ok", "upstream openai": "ok"}
    assert found["upstream openai"].says.startswith("m1 streams, after ")
    asked = json.loads(call.body)
    assert (asked["model"], asked["max_tokens"], asked["stream"]) == ("m1", 1, True)
    assert call.headers["authorization"] == f"Bearer {SECRET}"


MODEL_NOT_FOUND = b'{"error":{"message":"The model `m1` does not exist","code":"model_not_found"}}'


@pytest.mark.parametrize(
    ("script", "code", "fix"),
    [
        pytest.param(refusing(401), "upstream_auth", "UPSTREAM_API_KEY", id="key"),
        pytest.param(refusing(404, MODEL_NOT_FOUND), "upstream_rejected", "UPSTREAM_MODEL", id="model"),
        pytest.param(refusing(429), "upstream_busy", "limits", id="busy"),
        pytest.param(truncating, "upstream_truncated", "own log", id="ends too early"),
        pytest.param(breaking_off, "upstream_truncated", "own log", id="breaks off"),
        pytest.param(falling_silent, "upstream_timeout", "IDLE_TIMEOUT_SECONDS", id="falls silent"),
        pytest.param(refusing(200, b"<html>"), "upstream_invalid", "UPSTREAM_URL", id="no stream"),
        pytest.param(lambda call: call.connection.close(), "upstream_unreachable", "UPSTREAM_URL", id="hangs up"),
    ],
)
def test_an_upstream_that_will_not(script: Callable[[Call], None], code: str, fix: str) -> None:
    with scripted(script) as upstream:
        verdict = examined(**settings(upstream.url, IDLE_TIMEOUT_SECONDS="0.5"))["upstream openai"]
    assert verdict.state == "fail"
    assert verdict.says.startswith(f"{code}: ")
    assert fix in verdict.fix


def test_nothing_listens_and_nothing_is_said() -> None:
    verdict = examined(**settings(f"http://127.0.0.1:{free_port()}"))["upstream openai"]
    assert verdict.says.startswith("upstream_unreachable: ")
    with scripted(lambda call: call.await_close()) as upstream:
        verdict = examined(**settings(upstream.url, IDLE_TIMEOUT_SECONDS="0.2"))["upstream openai"]
    assert verdict.says.startswith("upstream_timeout: ")


def test_a_proxy_of_the_environment_is_not_used_as_the_relay_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with scripted(one_token) as upstream:
        assert examined(**settings(upstream.url))["upstream openai"].state == "ok"


def test_a_certificate_that_the_operator_trusts_is_trusted_as_by_the_relay(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with answering([head + token_chunk("Hi") + FINISH + DONE], certificate, closes=True) as (url, _):
        assert examined(**settings(url))["upstream openai"].says.startswith("upstream_unreachable: ")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert examined(**settings(url))["upstream openai"].state == "ok"


def test_a_dify_app_is_not_asked_a_question() -> None:
    form = {"user_input_form": [{"text-input": {"variable": "topic", "label": "Topic", "required": True}}]}
    with scripted(lambda call: call.answer(200, json.dumps(form).encode())) as upstream:
        found = examined(UPSTREAM="dify", UPSTREAM_URL=upstream.url, UPSTREAM_API_KEY=SECRET)
        assert [(call.method, call.path) for call in upstream.calls] == [("GET", "/v1/parameters")]
        assert found["upstream dify"].says.startswith("the key is taken; each question needs inputs: topic, after ")
        upstream.script = refusing(401, b'{"code":"unauthorized"}')
        refused = examined(UPSTREAM="dify", UPSTREAM_URL=upstream.url, UPSTREAM_API_KEY=SECRET)["upstream dify"]
    assert (refused.state, refused.says.partition(":")[0]) == ("fail", "upstream_auth")


def test_every_upstream_of_a_file_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "upstreams.toml"
    table = '[[upstream]]\nname = "{}"\ndialect = "openai"\nurl = "{}"\nmodel = "m"\n'
    with scripted(one_token) as good, scripted(refusing(401)) as bad:
        file.write_text(table.format("one", good.url) + table.format("two", bad.url))
        found = examined(UPSTREAMS_FILE=str(file))
    assert (found["upstream one"].state, found["upstream two"].state) == ("ok", "fail")


def test_settings_that_are_wrong_are_all_named_and_nothing_else_is_tried() -> None:
    found = list(examine_settings(lambda: {"UPSTREAM": "openai", "PORT": "x", "RETRY_MS": "1"}, _dialect))
    assert {(verdict.check, verdict.state) for verdict in found} == {("settings", "fail")}
    said = " ".join(verdict.says for verdict in found)
    assert [name for name in ("PORT", "RETRY_MS", "UPSTREAM_MODEL") if name not in said] == []


def test_an_env_file_that_cannot_be_read_is_a_verdict_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("no setting\n")
    (verdict,) = examine_settings(lambda: load_dotenv(tmp_path / ".env", {}), _dialect)
    assert (verdict.check, verdict.state) == ("settings", "fail")
    assert "line 1" in verdict.says


def test_a_misspelt_setting_and_the_demo_are_warnings() -> None:
    found = list(examine_settings(lambda: {"HEARTBEAT_SECOND": "5"}, _dialect))
    assert [verdict.state for verdict in found] == ["warn", "ok", "warn"]
    assert "did you mean HEARTBEAT_SECONDS?" in found[0].says
    assert "demo" in found[2].check


def test_the_shared_store_answers_or_does_not() -> None:
    with redis_server() as redis:
        assert examined(REDIS_URL=redis.url)["store"].state == "ok"
    verdict = examined(REDIS_URL=redis.url)["store"]
    assert (verdict.state, "REDIS_URL does not answer" in verdict.says) == ("fail", True)


def test_the_command_reads_the_environment_and_fails_for_machines() -> None:
    command = [sys.executable, "-m", "flask", "--app", "app", "doctor", "--local", "--json"]
    with scripted(refusing(401)) as upstream:
        environment = {"PATH": "/usr/bin:/bin", **settings(upstream.url)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50)
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr, told["ok"]) == (1, "", False)
    assert {each["check"]: each["state"] for each in told["checks"]} == {"settings": "ok", "upstream openai": "fail"}
    assert SECRET not in done.stdout
