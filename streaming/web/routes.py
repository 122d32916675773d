"""The HTTP interface to runs."""

from flask import Blueprint, Request, Response, render_template, request

from streaming.relay.run import Run
from streaming.web import resuming
from streaming.web.asking import read_ask, read_body
from streaming.web.relay import current_caller, current_relay
from streaming.web.streams import json_answer, json_response, negotiated, respond, subscribed
from streaming.wire.errors import Refusal

STOP_WAIT_SECONDS = 5.0
COME_BACK_SECONDS = 2  # Retry-After of a 202

routes = Blueprint("relay", __name__)


@routes.route("/stream", methods=["GET", "POST"])
def stream() -> Response:
    """Start a run and stream it, or resume the run that Last-Event-ID names; never both."""
    _refuse_what_nobody_reads(request)
    cursor = resuming.last_event_id(request)
    return _resume(cursor) if cursor else _start_stream()


def _resume(cursor: str) -> Response:
    relay, name = current_relay(), negotiated(request)
    read_body(request)  # unread, it would look like a client that goes on talking, and its leaving would go unseen
    run_id, after = resuming.stream_cursor(cursor)
    try:
        run = relay.runs.get(run_id)
    except Refusal as refusal:
        return resuming.lost(refusal, run_id, after, name, relay.stream_settings)
    if after > run.last_seq and not run.ended:
        raise Refusal("bad_cursor", "The cursor lies beyond the run's last event.")
    return respond(run, after, name, relay.stream_settings, id_prefix=f"{run.id}.")


def _start_stream() -> Response:
    relay, name = current_relay(), negotiated(request)
    ask = read_ask(request)
    if ask.response_mode == "blocking":
        name = "json"
    run = relay.runs.start(ask, current_caller())
    return respond(run, 0, name, relay.stream_settings, id_prefix=f"{run.id}.")


@routes.post("/chat")
def chat() -> Response:
    """Ask and wait for the whole answer; a browser's form gets a page."""
    relay = current_relay()
    run = relay.runs.start(read_ask(request), current_caller())
    with subscribed(run) as cursor:
        ended = run.wait_end(relay.chat_wait_seconds)
        cursor.close(by_us=True)
    if not ended and run.presence is not None:
        run.presence.soften()
    if _wants_page(request):  # to an address of its own: reloading the form's answer would ask again
        return Response(status=303, headers={"Location": f"/runs/{run.id}", "X-Run-Id": run.id})
    return json_answer(run.answer()) if ended else _come_back(run)


def _wants_page(request: Request) -> bool:
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


def _page(run: Run) -> Response:
    """The answer for a browser without JavaScript; it refreshes itself until the end."""
    answer, question = run.answer(), run.turn.context.messages[-1].text()
    page = render_template("answer.html", answer=answer, question=question, run_id=run.id, seconds=COME_BACK_SECONDS)
    response = Response(page)
    response.headers["X-Run-Id"] = run.id
    response.headers["Cache-Control"] = "no-store"
    response.status_code = answer.status() if answer.end else 202
    return response


def _come_back(run: Run) -> Response:
    response = json_response({"run_id": run.id, "conversation_id": run.turn.conversation_id, "state": "running"}, 202)
    response.headers["Location"] = f"/runs/{run.id}"
    response.headers["Retry-After"] = str(COME_BACK_SECONDS)
    response.headers["X-Run-Id"] = run.id
    return response


@routes.post("/runs")
def start() -> Response:
    """Start a run and say where it can be followed and stopped."""
    run = current_relay().runs.start(read_ask(request), current_caller())
    body = {
        "run_id": run.id,
        "conversation_id": run.turn.conversation_id,
        "events_url": f"/runs/{run.id}/events",
        "stop_url": f"/runs/{run.id}/stop",
    }
    response = json_response(body, 201)
    response.headers["Location"] = f"/runs/{run.id}"
    response.headers["X-Run-Id"] = run.id
    return response


@routes.get("/runs/<run_id>/events")
def events(run_id: str) -> Response:
    """Follow a run from any point, in any format."""
    _refuse_what_nobody_reads(request)
    read_body(request)
    relay = current_relay()
    run = relay.runs.get(run_id)
    return respond(run, resuming.events_cursor(request, run), negotiated(request), relay.stream_settings)


@routes.get("/runs/<run_id>")
def snapshot(run_id: str) -> Response:
    """Return what there is so far."""
    run = current_relay().runs.get(run_id)
    if run.presence is not None:
        run.presence.seen()
    if _wants_page(request):
        return _page(run)
    return json_response(run.answer().as_snapshot())


@routes.post("/runs/<run_id>/stop")
def stop(run_id: str) -> Response:
    """Stop a run and return its end; 202 where the upstream takes its time."""
    run = current_relay().runs.get(run_id)
    run.end_early("stopped")
    if not run.wait_end(STOP_WAIT_SECONDS):
        return _come_back(run)
    return json_response(run.end)


@routes.get("/upstreams")
def upstreams() -> Response:
    """Return what can be asked; the first one is the default."""
    known = current_relay().runs.upstreams
    return json_response(
        {"upstreams": [{"name": each.name, "dialect": each.dialect_name, "model": each.model} for each in known]}
    )


@routes.get("/healthz")
def healthz() -> Response:
    """Alive: no I/O, the same while draining."""
    return json_response({"status": "ok"})


@routes.get("/readyz")
def readyz() -> Response:
    """Ready for new runs; 503 while draining."""
    runs = current_relay().runs
    status = "draining" if runs.draining else "ready"
    return json_response({"status": status, "runs": runs.counts()}, 503 if runs.draining else 200)


def _refuse_what_nobody_reads(request: Request) -> None:
    """A HEAD or a prefetch would cost a generation, or a subscriber, that nobody looks at."""
    if request.method == "HEAD":
        raise Refusal("method_not_allowed", "HEAD is not answered here: it would cost a generation.")
    purposes = (request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz"))
    if any("prefetch" in purpose or "prerender" in purpose for purpose in purposes):
        raise Refusal("forbidden", "Prefetching is not answered here: it would cost a generation.")
