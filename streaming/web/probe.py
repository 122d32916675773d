"""`GET /probe`: frames at known times, so that `flask doctor` can tell what a router does to a stream.

It costs no upstream call, and is sent as every stream is: the same headers, heartbeats, compression and connection.

    : resume with …           the opening of every stream
    event: start              what the doctor compares with what it sees itself
    data: {"instance":"a1B2","seq":0,…}

    id: a1B2.1                a frame: its number, and when it left (milliseconds after the start)
    data: {"seq":1,"sent_ms":0.1}

    event: end

With `Last-Event-ID` (or `?last_event_id=`) the frames go on behind it, at any instance.
"""

import time
from collections.abc import Iterator
from typing import Annotated

import msgspec
from flask import Blueprint, Response, request, stream_with_context
from gevent.event import Event as Flag
from msgspec import Meta

from streaming.relay.runs import Runs
from streaming.web.asking import query, read_body
from streaming.web.compression import Compress, compress_stream
from streaming.web.connection import send_away_on_drain, watch_peer
from streaming.web.relay import current_relay
from streaming.web.resuming import last_event_id
from streaming.web.routes import refuse_what_nobody_reads
from streaming.web.streams import STREAM_HEADERS, StreamSettings
from streaming.wire import sse
from streaming.wire.ask import AskError
from streaming.wire.errors import Refusal
from streaming.wire.formats.native import Sse

FULL_RETRY_AFTER_SECONDS = 5
MAX_SEQ_DIGITS = 6

probe = Blueprint("probe", __name__)


class Wanted(msgspec.Struct, frozen=True):
    """The query: how many frames, how far apart, and how long nothing but heartbeats comes before the second one."""

    frames: Annotated[int, Meta(ge=1, le=1000)] = 20
    interval_ms: Annotated[int, Meta(ge=10, le=5000)] = 100
    silence_seconds: Annotated[float, Meta(ge=0, le=300)] = 0.0


@probe.route("/probe", methods=["GET", "POST"])
def frames() -> Response:
    """Stream the frames."""
    refuse_what_nobody_reads(request)
    relay, wanted, after = current_relay(), _wanted(), _after(last_event_id(request))
    read_body(request)
    if not relay.probe_slots.acquire(blocking=False):
        raise Refusal("too_many_runs", "Too many probes are under way.", retry_after=FULL_RETRY_AFTER_SECONDS)
    over = Flag()
    watch = watch_peer(request.environ, lambda *, by_us: over.set(), discard=True)
    send_away_on_drain(request.environ, over.set)
    settings = relay.stream_settings
    facts = _facts(relay.runs, after, settings)
    body = _body(facts, wanted, settings, over)
    response = Response(stream_with_context(body), content_type=Sse.content_type, headers=STREAM_HEADERS)
    compress_stream(response, settings.compress, live=True)
    response.call_on_close(relay.probe_slots.release)
    if watch is not None:
        response.call_on_close(watch.close)
    return response


def _wanted() -> Wanted:
    try:
        return msgspec.convert(query(request), Wanted, strict=False)
    except msgspec.ValidationError as error:
        raise AskError(f"the query string: {error}") from None


def _after(cursor: str) -> int:
    seq = cursor.rpartition(".")[2]
    if not cursor:
        return 0
    if not (seq.isascii() and seq.isdigit() and len(seq) <= MAX_SEQ_DIGITS):
        raise Refusal("bad_cursor", "A cursor of a probe is '<instance>.<seq>'.")
    return int(seq)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What this side sees. Nothing of it is secret: run ids, headers and silences show as much.

    `seq` is the last frame that the client has, 0 = none. The settings are those of the same names.
    """

    instance: str
    shared_store: bool
    seq: int
    protocol: str
    host: str
    heartbeat_seconds: float
    stream_max_seconds: float
    retry_ms: int
    compress: Compress


def _facts(runs: Runs, after: int, settings: StreamSettings) -> Facts:
    return Facts(
        instance=runs.instance,
        shared_store=runs.shared,
        seq=after,
        protocol=request.environ["SERVER_PROTOCOL"],
        host=request.host,
        heartbeat_seconds=settings.heartbeat_seconds,
        stream_max_seconds=settings.stream_max_seconds,
        retry_ms=settings.retry_ms,
        compress=settings.compress,
    )


def _body(facts: Facts, wanted: Wanted, settings: StreamSettings, over: Flag) -> Iterator[bytes]:
    """Yield one write at a time. `over` is set when the client has gone, or should go on elsewhere."""
    format_, begun = Sse(retry_ms=settings.retry_ms), time.monotonic()
    yield format_.opening() + sse.encode(msgspec.json.encode(facts), event="start")
    for number, seq in enumerate(range(facts.seq + 1, wanted.frames + 1)):
        if number:
            silence_seconds = wanted.silence_seconds if number == 1 else 0.0
            yield from _pause(silence_seconds + wanted.interval_ms / 1000, settings.heartbeat_seconds, format_, over)
        if over.is_set():
            return
        frame = {"seq": seq, "sent_ms": round((time.monotonic() - begun) * 1000, 3)}
        yield sse.encode(msgspec.json.encode(frame), id=f"{facts.instance}.{seq}")
    yield sse.encode(b"{}", event="end")


def _pause(seconds: float, heartbeat_seconds: float, format_: Sse, over: Flag) -> Iterator[bytes]:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > heartbeat_seconds and not over.wait(heartbeat_seconds):
        yield format_.ping()
    over.wait(max(0.0, left))
