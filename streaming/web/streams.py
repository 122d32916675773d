"""A run -> a streaming HTTP response, in any of the native formats."""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec
from flask import Request, Response, request, stream_with_context

from streaming.relay.cursor import Cursor
from streaming.relay.observing import Heartbeat, Observer, Streamed
from streaming.relay.run import Run
from streaming.web.accepting import preferred
from streaming.web.asking import query
from streaming.web.compression import Compress, compress_stream
from streaming.web.connection import PeerWatch, reset_on_close, send_away_on_drain, watch_peer
from streaming.web.outlet import Outlet
from streaming.wire.answer import Answer
from streaming.wire.errors import Refusal
from streaming.wire.formats import HAPPY_ENDS, BodyAborted, Format, writes
from streaming.wire.formats.native import Ndjson, Sse, Text

log = logging.getLogger(__name__)

MEDIA_TYPES = {
    "text/event-stream": "sse",
    "application/x-ndjson": "ndjson",
    "application/json": "json",
    "text/plain": "text",
}
"""In the order that counts where a client likes several the same, as axios does: application/json, text/plain, */*."""

FORMATS = tuple(MEDIA_TYPES.values())
STREAM_HEADERS = {
    # no-transform keeps edges from compressing, and so from holding back; the next one is nginx's own switch.
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",
}


JSON_FIELDS = {"Content-Type": "application/json", "Cache-Control": "no-store"}


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the same names, and who is told. `stream_max_seconds` 0 = a stream is never rolled over."""

    heartbeat_seconds: float
    retry_ms: int
    stream_max_seconds: float
    flush_ms: int
    compress: Compress
    observer: Observer


def negotiated(request: Request) -> str:
    """Return the format that `?format=` or `Accept` asks for, SSE where neither does. Raises Refusal."""
    asked = query(request).get("format")
    if asked is None:
        media_type = preferred(request.headers.get("Accept", ""), tuple(MEDIA_TYPES))
        return MEDIA_TYPES[media_type] if media_type else "sse"
    if asked not in FORMATS:
        raise Refusal("bad_request", f"parameter 'format': allowed are {', '.join(FORMATS)}.")
    return asked


def make_format(name: str, settings: StreamSettings, id_prefix: str) -> Format:
    """Return the encoder of a format other than json. `id_prefix` goes before SSE's ids."""
    if name == "ndjson":
        return Ndjson()
    if name == "text":
        return Text()
    return Sse(id_prefix=id_prefix, retry_ms=settings.retry_ms)


def respond(
    run: Run, after: int, name: str, settings: StreamSettings, id_prefix: str = "", flush_ms: int | None = None
) -> Response:
    """Return a response that follows the run from behind event `after`; `flush_ms` as in stream_run."""
    if name == "json":
        return wait_and_answer(run)
    if run.ended and after >= run.last_seq:
        # 204 is the one answer that makes EventSource stop; elsewhere it is an empty stream.
        if name == "sse":
            return Response(status=204, headers={"X-Run-Id": run.id})
        return streaming_response(_nothing_more(run, name), make_format(name, settings, ""), run.id)
    max_seconds = 0.0 if name == "text" else settings.stream_max_seconds
    format_ = make_format(name, settings, id_prefix)
    return stream_run(run, after, format_, settings, max_seconds=max_seconds, flush_ms=flush_ms)


def stream_run(
    run: Run,
    after: int,
    format_: Format,
    settings: StreamSettings,
    *,
    max_seconds: float = 0.0,
    flush_ms: int | None = None,
) -> Response:
    """Return a response that shows the run from behind event `after`; `max_seconds` 0 = to its end.

    `flush_ms` None = as the settings say. While the body is sent, the current client is a subscriber of the run: it
    counts for `on_disconnect`.
    """
    cursor = run.follow(after, (settings.flush_ms if flush_ms is None else flush_ms) / 1000)
    if isinstance(format_, Sse | Ndjson):
        send_away_on_drain(request.environ, cursor.send_away)
    watch = watch_peer(request.environ, partial(_leave, cursor), discard=True)
    outlet = Outlet(request.environ, cursor, format_)
    body = _body(cursor, format_, outlet, settings.heartbeat_seconds, max_seconds, settings.observer)
    response = streaming_response(body, format_, run.id, on_close=partial(_leave, cursor, watch=watch))
    compress_stream(response, settings.compress, live=not run.ended)
    if not response.content_encoding:
        outlet.open()
    return response


def _nothing_more(run: Run, name: str) -> Iterator[bytes]:
    """The end was seen already. Plain text has no other way to say again that it was a bad one."""
    yield b""
    if name == "text" and run.end is not None and run.end.reason not in HAPPY_ENDS:
        raise _aborted()


def _leave(cursor: Cursor, *, by_us: bool = False, watch: PeerWatch | None = None) -> None:
    if watch is not None:
        by_us = watch.dropped
        watch.close()
    cursor.close(by_us=by_us)


@contextmanager
def subscribed(run: Run) -> Iterator[Cursor]:
    """Be a subscriber of the run inside a `with` block, as long as the client of the current request is there."""
    cursor = run.follow(run.last_seq)
    watch = watch_peer(request.environ, partial(_leave, cursor), discard=False)
    try:
        yield cursor
    finally:
        _leave(cursor, watch=watch)


def streaming_response(
    body: Iterator[bytes], format_: Format, run_id: str, on_close: Callable[[], None] | None = None
) -> Response:
    """Return a response that streams `body`. `on_close` runs even where the body was never begun."""
    headers = {**STREAM_HEADERS, "X-Run-Id": run_id}
    response = Response(stream_with_context(body), content_type=format_.content_type, headers=headers)
    if on_close is not None:
        response.call_on_close(on_close)
    return response


def _body(
    cursor: Cursor,
    format_: Format,
    outlet: Outlet,
    heartbeat_seconds: float,
    max_seconds: float,
    observer: Observer,
) -> Iterator[bytes]:
    """Yield one write at a time; gunicorn sends each at once. The first one sends the headers, whatever there is.

    What comes while it sleeps leaves by the outlet.
    """
    now = time.monotonic()
    deadline = now + max_seconds if max_seconds else float("inf")
    ping_at = now + heartbeat_seconds  # of silence, whatever events come that the format does not show
    rolled_over, sent_bytes = False, 0
    try:
        first = b""
        for first in writes(format_, cursor.read(0), format_.opening()):
            sent_bytes += len(first)
            yield first
        if not first:
            yield b""
        while not cursor.done and not rolled_over:
            entries = cursor.read(max(0.001, min(ping_at, deadline) - time.monotonic()))
            outlet.finish()
            ping_at = max(ping_at, outlet.wrote_at + heartbeat_seconds)
            write = b""
            for write in writes(format_, entries):
                sent_bytes += len(write)
                yield write
            now = time.monotonic()
            rolled_over = now >= deadline or cursor.sent_away
            silent = not write and now >= ping_at
            if write or silent:
                ping_at = now + heartbeat_seconds
            if silent and not cursor.done and not rolled_over and (ping := format_.ping()):
                observer(Heartbeat())
                yield ping
        if not cursor.complete and not rolled_over and not cursor.sent_away:
            raise BodyAborted("the client looks gone; if it only half-closed, it must not take this for an end")
    except BodyAborted:
        raise _aborted() from None
    except Exception:
        log.exception("a stream broke off inside the relay")
        raise _aborted() from None
    finally:
        cursor.close(by_us=rolled_over)
        observer(Streamed(format=format_.name, size_bytes=sent_bytes + outlet.sent_bytes))


def _aborted() -> ConnectionResetError:
    """gunicorn takes this for a client that left: it closes without the last chunk, and logs at debug level only.

    HTTP/1.0 (nginx's old default towards us) has no chunks to miss one: there the connection is reset.
    """
    if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        reset_on_close(request.environ)
    return ConnectionResetError(errno.ECONNRESET, "body aborted")


def wait_and_answer(run: Run) -> Response:
    """Wait for the run's end and return its JSON answer."""
    with subscribed(run) as cursor:
        while not cursor.done:
            cursor.read(60)
    return json_answer(run.answer())


def json_answer(answer: Answer) -> Response:
    """Return an ended run's `json` format."""
    response = json_response(answer.as_json(), answer.status())
    response.headers["X-Run-Id"] = answer.run_id
    if answer.end and answer.end.error and answer.end.error.retry_after is not None:
        response.headers["Retry-After"] = str(answer.end.error.retry_after)
    return response


def json_response(value: object, status: int = 200) -> Response:
    """Return a JSON response that nobody caches."""
    return Response(
        msgspec.json.encode(value) + b"\n",
        status,
        headers=JSON_FIELDS,
    )
