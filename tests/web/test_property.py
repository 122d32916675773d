"""The promise, for random answers, upstream writes, cuts and formats: every character once, one upstream call."""

import json
import zlib
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.live import Call, Relay, ScriptedUpstream
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import request, sse_events

# Whatever may upset a framing: line ends of every kind, separators, NUL, halves of families, a BOM.
ODD = ["\n", "\r\n", "\r", "\u2028", "\u0085", "\0", "\ufeff", "👨‍👩‍👧", "data: x\n\n", '"}', "早上好", " "]
TEXTS = st.lists(st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=20)), min_size=1, max_size=25)


@dataclass(frozen=True)
class Visit:
    """A subscriber that reads `size_bytes` of a body in `format_name` and is then cut off."""

    format_name: str
    size_bytes: int
    by_header: bool


VISITS = st.lists(
    st.builds(
        Visit,
        format_name=st.sampled_from(["sse", "ndjson"]),
        size_bytes=st.integers(0, 1500),
        by_header=st.booleans(),
    ),
    max_size=6,
)


def complete_events(format_name: str, data: bytes) -> list[tuple[int, str, dict[str, Any]]]:
    """Return the whole events in a body that was cut anywhere."""
    if format_name == "sse":
        events = [(int(event.id), event.type, json.loads(event.data)) for event in sse_events(data)]
        return [(seq, "token" if type_ == "message" else type_, fields) for seq, type_, fields in events]
    lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].split(b"\n") if line]
    return [(line.pop("seq"), line.pop("type"), line) for line in lines if "seq" in line]


def follow(server: Relay, run_id: str, visit: Visit, after: int) -> list[tuple[int, str, dict[str, Any]]]:
    url = f"{server.url}/runs/{run_id}/events?format={visit.format_name}"
    headers = {"Last-Event-ID": str(after)} if visit.by_header else {}
    if not visit.by_header:
        url += f"&after={after}"
    with request(url, headers=headers) as response:
        if response.status == 204:
            return []
        data = b""
        for chunk in response.chunks():
            data += chunk
            if visit.size_bytes and len(data) >= visit.size_bytes:
                data = data[: visit.size_bytes]
                break
    return complete_events(visit.format_name, data)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, visits=VISITS, write_sizes=st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_whatever_is_cut_nothing_is_lost_or_doubled(
    server: Relay, upstream: ScriptedUpstream, texts: list[str], visits: list[Visit], write_sizes: list[int]
) -> None:
    wire = b"".join(map(token_chunk, texts)) + FINISH + DONE

    def script(call: Call) -> None:
        call.start()
        at = 0
        for size in write_sizes:
            if piece := wire[at : at + size]:
                call.chunk(piece)
            at += size
        if wire[at:]:
            call.chunk(wire[at:])
        call.finish()

    upstream.script = script
    upstream.calls.clear()
    with request(f"{server.url}/runs", "POST", json_body={"prompt": "hi"}) as started:
        run_id = started.json()["run_id"]
    seen: list[tuple[int, str, dict[str, Any]]] = []
    for visit in [*visits, Visit("sse", 0, by_header=True), Visit("ndjson", 0, by_header=False)]:
        seen += follow(server, run_id, visit, seen[-1][0] if seen else 0)
    text = "".join(fields["text"] for _, type_, fields in seen if type_ == "token")
    assert text == "".join(texts)
    assert [seq for seq, _, _ in seen] == list(range(1, len(seen) + 1))
    assert [type_ for _, type_, _ in seen].count("end") == 1
    end = seen[-1][2]
    assert end["reason"] == "done"
    data = text.encode()
    assert end["digest"] == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}
    with request(f"{server.url}/runs/{run_id}/events?format=text") as plain:
        assert plain.body() == data
    with request(f"{server.url}/runs/{run_id}/events?format=json") as whole:
        assert whole.json()["text"] == text
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("half", [0, 1])
def test_a_character_cut_over_two_upstream_events_arrives_whole(
    half: int, server: Relay, upstream: ScriptedUpstream
) -> None:
    def script(call: Call) -> None:
        call.start()
        for escape in (r"a\ud83d", r"\udca7b")[: 2 - half]:
            call.chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % escape.encode())
        call.chunk(FINISH + DONE)
        call.finish()

    upstream.script = script
    with request(f"{server.url}/stream?prompt=hi&format=text") as response:
        assert response.body().decode() == ("a\ufffd" if half else "a💧b")
