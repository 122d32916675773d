"""Contradictions are found, and the defaults have none."""

import pytest

from streaming.doctor.settings import contradictions
from streaming.settings import Settings


def test_the_defaults_do_not_contradict_themselves() -> None:
    (verdict,) = contradictions(Settings.from_env({}))
    assert verdict.state == "ok"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WEB_CONCURRENCY": "2"}, ["WEB_CONCURRENCY=2", "REDIS_URL"]),
        ({"DISCONNECT_GRACE_SECONDS": "2"}, ["DISCONNECT_GRACE_SECONDS=2", "RETRY_MS=2000"]),
        ({"STREAM_MAX_SECONDS": "10"}, ["STREAM_MAX_SECONDS=10", "HEARTBEAT_SECONDS=15"]),
        ({"PROGRESS_TIMEOUT_SECONDS": "30"}, ["PROGRESS_TIMEOUT_SECONDS=30", "IDLE_TIMEOUT_SECONDS=60"]),
        ({"RUN_MAX_SECONDS": "30"}, ["RUN_MAX_SECONDS=30", "IDLE_TIMEOUT_SECONDS=60"]),
        ({"CONVERSATION_TTL_SECONDS": "60"}, ["CONVERSATION_TTL_SECONDS=60", "RUN_MAX_SECONDS=600"]),
        ({"FLUSH_MS": "3000"}, ["FLUSH_MS=3000"]),
        ({"COMPRESS": "all"}, ["COMPRESS=all", "COMPRESS=auto"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_contradiction_is_named_with_both_settings_and_a_fix(environment: dict[str, str], named: list[str]) -> None:
    (verdict,) = contradictions(Settings.from_env(environment))
    assert (verdict.state, bool(verdict.fix)) == ("warn", True)
    assert [name for name in named if name not in verdict.says + verdict.fix] == []


def test_two_workers_that_share_a_store_are_fine() -> None:
    (verdict,) = contradictions(Settings.from_env({"WEB_CONCURRENCY": "2", "REDIS_URL": "redis://127.0.0.1/0"}))
    assert verdict.state == "ok"
