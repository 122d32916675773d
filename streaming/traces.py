"""Traces over OTLP, for those who collect them: a span for each run, named as OpenTelemetry's GenAI conventions say.

Needs the extra `otel`; without it nothing here is imported. Made in the worker, after the fork: the exporter has a
thread, here a greenlet, which a fork would not take along.
"""

import gevent
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from streaming.lines import FAILED, hashed_run_id
from streaming.relay.observing import Happening, RunEnded
from streaming.wire.trace import Trace

CLOSE_SECONDS = 0.5  # for the last spans: a collector that is away must not hold the process


class Traces:
    """An observer (observing.Observer) that exports spans. `endpoint`: the collector's base URL, without /v1/traces.

    A run's span is made whole at its end. Its id is known from the start: the upstream was told it (wire/trace.py).
    """

    def __init__(self, endpoint: str) -> None:
        self._spans = BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
        self._resource = Resource({"service.name": "sluice"}).merge(
            OTELResourceDetector().detect()
        )  # OTEL_… is stronger
        self._scope = InstrumentationScope("sluice")

    def __call__(self, happening: Happening) -> None:
        """Export the span of a run that ended, if its trace is recorded: the processor looks at its flags."""
        if isinstance(happening, RunEnded) and happening.trace is not None:
            self._spans.on_end(self._span(happening, happening.trace))

    def close(self) -> None:
        """Export what is left, and stop."""
        with gevent.Timeout(CLOSE_SECONDS, False):
            self._spans.shutdown()  # type: ignore[no-untyped-call]

    def _span(self, run: RunEnded, trace: Trace) -> ReadableSpan:
        parent = _context(trace, trace.parent_id, is_remote=True) if trace.parent_id is not None else None
        total_ms = run.end.timing.total if run.end.timing is not None else None
        return ReadableSpan(
            name=f"chat {run.model}" if run.model else "chat",
            context=_context(trace, trace.span_id, is_remote=False),
            parent=parent,
            resource=self._resource,
            attributes=_attributes(run),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR if run.end.reason in FAILED else StatusCode.UNSET),
            start_time=int(run.began * 1e9),
            end_time=int(run.began * 1e9 + (total_ms or 0) * 1e6),
            instrumentation_scope=self._scope,
        )


def _context(trace: Trace, span_id: str, *, is_remote: bool) -> SpanContext:
    state = TraceState.from_header([trace.state]) if trace.state else None
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, TraceFlags(trace.flags), state)


def _attributes(run: RunEnded) -> dict[str, str | bool | int | float | list[str]]:
    """Return what the conventions ask for, and what only a relay knows; neither prompts nor answers."""
    end, timing, usage = run.end, run.end.timing, run.end.usage
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": run.dialect,
        "gen_ai.request.model": run.model,
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": [end.finish_reason] if end.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": timing.first_token / 1000 if timing and timing.first_token else None,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
        "error.type": end.error.code if end.error else end.reason if end.reason in FAILED else None,
        "sluice.run": hashed_run_id(run.run_id),
        "sluice.upstream": run.upstream,
        "sluice.end_reason": end.reason,
        "sluice.tries": run.tries,
        "sluice.usage_exact": usage.exact if usage else None,
    }
    return {name: value for name, value in told.items() if value is not None}
