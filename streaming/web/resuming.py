"""Where a subscriber goes on: cursors in headers and queries, and the answer for a run that is lost."""

import msgspec
from flask import Request, Response

from streaming.relay.observing import Observer, Resumed
from streaming.relay.run import Run
from streaming.relay.runs import is_run_id
from streaming.web.asking import header, query
from streaming.web.streams import StreamSettings, make_format, streaming_response
from streaming.wire.errors import Refusal
from streaming.wire.events import LOST_END_SKIP, End, Entry
from streaming.wire.formats import writes

GONE = {"run_not_found", "run_expired", "other_instance"}
MAX_SEQ_DIGITS = 15  # more than any log holds; int() of a longer text would only cost time


def last_event_id(request: Request) -> str:
    """Return the header, or its query twin for clients that cannot set one; "" = a new stream."""
    return header(request, "Last-Event-ID") or query(request).get("last_event_id", "")


def came_back(run: Run, after: int, observer: Observer) -> None:
    """Take note of a client that goes on with a run."""
    run.resumes += 1
    observer(Resumed(result="over" if run.ended and after >= run.last_seq else "followed"))


def found_nothing(refusal: Refusal, observer: Observer) -> None:
    """Take note of a client that came back for a run which is gone."""
    if refusal.code in GONE:
        observer(Resumed(result="lost"))


def stream_cursor(text: str) -> tuple[str, int]:
    """Return run id and `seq` of a cursor on /stream, where the URL does not name the run. Raises Refusal."""
    run_id, dot, seq = text.rpartition(".")
    if not dot or not is_run_id(run_id):
        raise Refusal("bad_cursor", "A cursor on this route is '<run_id>.<seq>'.")
    return run_id, _seq(seq)


def events_cursor(request: Request, run: Run) -> int:
    """Return where /runs/<id>/events goes on: the larger of `?after=` and Last-Event-ID, 0 = the start.

    Raises Refusal for what is no cursor, another run's, or beyond a live log.
    """
    return goes_on(run, query(request).get("after", ""), last_event_id(request))


def goes_on(run: Run, *cursors: str) -> int:
    """Return where a subscriber of the run goes on: the larger cursor, "" = the start. Raises Refusal as above."""
    after = max((_of_run(text, run) for text in cursors if text), default=0)
    if not run.has(after):
        raise Refusal("bad_cursor", "The cursor lies beyond the run's last event.")
    return after


def _of_run(text: str, run: Run) -> int:
    run_id, dot, seq = text.rpartition(".")
    if dot and run_id != run.id:
        raise Refusal("bad_cursor", "The cursor belongs to another run.")
    return _seq(seq)


def _seq(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_SEQ_DIGITS):
        raise Refusal("bad_cursor", "A cursor is '<seq>' or '<run_id>.<seq>', with a whole number.")
    return int(text)


def lost(refusal: Refusal, run_id: str, after: int, name: str, settings: StreamSettings) -> Response:
    """Answer a resume of a run that is gone: EventSource cannot read a status, so its `end` says it.

    The end's id lies far beyond the cursor; when EventSource comes back with it, the answer is 204. Formats without
    a place for an `end` raise the refusal.
    """
    if refusal.code == "store_unavailable" or name in {"text", "json"}:
        return come_back(refusal, run_id, name, settings)
    if after >= LOST_END_SKIP and name == "sse":
        return Response(status=204)
    end = End(reason="interrupted")
    entries = [Entry(after + LOST_END_SKIP, end.type, msgspec.json.encode(end))]
    format_ = make_format(name, settings, f"{run_id}.")
    return streaming_response(writes(format_, entries, format_.opening()), format_, run_id)


def come_back(refusal: Refusal, run_id: str, name: str, settings: StreamSettings) -> Response:
    """Answer a resume that cannot be served now, with an empty stream: EventSource gives up for good at a status.

    Only the shared store being away is such a case, and SSE such a format; else the refusal is raised.
    """
    if refusal.code != "store_unavailable" or name != "sse":
        raise refusal
    format_ = make_format(name, settings, "")
    return streaming_response(iter([format_.opening()]), format_, run_id)
