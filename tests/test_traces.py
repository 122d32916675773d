"""Spans, as a collector gets them: over HTTP, decoded by OpenTelemetry's own protobuf classes."""

import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes

from streaming.lines import hashed_run_id
from tests.live import Call, relay, scripted, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.test_operating import names_in_first_cells, section

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "S3CRET"
LATER = "3600000"  # milliseconds until spans leave by themselves: what comes before comes at the end


def answering(call: Call) -> None:
    """Answer, or fail."""
    if b"fail" in call.body:
        call.answer(500, b"{}")
        return
    call.start()
    call.chunk(token_chunk(SECRET) + FINISH + DONE)
    call.finish()


class Collector:
    """The script of a server that takes spans."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.bodies = b""
        self.resources: list[dict[str, Any]] = []
        self.spans: dict[str, Span] = {}  # by run

    def __call__(self, call: Call) -> None:
        self.paths.add(call.path)
        self.bodies += call.body
        for each in ExportTraceServiceRequest.FromString(call.body).resource_spans:
            self.resources.append(attributes_of(each.resource))
            for scope in each.scope_spans:
                self.spans |= {attributes_of(span)["sluice.run"]: span for span in scope.spans}
        call.answer(200, b"", "Content-Type: application/x-protobuf")


def attributes_of(of: Any) -> dict[str, Any]:
    found = {}
    for each in of.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


def test_each_run_is_a_span_with_the_conventions_names() -> None:
    collector = Collector()
    with scripted(answering) as upstream, scripted(collector) as at:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "LOG_FORMAT": "json"}
        otel = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{at.port}/",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_SERVICE_NAME": "chat-relay",
        }
        with relay(**settings, **otel) as server:

            def ask(prompt: str, flags: str | None) -> str:
                headers = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"} if flags else {}
                json = {"prompt": f"{prompt} {SECRET}"}
                answer = requests.post(f"{server.url}/chat", json=json, headers=headers, timeout=20)
                return hashed_run_id(answer.headers["X-Run-Id"])

            unrecorded, failed, done, root = (
                ask("hi", "00"),
                ask("fail", "01"),
                ask("hi", "01"),
                ask("hi", None),
            )
            wait_until(lambda: {failed, done, root} <= collector.spans.keys(), "the spans are there")
            told = [call.headers["traceparent"].split("-") for call in upstream.calls]

    assert unrecorded not in collector.spans
    assert told[0][3] == "00"
    assert collector.paths == {"/v1/traces"}
    assert {resource["service.name"] for resource in collector.resources} == {"chat-relay"}
    assert SECRET.encode() not in collector.bodies
    span = collector.spans[done]
    assert (span.name, span.kind, span.status.code) == ("chat m", Span.SPAN_KIND_CLIENT, Status.STATUS_CODE_UNSET)
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.span_id.hex()) == (TRACE, PARENT, told[2][2])
    found = attributes_of(span)
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk") < (span.end_time_unix_nano - span.start_time_unix_nano)
    assert found.pop("gen_ai.usage.input_tokens") > 0
    assert found.pop("gen_ai.usage.output_tokens") > 0
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ["stop"],
        "sluice.run": done,
        "sluice.upstream": "openai",
        "sluice.end_reason": "done",
        "sluice.tries": 1,
        "sluice.usage_exact": False,
    }
    assert collector.spans[failed].status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(collector.spans[failed])["error.type"] == "upstream_failed"
    assert collector.spans[root].parent_span_id == b""
    assert (collector.spans[root].trace_id.hex(), collector.spans[root].span_id.hex()) == tuple(told[3][1:3])
    names = {name for span in collector.spans.values() for name in attributes_of(span)}
    conventions = {vars(gen_ai_attributes)[name] for name in dir(gen_ai_attributes) if name.startswith("GEN_AI_")}
    assert names == names_in_first_cells(section("Traces"))
    assert {name for name in names if not name.startswith("sluice.")} <= {*conventions, error_attributes.ERROR_TYPE}


def test_the_last_spans_leave_before_the_process_does() -> None:
    collector = Collector()
    with scripted(collector) as at:
        endpoint = f"http://127.0.0.1:{at.port}"
        with relay(UPSTREAM="demo", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY=LATER) as server:
            answer = requests.post(f"{server.url}/chat", json={"prompt": "/long 1"}, timeout=20)
            assert not collector.spans
            assert server.stop() == 0
        assert set(collector.spans) == {hashed_run_id(answer.headers["X-Run-Id"])}


def test_a_collector_that_hangs_holds_nobody() -> None:
    over = threading.Event()
    with scripted(lambda call: over.wait(60)) as at:
        endpoint = f"http://127.0.0.1:{at.port}"
        with relay(UPSTREAM="demo", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="50") as server:
            for _ in range(2):
                requests.post(f"{server.url}/chat", json={"prompt": "/long 1"}, timeout=20)
            at.next_call()
            assert server.stop() == 0
        over.set()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", ""])
def test_without_the_extra_the_relay_runs_without_traces(tmp_path: Path, endpoint: str) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError")
    with relay(UPSTREAM="demo", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, PYTHONPATH=str(tmp_path)) as server:
        assert requests.post(f"{server.url}/chat", json={"prompt": "/long 1"}, timeout=20).ok
        assert ("OpenTelemetry is not installed" in server.log()) is bool(endpoint)
