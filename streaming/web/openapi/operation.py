"""What the table of operations is written in: the groups of refusals, an answer, an operation, shared answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streaming.web.streams import MEDIA_TYPES
from streaming.wire.errors import FAILURES

ANY_ROUTE = ("bad_request", "uri_too_long", "headers_too_large", "method_not_allowed", "internal")
WITH_BODY = ("request_timeout", "body_too_large")
NEW_RUN = (
    "unauthorized",
    "forbidden",
    "rate_limited",
    "too_many_streams",
    "budget_spent",
    "file_not_found",
    "unknown_upstream",
    "conversation_not_found",
    "conversation_busy",
    "idempotency_mismatch",
    "run_expired",
    "too_many_runs",
    "draining",
    "store_unavailable",
)
CALLER = ("unauthorized", "forbidden", "rate_limited")
ONE_RUN = ("not_found", "run_not_found", "other_instance", "run_expired", "store_unavailable")
COSTLY_GET = ("forbidden",)
RESUMED = (*ONE_RUN, "bad_cursor")
UPSTREAM_CALL = tuple(code for code in FAILURES if code.startswith("upstream_"))

JSON = "application/json"
HTML = "text/html"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
SSE = "text/event-stream"
_SCHEMAS = {"sse": "SseStream", "ndjson": "NdjsonStream", "json": "Answer", "text": "TextStream"}
STREAMED = {media_type: _SCHEMAS[format_] for media_type, format_ in MEDIA_TYPES.items()}
ASKED = {JSON: "Ask", FORM: "AskForm", MULTIPART: "AskForm"}
FAILED_STATUSES = (400, 500, 502, 503, 504)  # of an answer in the json format whose run did not end well
STREAM_HEADERS = ("Cache-Control", "X-Accel-Buffering")


@dataclass(frozen=True, kw_only=True)
class Told:
    """One answer. `content`: media type -> schema, "" = any bytes. `headers` always come, `may_have` where they fit."""

    description: str
    content: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    may_have: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of a route, told beside its path and its view's docstring.

    `parameters` are names in parameters.py; `body`: media type -> schema. `answers` by status, without the refusals,
    whose codes are in `refusals` (and ANY_ROUTE, and WITH_BODY where there is a body). `pages`: who asks for text/html
    gets a page, of refusals too. `next_routes` take the `run_id` of the answer's body. `error`: a refusal's schema.
    """

    tag: str
    parameters: tuple[str, ...] = ()
    body: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[int, Told]
    refusals: tuple[str, ...] = ()
    pages: bool = False
    next_routes: tuple[tuple[str, str], ...] = ()
    error: str = "Refused"


STREAM = {
    200: Told(
        description="The run as it goes on, in the format that was asked for; without `X-Run-Id` where it is lost.",
        content=STREAMED,
        headers=("Cache-Control",),
        may_have=("X-Run-Id", "X-Accel-Buffering"),
    ),
    204: Told(description="The cursor covers the end: there is nothing more. EventSource stops."),
}
FAILED = {
    status: Told(
        description="The run did not end well, in the json format: `end` tells why.",
        content={JSON: "Answer"},
        may_have=("X-Run-Id", "Retry-After"),
    )
    for status in FAILED_STATUSES
}
COME_BACK = Told(
    description="Still running.",
    content={JSON: "StillRunning"},
    headers=("Location", "Retry-After", "X-Run-Id"),
)
TO_PAGE = Told(description="A browser's form: the page is there.", headers=("Location", "X-Run-Id"))
STARTED = Told(
    description="The run has begun.", content={JSON: "Started"}, headers=("Location", "X-Run-Id", "Cache-Control")
)
UI_STREAM = Told(
    description="The run as a UI message stream.",
    content={SSE: "UiMessageStream"},
    headers=("X-Run-Id", "X-Vercel-AI-UI-Message-Stream", "X-Workflow-Run-Id", *STREAM_HEADERS),
    may_have=("X-Workflow-Stream-Tail-Index",),
)
NOT_RUNNING = Told(description="Nothing is running, or there is nothing more.")
OPENAI_FAILED = {
    status: Told(
        description="The run failed; it was begun, so asking again would be a second one.",
        content={JSON: "OpenAIRefused"},
        may_have=("x-should-retry", "Retry-After", "X-Run-Id", "X-Conversation-Id"),
    )
    for status in FAILED_STATUSES
}
PROBE = Told(description="Frames at known times, and an end.", content={SSE: "ProbeStream"}, headers=STREAM_HEADERS)
NOT_CHANGED = Told(description="The browser has it already.")


def json_answer(description: str, schema: str, status: int = 200) -> dict[int, Told]:
    """Return one answer in JSON."""
    return {status: Told(description=description, content={JSON: schema}, headers=("Cache-Control",))}


def part(media_type: str) -> dict[int, Told]:
    """Return the answers of a file of the page."""
    told = Told(description="The file.", content={media_type: ""}, headers=("Cache-Control",))
    return {200: told, 304: NOT_CHANGED}
