"""After an answer: what a person thinks of it, and questions to go on with."""

from typing import Annotated, Literal

import msgspec
from flask import Blueprint, Response, g, request
from msgspec import Meta

from streaming.relay.run import Run
from streaming.web.asking import read_json
from streaming.web.bodies import Rated, Suggested
from streaming.web.relay import Relay, current_caller, current_relay
from streaming.web.routes import refuse_what_nobody_reads
from streaming.web.streams import json_response
from streaming.wire.ask import checked
from streaming.wire.errors import Refusal

NOT_YET_SECONDS = 2  # Retry-After where the suggested questions are still being made

feedback = Blueprint("feedback", __name__)


class Feedback(msgspec.Struct, forbid_unknown_fields=True):
    """`rating` None takes it back; it must be said: an absent one could mean either."""

    rating: Literal["like", "dislike"] | None
    content: Annotated[str, Meta(max_length=10_000)] | None = None  # a person's words, no document


@feedback.post("/runs/<run_id>/feedback")
def rate(run_id: str) -> Response:
    """Pass a rating on to the upstream that made the answer."""
    relay, run = _own(run_id)
    if not request.is_json:
        raise Refusal("unsupported_media_type", "Send application/json (curl: --json).")
    given = checked(read_json(request), Feedback)
    relay.apps.rate(run, given.rating, given.content, g.trace)
    return json_response(Rated())


@feedback.get("/runs/<run_id>/suggested")
def suggested(run_id: str) -> Response:
    """Return questions to go on with: those that came too late for the `end`."""
    refuse_what_nobody_reads(request)
    relay, run = _own(run_id)
    questions = relay.apps.suggested(run)
    response = json_response(Suggested(suggested_questions=questions), 200 if questions is not None else 202)
    if questions is None:
        response.headers["Retry-After"] = str(NOT_YET_SECONDS)
    return response


def _own(run_id: str) -> tuple[Relay, Run]:
    """Return a run that the caller began: to read it its id is enough, but these speak, and are paid, in its name."""
    relay, caller = current_relay(), current_caller(visitors_too=True)
    run = relay.runs.get(run_id)
    relay.runs.owners.check_run(run_id, caller.owner)
    return relay, run
