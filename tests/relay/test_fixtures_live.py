"""Every recorded answer, served over a real socket in 1-byte, random and whole writes: the same events each time."""

import random

import pytest

from streaming.relay.exchange import HttpExchange
from streaming.wire.dialects import Verdict
from streaming.wire.errors import Failure
from tests.live import Call, scripted
from tests.relay.support import Collector, exchange
from tests.wire.dialect_fixtures import UPSTREAM_URL, Fixture, event_pair, load, names, verdict_fields


def cut(data: bytes, how: str) -> list[bytes]:
    if how == "whole":
        return [data]
    if how == "bytes":
        return [data[n : n + 1] for n in range(len(data))]
    rng = random.Random(data)
    pieces, at = [], 0
    while at < len(data):
        size = rng.choice([1, 2, 3, 7, 40, 400])
        pieces.append(data[at : at + size])
        at += size
    return pieces


def outcome(call: HttpExchange) -> dict[str, object]:
    try:
        return verdict_fields(call.run())
    except Failure as failure:  # what is no JSON ends the reading at once
        return verdict_fields(Verdict(reason="error", failure=failure))


@pytest.mark.parametrize("how", ["whole", "random", "bytes"])
@pytest.mark.parametrize("name", names())
def test_a_recorded_answer_gives_the_same_events_over_a_socket(name: str, how: str) -> None:
    fixture: Fixture = load(name)

    def script(call: Call) -> None:
        call.start()
        for piece in cut(fixture.raw, how):
            call.chunk(piece)
        call.finish()

    sink = Collector()
    with scripted(script) as upstream:
        result = outcome(exchange(fixture.dialect(upstream.url), sink, context=fixture.context()))
    origin, recorded_origin = upstream.url.removesuffix("/v1"), UPSTREAM_URL.removesuffix("/v1")
    events = [
        (type_, {key: _moved(value, origin, recorded_origin) for key, value in fields.items()})
        for type_, fields in map(event_pair, sink.events)
    ]
    assert events == fixture.events
    assert result == fixture.verdict


def _moved(value: object, origin: str, recorded_origin: str) -> object:
    """A relative file URL is joined to the upstream's own address, which is another one here."""
    return value.replace(origin, recorded_origin) if isinstance(value, str) else value
