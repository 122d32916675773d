"""The table of routes: what each one takes and answers. Paths, methods and summaries come from the routes themselves.

endpoint -> what /openapi.json says of it, beside what it says of all
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streaming.web.streams import MEDIA_TYPES
from streaming.wire.errors import FAILURES

ANY_ROUTE = ("bad_request", "uri_too_long", "headers_too_large", "method_not_allowed", "internal")
WITH_BODY = ("request_timeout", "body_too_large")
NEW_RUN = (
    "unknown_upstream",
    "conversation_not_found",
    "conversation_busy",
    "idempotency_mismatch",
    "run_expired",
    "too_many_runs",
    "draining",
    "store_unavailable",
)
ONE_RUN = ("not_found", "run_not_found", "other_instance", "run_expired", "store_unavailable")
COSTLY_GET = ("forbidden",)
RESUMED = (*ONE_RUN, "bad_cursor")
UPSTREAM_CALL = tuple(code for code in FAILURES if code.startswith("upstream_"))

JSON, HTML, FORM, MULTIPART = (
    "application/json",
    "text/html",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
)
SSE = "text/event-stream"
STREAMED = dict(zip(MEDIA_TYPES, ("SseStream", "NdjsonStream", "TextStream", "Answer"), strict=True))
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
NOT_CHANGED = Told(description="The browser has it already.")


def _json(description: str, schema: str, status: int = 200) -> dict[int, Told]:
    return {status: Told(description=description, content={JSON: schema}, headers=("Cache-Control",))}


def _part(media_type: str) -> dict[int, Told]:
    told = Told(description="The file.", content={media_type: ""}, headers=("Cache-Control",))
    return {200: told, 304: NOT_CHANGED}


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "relay.stream"): Operation(
        tag="ask",
        parameters=("format", "last_event_id", "Last-Event-ID", "Idempotency-Key", "ask"),
        answers={**STREAM, **FAILED},
        refusals=(*NEW_RUN, *RESUMED, *COSTLY_GET),
    ),
    ("POST", "relay.stream"): Operation(
        tag="ask",
        parameters=("format", "last_event_id", "Last-Event-ID", "Idempotency-Key"),
        body=ASKED,
        answers={**STREAM, **FAILED},
        refusals=(*NEW_RUN, *RESUMED, *COSTLY_GET, "unsupported_media_type"),
    ),
    ("POST", "relay.chat"): Operation(
        tag="ask",
        parameters=("Idempotency-Key",),
        body=ASKED,
        answers={
            200: Told(description="The whole answer.", content={JSON: "Answer"}, headers=("X-Run-Id", "Cache-Control")),
            202: COME_BACK,
            303: TO_PAGE,
            **FAILED,
        },
        refusals=(*NEW_RUN, "unsupported_media_type"),
        pages=True,
    ),
    ("POST", "relay.start"): Operation(
        tag="ask",
        parameters=("Idempotency-Key",),
        body=ASKED,
        answers={201: STARTED},
        refusals=(*NEW_RUN, "unsupported_media_type"),
        next_routes=(
            ("GET", "relay.events"),
            ("GET", "relay.snapshot"),
            ("POST", "relay.stop"),
            ("POST", "feedback.rate"),
            ("GET", "feedback.suggested"),
        ),
    ),
    ("GET", "websocket.plain_http"): Operation(
        tag="ask",
        answers={101: Told(description="A WebSocket: docs/websocket.md has its messages and frames.")},
    ),
    ("GET", "relay.events"): Operation(
        tag="runs",
        parameters=("after", "Last-Event-ID", "last_event_id", "format", "flush_ms"),
        answers={**STREAM, **FAILED},
        refusals=(*RESUMED, *COSTLY_GET),
    ),
    ("GET", "relay.snapshot"): Operation(
        tag="runs",
        answers={
            200: Told(description="What there is so far.", content={JSON: "Snapshot"}, headers=("Cache-Control",)),
            202: Told(description="Still running, as a page that refreshes itself.", content={HTML: ""}),
            **{status: Told(description="The run did not end well.", content={HTML: ""}) for status in FAILED_STATUSES},
        },
        refusals=ONE_RUN,
        pages=True,
    ),
    ("POST", "relay.stop"): Operation(
        tag="runs",
        answers={**_json("The run's end; the same again if it had ended.", "End"), 202: COME_BACK, 303: TO_PAGE},
        refusals=ONE_RUN,
    ),
    ("POST", "feedback.rate"): Operation(
        tag="runs",
        body={JSON: "Feedback"},
        answers=_json("The upstream has taken it.", "Rated"),
        refusals=(*ONE_RUN, *UPSTREAM_CALL, "not_supported", "run_unfinished", "unsupported_media_type"),
    ),
    ("GET", "feedback.suggested"): Operation(
        tag="runs",
        answers={
            **_json("Questions to go on with.", "Suggested"),
            202: Told(description="They are being made.", content={JSON: "Suggested"}, headers=("Retry-After",)),
        },
        refusals=(*ONE_RUN, *UPSTREAM_CALL, *COSTLY_GET, "not_supported", "run_unfinished"),
    ),
    ("GET", "upstreams.list_upstreams"): Operation(
        tag="upstreams", answers=_json("What can be asked.", "AskableUpstreams")
    ),
    ("POST", "files.upload"): Operation(
        tag="upstreams",
        body={MULTIPART: "Upload"},
        answers=_json("The file, as an ask names it.", "Uploaded", 201),
        refusals=(
            *UPSTREAM_CALL,
            "unknown_upstream",
            "not_supported",
            "conversation_not_found",
            "file_too_large",
            "unsupported_media_type",
            "unsupported_file_type",
            "too_many_uploads",
            "store_unavailable",
        ),
    ),
    ("POST", "openai.chat_completions"): Operation(
        tag="openai",
        parameters=("X-Conversation-Id", "Idempotency-Key"),
        body={JSON: "ChatBody"},
        answers={
            200: Told(
                description="The answer as one object, or in chunks with `stream`.",
                content={JSON: "Completion", SSE: "ChunkStream"},
                headers=("X-Run-Id", "Cache-Control"),
                may_have=("X-Conversation-Id", "X-Accel-Buffering"),
            ),
            **OPENAI_FAILED,
        },
        refusals=(*NEW_RUN, "model_not_found", "unsupported_media_type"),
        error="OpenAIRefused",
    ),
    ("GET", "openai.models"): Operation(tag="openai", answers=_json("The models.", "Models"), error="OpenAIRefused"),
    ("GET", "openai.model"): Operation(
        tag="openai",
        answers=_json("The model.", "Model"),
        refusals=("model_not_found", "not_found"),
        error="OpenAIRefused",
    ),
    ("POST", "ai_sdk.ask"): Operation(
        tag="ai-sdk",
        parameters=("Idempotency-Key",),
        body={JSON: "ChatRequest"},
        answers={200: UI_STREAM},
        refusals=NEW_RUN,
    ),
    ("GET", "ai_sdk.resume"): Operation(
        tag="ai-sdk",
        parameters=("startIndex", "flush_ms"),
        answers={200: UI_STREAM, 204: NOT_RUNNING},
        refusals=(*RESUMED, *COSTLY_GET),
    ),
    ("POST", "ai_sdk.end"): Operation(
        tag="ai-sdk",
        answers={**_json("The run's end.", "End"), 202: COME_BACK, 204: NOT_RUNNING, 303: TO_PAGE},
        refusals=("not_found", "store_unavailable", *WITH_BODY),
    ),
    ("GET", "relay.healthz"): Operation(tag="operation", answers=_json("Alive.", "Health")),
    ("GET", "relay.readyz"): Operation(
        tag="operation",
        answers={
            **_json("Ready for new runs; a shared store that is away is told here too.", "Readiness"),
            **_json("Draining or starting.", "Readiness", 503),
        },
    ),
    ("GET", "openapi.description"): Operation(tag="operation", answers=_json("This description.", "")),
    ("GET", "page.index"): Operation(
        tag="pages",
        answers={
            200: Told(
                description="The chat page, or the usage text to who does not ask for HTML.",
                content={HTML: "", "text/plain": ""},
                headers=("Cache-Control",),
            )
        },
    ),
    ("GET", "page.script_for_others"): Operation(
        tag="pages",
        answers={
            200: Told(
                description="The script.",
                content={"text/javascript": ""},
                headers=("Cache-Control", "Access-Control-Allow-Origin"),
            ),
            304: NOT_CHANGED,
        },
    ),
    ("GET", "page.script"): Operation(tag="pages", answers=_part("text/javascript")),
    ("GET", "page.sheet"): Operation(tag="pages", answers=_part("text/css")),
    ("GET", "page.accent_css"): Operation(tag="pages", parameters=("accent",), answers=_part("text/css")),
    ("GET", "static"): Operation(tag="pages", answers=_part("*/*"), refusals=("not_found",)),
}
