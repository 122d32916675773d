"""The OpenAI-compatible face: official clients work unchanged, whatever the upstream is. docs/openai.md tells it all.

An answer's headers are held back until an upstream has taken the call (or the answer is whole, without `stream`), so
that a failure has a status, which these clients turn into an exception of its class. Routers cut at 30 s of silence:
after MAX_WAIT_SECONDS the headers leave, and comments (or blank lines) follow.
"""

import time
from collections.abc import Callable

import msgspec
from flask import Blueprint, Response, request

from streaming.relay.cursor import Cursor
from streaming.relay.run import Run
from streaming.relay.upstream import Upstream
from streaming.web.admission import admitted_caller
from streaming.web.asking import header, read_json, with_key
from streaming.web.bodies import Model, Models
from streaming.web.relay import current_caller, current_relay
from streaming.web.streams import json_response, stream_run, subscribed
from streaming.wire import openai_ask
from streaming.wire.ask import Ask
from streaming.wire.dialects.openai import ANY_MODEL
from streaming.wire.errors import Refusal
from streaming.wire.events import End
from streaming.wire.formats import HAPPY_ENDS
from streaming.wire.formats.openai import Chunks, Completion, completion, failure
from streaming.wire.openai_ask import ChatRequest

MAX_WAIT_SECONDS = 20.0

openai_api = Blueprint("openai", __name__, url_prefix="/v1")


@openai_api.post("/chat/completions")
def chat_completions() -> Response:
    """Ask, and answer in chunks or as one object."""
    caller = admitted_caller()
    if request.mimetype != "application/json":
        raise Refusal("unsupported_media_type", "Send application/json.")
    asked = openai_ask.read(read_json(request), header(request, "X-Conversation-Id"))
    run = current_relay().runs.start(_ask(asked), caller)
    response = _answer(run, asked)
    response.headers["X-Run-Id"] = run.id
    if run.turn.conversation_id is not None:
        response.headers["X-Conversation-Id"] = run.turn.conversation_id
    return response


def _ask(asked: ChatRequest) -> Ask:
    upstream, model = _chosen(asked.model)
    name = None if asked.model is None else upstream.name
    ask = with_key(request, openai_ask.to_ask(asked, upstream.dialect_name, name, model))
    # Whoever sends a key means to come back with it, and must not find a cancelled run.
    return ask if ask.idempotency_key is None else msgspec.structs.replace(ask, on_disconnect="grace")


def _chosen(model: str | None) -> tuple[Upstream, str | None]:
    """Return who is asked, and for which model, None = its configured one. Raises Refusal("model_not_found")."""
    upstreams = current_relay().runs.upstreams
    if model is None:
        return upstreams[0], None
    for upstream in upstreams:
        if upstream.name == model:
            return upstream, None
    for upstream in upstreams:
        if upstream.model == model:
            return upstream, None
    for upstream in upstreams:
        if model in upstream.models or ANY_MODEL in upstream.models:
            return upstream, model
    raise Refusal("model_not_found", "Field 'model': no such model here; GET /v1/models tells which there are.")


def _answer(run: Run, asked: ChatRequest) -> Response:
    relay = current_relay()
    with subscribed(run) as cursor:  # until the response's own subscription has begun: the run must not seem deserted
        wait_seconds = min(MAX_WAIT_SECONDS, relay.chat_wait_seconds)
        _wait(cursor, (lambda: run.has(2)) if asked.stream else (lambda: run.ended), wait_seconds)
        if run.end is not None and run.end.reason not in HAPPY_ENDS:
            return _failure(run.end)
        if asked.stream:
            return stream_run(run, 0, Chunks(include_usage=asked.include_usage), relay.stream_settings)
        if run.ended:
            return json_response(completion(run.answer()))
        return stream_run(run, 0, Completion(), relay.stream_settings)


def _wait(cursor: Cursor, enough: Callable[[], bool], seconds: float) -> None:
    """Wait until there is enough, but not longer than the client does."""
    deadline = time.monotonic() + seconds
    while not enough() and not cursor.done and (left := deadline - time.monotonic()) > 0:
        cursor.read(left)


def _failure(end: End) -> Response:
    """Return a failed run as an error. To try again would be a second run, perhaps a second bill: clients must not."""
    status, error = failure(end)
    response = json_response({"error": error}, status)
    response.headers["x-should-retry"] = "false"
    if end.error is not None and end.error.retry_after is not None:
        response.headers["Retry-After"] = str(end.error.retry_after)
    return response


@openai_api.get("/models")
def models() -> Response:
    """Return what `model` may say: the upstreams' names and their models."""
    current_caller()
    return json_response(Models(data=list(_models().values())))


@openai_api.get("/models/<path:model>")
def model(model: str) -> Response:
    """Return one of the values that `model` may have."""
    current_caller()
    if model not in _models():
        raise Refusal("model_not_found", "No such model here; GET /v1/models tells which there are.")
    return json_response(_models()[model])


def _models() -> dict[str, Model]:
    """Return a model object by name."""
    known: dict[str, Model] = {}
    for upstream in current_relay().runs.upstreams:
        for name in (upstream.name, upstream.model, *upstream.models):
            if name and name != ANY_MODEL:
                known.setdefault(name, Model(id=name, owned_by=upstream.name))
    return known
