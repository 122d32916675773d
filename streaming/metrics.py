"""Metrics for Prometheus: what happened, and how full each process is. docs/operating.md lists them.

Several workers of one gunicorn master count together through files in PROMETHEUS_MULTIPROC_DIR. prometheus_client looks
for that variable when it is imported, so this module is imported where the worker is put together, not before.
No label says who asked, what, or in which run: label values are few and known beforehand.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from streaming.relay import observing
from streaming.relay.levels import Levels
from streaming.relay.observing import Happening
from streaming.relay.pace import GAP_BOUNDS_SECONDS, Pace
from streaming.wire.errors import FAILURES

FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 60)  # 0.8: deploy/alerts.yml warns there
RUN_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)  # answers take seconds, agents minutes
STOP_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5)  # 1: what is promised; 3: how long a Dify app may take
REDIS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2)  # 2: then it counts as away
REASONS = ("done", "stopped", "paused", "abandoned", "interrupted")  # and "error", which has a code
BREAKER_STATES = ("closed", "half_open", "open")


class GapHistogram(Histogram):
    """A histogram that takes a whole run's gaps at once: one call each would cost more than relaying a token."""

    def add(self, pace: Pace) -> None:
        """Add the gaps of a run."""
        self._sum.inc(pace.total_seconds)
        for bucket, count in zip(self._buckets, pace.gaps, strict=True):
            if count:
                bucket.inc(count)


class Metrics:
    """An observer (observing.Observer) that counts. `upstreams`: their names, `directory`: where several workers count,
    None = there is one."""

    def __init__(self, upstreams: Iterable[str], directory: str | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each one, which nobody reads
        self._directory = directory
        self._registry = registry = CollectorRegistry()
        self._define_runs(registry)
        self._define_traffic(registry)
        self._define_levels(registry)
        self._begin_at_zero(upstreams)
        self._takers: dict[type[Happening], Callable[[Any], None]] = {
            observing.RunEnded: self._run_ended,
            observing.UpstreamCalled: self._upstream_called,
            observing.Resumed: lambda told: self._resumes(told.result).inc(),
            observing.Streamed: lambda told: self._sent_bytes(told.format).inc(told.size_bytes),
            observing.Heartbeat: lambda told: self._heartbeats.inc(),
            observing.SlowClientDropped: lambda told: self._dropped.inc(),
            observing.Refused: lambda told: self._refusals(told.endpoint or "none", told.code).inc(),
            observing.DigestMismatched: lambda told: self._mismatches.inc(),
            observing.RedisAnswered: self._redis_answered,
        }

    def __call__(self, happening: Happening) -> None:
        """Count it."""
        self._takers[type(happening)](happening)

    def _begin_at_zero(self, upstreams: Iterable[str]) -> None:
        """Show what has not happened yet: a rate needs a zero to rise from, or it misses the first time."""
        for upstream in upstreams:
            for reason in REASONS:
                self._runs(upstream, reason, "")
            for code in FAILURES:
                self._runs(upstream, "error", code)
                self._calls(upstream, code)
            self._calls(upstream, "accepted")
            self._retries(upstream)
        for result in ("followed", "over", "lost"):
            self._resumes(result)

    def _define_runs(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help_: str, *labels: str) -> Any:
            return cache(Counter(name, help_, labels, registry=registry).labels)

        def histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Any:
            return cache(Histogram(name, help_, labels, buckets=buckets, registry=registry).labels)

        self._runs = counter("sluice_runs_total", "Runs that ended.", "upstream", "reason", "code")
        self._tokens = counter("sluice_tokens_total", "Tokens paid for.", "upstream", "kind", "exact")
        self._answer_bytes = counter("sluice_answer_bytes_total", "Bytes of the answers' texts.", "upstream")
        self._calls = counter("sluice_upstream_calls_total", "Calls of upstreams for runs.", "upstream", "result")
        self._retries = counter("sluice_retries_total", "Calls after a first one had failed.", "upstream")
        self._first_token = histogram(
            "sluice_first_token_seconds", "From a run's start to its first text.", FIRST_TOKEN_SECONDS, "upstream"
        )
        self._run_seconds = histogram("sluice_run_seconds", "From a run's start to its end.", RUN_SECONDS, "upstream")
        self._stop_seconds = histogram(
            "sluice_stop_seconds", "From a stop to the run's end.", STOP_SECONDS, "upstream", "upstream_stop"
        )
        gaps = GapHistogram(
            "sluice_token_gap_seconds",
            "Between two pieces of a run's text.",
            ["upstream"],
            buckets=GAP_BOUNDS_SECONDS,
            registry=registry,
        )
        self._gaps = cache(gaps.labels)

    def _define_traffic(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help_: str, *labels: str) -> Any:
            return Counter(name, help_, labels, registry=registry)

        self._resumes = cache(counter("sluice_resumes_total", "Clients that came back for a run.", "result").labels)
        self._refusals = cache(counter("sluice_refusals_total", "Refused requests.", "endpoint", "code").labels)
        self._sent_bytes = cache(
            counter("sluice_sent_bytes_total", "Bytes of finished streams, before compression.", "format").labels
        )
        self._heartbeats = counter("sluice_heartbeats_total", "Signs of life sent in silence.")
        self._dropped = counter("sluice_slow_clients_dropped_total", "Clients dropped because they took nothing.")
        self._mismatches = counter("sluice_digest_mismatches_total", "Pages whose text was not the answer.")
        self._redis_commands = counter("sluice_redis_commands_total", "Commands that Redis answered.")
        self._redis_seconds = Histogram(
            "sluice_redis_round_trip_seconds",
            "From sending commands together to their replies.",
            buckets=REDIS_SECONDS,
            registry=registry,
        )

    def _define_levels(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, help_: str, *labels: str, mode: Any = "livesum") -> Gauge:
            return Gauge(name, help_, labels, registry=registry, multiprocess_mode=mode)

        self._unfinished = gauge("sluice_runs_unfinished", "Runs that go on.")
        self._runs_limit = gauge("sluice_runs_limit", "As many may go on at a time (MAX_RUNS).")
        self._subscribers = gauge("sluice_subscribers", "Connections that follow a run.")
        self._connections = gauge("sluice_connections", "Open connections of clients.")
        self._connections_limit = gauge("sluice_connections_limit", "From this many on, new runs are refused.")
        self._log_bytes = gauge("sluice_log_bytes", "Memory that the runs' logs take.")
        self._log_limit = gauge("sluice_log_limit_bytes", "What they may take (LOG_MAX_BYTES).")
        self._breakers = gauge("sluice_breakers", "Workers whose breaker is in this state.", "upstream", "state")
        self._redis_lag = gauge(
            "sluice_redis_lag_seconds", "For how long the oldest event waits for Redis.", mode="livemax"
        )

    # -- what happened ---------------------------------------------------------------------------------------------

    def _run_ended(self, told: observing.RunEnded) -> None:
        upstream, end = told.upstream, told.end
        self._runs(upstream, end.reason, end.error.code if end.error else "").inc()
        if end.timing is not None and end.timing.total is not None:
            self._run_seconds(upstream).observe(end.timing.total / 1000)
            if end.timing.first_token is not None:
                self._first_token(upstream).observe(end.timing.first_token / 1000)
        if end.digest is not None:
            self._answer_bytes(upstream).inc(end.digest.bytes)
        if end.usage is not None:
            exact = "true" if end.usage.exact else "false"
            for kind, count in (("prompt", end.usage.prompt_tokens), ("completion", end.usage.completion_tokens)):
                if count:
                    self._tokens(upstream, kind, exact).inc(count)
        if told.stop_seconds is not None:
            self._stop_seconds(upstream, end.upstream_stop or "none").observe(told.stop_seconds)
        self._gaps(upstream).add(told.pace)

    def _upstream_called(self, told: observing.UpstreamCalled) -> None:
        self._calls(told.upstream, told.result).inc()
        if told.is_retry:
            self._retries(told.upstream).inc()

    def _redis_answered(self, told: observing.RedisAnswered) -> None:
        self._redis_commands.inc(told.commands)
        self._redis_seconds.observe(told.seconds)

    # -- how full it is --------------------------------------------------------------------------------------------

    def measure(self, levels: Levels, connections: int, connections_limit: int) -> None:
        """Take note of how full this process is; a scrape may be answered by any other worker."""
        self._unfinished.set(levels.runs)
        self._runs_limit.set(levels.runs_limit)
        self._subscribers.set(levels.subscribers)
        self._connections.set(connections)
        self._connections_limit.set(connections_limit)
        self._log_bytes.set(levels.log_bytes)
        self._log_limit.set(levels.log_limit_bytes)
        self._redis_lag.set(levels.redis_lag_seconds)
        for upstream, now in levels.breakers.items():
            for state in BREAKER_STATES:
                self._breakers.labels(upstream, state).set(state == now)

    def exposition(self) -> tuple[bytes, str]:
        """Return all metrics of all workers in Prometheus' text format, and its media type."""
        registry = self._registry
        if self._directory is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, self._directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
