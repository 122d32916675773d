"""The HTTP interface to runs."""

from flask import Blueprint, Request, Response

from streaming.relay.observing import DigestMismatched
from streaming.relay.run import Run
from streaming.web import resuming
from streaming.web.accepting import wants_page
from streaming.web.admission import admitted_caller
from streaming.web.asking import query, read_ask, read_body, read_flush_ms
from streaming.web.bodies import Health, Readiness, Started, StillRunning
from streaming.web.look import look_of
from streaming.web.page import answer_page, refused_page
from streaming.web.relay import current_relay, current_request
from streaming.web.streams import json_answer, json_response, negotiated, respond, subscribed
from streaming.wire.ask import AskError
from streaming.wire.errors import Refusal

STOP_WAIT_SECONDS = 5.0
COME_BACK_SECONDS = 2  # Retry-After of a 202
PURPOSES = ("HTTP_SEC_PURPOSE", "HTTP_PURPOSE", "HTTP_X_MOZ")

routes = Blueprint("relay", __name__)


@routes.route("/stream", methods=["GET", "POST"])
def stream() -> Response:
    """Start a run and stream it, or resume the run that Last-Event-ID names; never both."""
    request = current_request()
    refuse_what_nobody_reads(request)
    cursor = resuming.last_event_id(request)
    return _resume(request, cursor) if cursor else _start_stream(request)


def _resume(request: Request, cursor: str) -> Response:
    relay, name, flush_ms = current_relay(), negotiated(request), read_flush_ms(request)
    read_body(request)  # unread, it would look like a client that goes on talking, and its leaving would go unseen
    run_id, after = resuming.stream_cursor(cursor)
    try:
        run = relay.runs.get(run_id)
    except Refusal as refusal:
        resuming.found_nothing(refusal, relay.observer)
        return resuming.lost(refusal, run_id, after, name, relay.stream_settings)
    if not run.has(after):
        raise Refusal("bad_cursor", "The cursor lies beyond the run's last event.")
    resuming.came_back(run, after, relay.observer)
    return respond(run, after, name, relay.stream_settings, f"{run.id}.", flush_ms)


def _start_stream(request: Request) -> Response:
    relay, name = current_relay(), negotiated(request)
    caller, ask = admitted_caller(), read_ask(request)
    if ask.response_mode == "blocking":
        name = "json"
    run = relay.runs.start(ask, caller)
    return respond(run, 0, name, relay.stream_settings, f"{run.id}.", ask.flush_ms)


@routes.post("/chat")
def chat() -> Response:
    """Ask and wait for the whole answer; a browser's form gets a page."""
    relay, request = current_relay(), current_request()
    try:
        caller = admitted_caller(visitors_too=True)
        run = relay.runs.start(read_ask(request), caller)
    except (Refusal, AskError) as refused:
        if wants_page(request.environ):
            return refused_page(refused)
        raise
    with subscribed(run) as cursor:
        ended = run.wait_end(relay.chat_wait_seconds)
        cursor.close(by_us=True)
    if not ended and run.presence is not None:
        run.presence.soften()
    if wants_page(request.environ):  # to an address of its own: reloading the form's answer would ask again
        return _to_page(request, run)
    return json_answer(run.answer()) if ended else _come_back(run)


def _to_page(request: Request, run: Run) -> Response:
    """Send a browser to the run's page, in the same look."""
    return Response(status=303, headers={"Location": f"/runs/{run.id}{look_of(request).asked}", "X-Run-Id": run.id})


def _come_back(run: Run) -> Response:
    response = json_response(StillRunning(run_id=run.id, conversation_id=run.turn.conversation_id), 202)
    response.headers["Location"] = f"/runs/{run.id}"
    response.headers["Retry-After"] = str(COME_BACK_SECONDS)
    response.headers["X-Run-Id"] = run.id
    return response


@routes.post("/runs")
def start() -> Response:
    """Start a run and say where it can be followed and stopped."""
    caller = admitted_caller(visitors_too=True)
    run = current_relay().runs.start(read_ask(current_request()), caller)
    body = Started(
        run_id=run.id,
        conversation_id=run.turn.conversation_id,
        events_url=f"/runs/{run.id}/events",
        stop_url=f"/runs/{run.id}/stop",
    )
    response = json_response(body, 201)
    response.headers["Location"] = f"/runs/{run.id}"
    response.headers["X-Run-Id"] = run.id
    return response


@routes.get("/runs/<run_id>/events")
def events(run_id: str) -> Response:
    """Follow a run from any point, in any format."""
    relay, request = current_relay(), current_request()
    refuse_what_nobody_reads(request)
    read_body(request)
    try:
        run = relay.runs.get(run_id)
    except Refusal as refusal:
        resuming.found_nothing(refusal, relay.observer)
        return resuming.come_back(refusal, run_id, negotiated(request), relay.stream_settings)
    after, flush_ms = resuming.events_cursor(request, run), read_flush_ms(request)
    if after:
        resuming.came_back(run, after, relay.observer)
    return respond(run, after, negotiated(request), relay.stream_settings, flush_ms=flush_ms)


@routes.get("/runs/<run_id>")
def snapshot(run_id: str) -> Response:
    """Return what there is so far."""
    relay, request = current_relay(), current_request()
    run = relay.runs.get(run_id)
    if query(request).get("mismatch") == "1":  # our page found that its text was not the answer
        relay.observer(DigestMismatched())
    if run.presence is not None:
        run.presence.seen()
    if wants_page(request.environ):
        return answer_page(run)
    return json_response(run.answer().as_snapshot())


@routes.post("/runs/<run_id>/stop")
def stop(run_id: str) -> Response:
    """Stop a run and return its end; 202 where the upstream takes its time."""
    run = current_relay().runs.get(run_id)
    run.end_early("stopped")
    ended = run.wait_end(STOP_WAIT_SECONDS)
    request = current_request()
    if wants_page(request.environ):
        return _to_page(request, run)
    if not ended:
        return _come_back(run)
    return json_response(run.end)


@routes.get("/healthz")
def healthz() -> Response:
    """Alive: no I/O, the same while draining."""
    return json_response(Health())


@routes.get("/readyz")
def readyz() -> Response:
    """Ready for new runs; 503 while draining or starting.

    A shared store that is away is told with 200: it is away for all workers, and what runs here can still be read.
    """
    runs = current_relay().runs
    status = 503 if runs.state in {"draining", "starting"} else 200
    return json_response(Readiness(status=runs.state, runs=runs.counts()), status)


def refuse_what_nobody_reads(request: Request) -> None:
    """A HEAD or a prefetch would cost a generation, or a subscriber, that nobody looks at."""
    if request.method == "HEAD":
        raise Refusal("method_not_allowed", "HEAD is not answered here: it would cost a generation.")
    environ = request.environ
    purposes = [environ[name] for name in PURPOSES if name in environ]
    if any("prefetch" in purpose or "prerender" in purpose for purpose in purposes):
        raise Refusal("forbidden", "Prefetching is not answered here: it would cost a generation.")
