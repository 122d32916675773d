"""What is counted of each happening, and that Prometheus' own linter has nothing to say about it."""

import subprocess
import timeit
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from streaming.metrics import GapHistogram, Metrics
from streaming.relay.levels import Levels
from streaming.relay.observing import (
    DigestMismatched,
    Happening,
    Heartbeat,
    RedisAnswered,
    Refused,
    Resumed,
    RunEnded,
    SlowClientDropped,
    Streamed,
    UpstreamCalled,
    each_of,
)
from streaming.relay.pace import GAP_BOUNDS_SECONDS, Pace
from streaming.wire.events import Digest, End, EndError, Timing, Usage

LEVELS = Levels(
    runs=1,
    runs_limit=2,
    subscribers=3,
    log_bytes=4,
    log_limit_bytes=5,
    breakers={"u": "half_open"},
    redis_lag_seconds=6.5,
)


def run_ended(**changes: Any) -> RunEnded:
    """Return a run that was stopped and knew everything about itself."""
    end = End(
        reason="stopped",
        usage=Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7, exact=False),
        digest=Digest(bytes=10, crc32="00000000"),
        upstream_stop="closed",
        timing=Timing(headers=10.0, first_token=700.0, total=1500.0),
    )
    return RunEnded(
        run_id="run",
        owner="someone",
        request_id="asked",
        trace=None,
        upstream="u",
        dialect="openai",
        model="m",
        tries=2,
        resumes=1,
        began=0.0,
        stop_seconds=0.2,
        pace=Pace(),
        end=msgspec.structs.replace(end, **changes),
    )


HAPPENINGS: list[Happening] = [
    run_ended(),
    UpstreamCalled(upstream="u", result="accepted", is_retry=True),
    Resumed(result="followed"),
    Streamed(format="sse", size_bytes=100),
    Heartbeat(),
    SlowClientDropped(),
    Refused(code="bad_request", status=400, endpoint="relay.stream", request_id="asked"),
    DigestMismatched(),
    RedisAnswered(commands=3, seconds=0.004),
]


def exposition(*happenings: Happening) -> str:
    """Return what is exposed after these."""
    metrics = Metrics(["u"])
    for happening in happenings:
        metrics(happening)
    metrics.measure(LEVELS, 7, 8)
    return metrics.exposition()[0].decode()


def samples(text: str) -> dict[str, float]:
    """Return the samples that are not 0, but for buckets, as `name{values}`."""
    return {
        sample.name + "{" + ",".join(value for _, value in sorted(sample.labels.items())) + "}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value and not sample.name.endswith("_bucket")
    }


def test_every_kind_of_happening_is_counted() -> None:
    assert {type(happening) for happening in HAPPENINGS} == set(Happening.__subclasses__())
    assert samples(exposition(*HAPPENINGS)) == {
        "sluice_runs_total{,stopped,u}": 1,
        "sluice_tokens_total{false,prompt,u}": 3,
        "sluice_tokens_total{false,completion,u}": 4,
        "sluice_answer_bytes_total{u}": 10,
        "sluice_upstream_calls_total{accepted,u}": 1,
        "sluice_retries_total{u}": 1,
        "sluice_first_token_seconds_count{u}": 1,
        "sluice_first_token_seconds_sum{u}": 0.7,
        "sluice_run_seconds_count{u}": 1,
        "sluice_run_seconds_sum{u}": 1.5,
        "sluice_stop_seconds_count{u,closed}": 1,
        "sluice_stop_seconds_sum{u,closed}": 0.2,
        "sluice_resumes_total{followed}": 1,
        "sluice_refusals_total{bad_request,relay.stream}": 1,
        "sluice_sent_bytes_total{sse}": 100,
        "sluice_heartbeats_total{}": 1,
        "sluice_slow_clients_dropped_total{}": 1,
        "sluice_digest_mismatches_total{}": 1,
        "sluice_redis_commands_total{}": 3,
        "sluice_redis_round_trip_seconds_count{}": 1,
        "sluice_redis_round_trip_seconds_sum{}": 0.004,
        "sluice_runs_unfinished{}": 1,
        "sluice_runs_limit{}": 2,
        "sluice_subscribers{}": 3,
        "sluice_log_bytes{}": 4,
        "sluice_log_limit_bytes{}": 5,
        "sluice_redis_lag_seconds{}": 6.5,
        "sluice_connections{}": 7,
        "sluice_connections_limit{}": 8,
        "sluice_breakers{half_open,u}": 1,
    }


def test_a_run_that_knows_little_of_itself_counts_too() -> None:
    error = EndError(code="internal", message="", retryable=False, retry_after=None, status=500)
    little = run_ended(reason="error", error=error, usage=None, digest=None, timing=None, upstream_stop=None)
    counted = samples(exposition(msgspec.structs.replace(little, stop_seconds=None)))
    assert {name: value for name, value in counted.items() if "{" in name and "u" in name.partition("{")[2]} == {
        "sluice_runs_total{internal,error,u}": 1,
        "sluice_breakers{half_open,u}": 1,
    }


def test_what_has_not_happened_is_a_zero() -> None:
    """Or the first failure would be no increase, and no alarm."""
    text = exposition()
    assert 'sluice_runs_total{code="internal",reason="error",upstream="u"} 0.0' in text
    assert 'sluice_resumes_total{result="lost"} 0.0' in text


def test_a_runs_gaps_at_once_are_the_same_as_each_alone() -> None:
    registry, gaps, pace = CollectorRegistry(), [0.0, 2**-10, 2**-5, 0.25, 0.25, 7.0, 1024.0], Pace()
    options: dict[str, Any] = {"buckets": GAP_BOUNDS_SECONDS, "registry": registry}
    at_once, alone = GapHistogram("at_once", "", **options), Histogram("alone", "", **options)
    moments = iter([sum(gaps[:n]) for n in range(len(gaps) + 1)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("time.monotonic", lambda: next(moments))
        for _ in range(len(gaps) + 1):
            pace.token()
    at_once.add(pace)
    for gap in gaps:
        alone.observe(gap)
    (first, second) = (
        [(each.name.removeprefix(kind.name), each.labels, each.value) for each in kind.samples]
        for kind in registry.collect()
    )
    assert first == second


def test_one_observer_that_fails_harms_neither_the_run_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fails(happening: Happening) -> None:
        raise RuntimeError

    told: list[Happening] = []
    each_of(fails, told.append)(Heartbeat())
    assert told == [Heartbeat()]
    assert "could not be noted: Heartbeat" in caplog.text


def test_prometheus_own_linter_finds_nothing() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition(*HAPPENINGS),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_tokens_gap_costs_less_than_counting_it_alone() -> None:
    """Side by side in one run, so that the machine does not matter."""
    pace, alone = Pace(), Histogram("gap", "", buckets=GAP_BOUNDS_SECONDS, registry=None)
    ours, theirs = (
        min(timeit.repeat(call, number=2000, repeat=7)) for call in (pace.token, lambda: alone.observe(0.05))
    )
    assert ours < theirs
