"""The table of routes: what each one takes and answers. Paths, methods and summaries come from the routes themselves.

(method, endpoint) -> what is said of it, beside what is said of all
"""

from streaming.web.openapi.operation import (
    ASKED,
    CALLER,
    COME_BACK,
    COSTLY_GET,
    FAILED,
    FAILED_STATUSES,
    HTML,
    JSON,
    MULTIPART,
    NEW_RUN,
    NOT_CHANGED,
    NOT_RUNNING,
    ONE_RUN,
    OPENAI_FAILED,
    PROBE,
    RESUMED,
    SSE,
    STARTED,
    STREAM,
    TO_PAGE,
    UI_STREAM,
    UPSTREAM_CALL,
    WITH_BODY,
    Operation,
    Told,
    json_answer,
    part,
)

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
        answers={**json_answer("The run's end; the same again if it had ended.", "End"), 202: COME_BACK, 303: TO_PAGE},
        refusals=ONE_RUN,
    ),
    ("POST", "feedback.rate"): Operation(
        tag="runs",
        body={JSON: "Feedback"},
        answers=json_answer("The upstream has taken it.", "Rated"),
        refusals=(*CALLER, *ONE_RUN, *UPSTREAM_CALL, "not_supported", "run_unfinished", "unsupported_media_type"),
    ),
    ("GET", "feedback.suggested"): Operation(
        tag="runs",
        answers={
            **json_answer("Questions to go on with.", "Suggested"),
            202: Told(description="They are being made.", content={JSON: "Suggested"}, headers=("Retry-After",)),
        },
        refusals=(*CALLER, *ONE_RUN, *UPSTREAM_CALL, *COSTLY_GET, "not_supported", "run_unfinished"),
    ),
    ("GET", "upstreams.list_upstreams"): Operation(
        tag="upstreams", answers=json_answer("What can be asked.", "AskableUpstreams"), refusals=CALLER
    ),
    ("POST", "files.upload"): Operation(
        tag="upstreams",
        body={MULTIPART: "Upload"},
        answers=json_answer("The file, as an ask names it.", "Uploaded", 201),
        refusals=(
            *CALLER,
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
    ("GET", "openai.models"): Operation(
        tag="openai", answers=json_answer("The models.", "Models"), refusals=CALLER, error="OpenAIRefused"
    ),
    ("GET", "openai.model"): Operation(
        tag="openai",
        answers=json_answer("The model.", "Model"),
        refusals=(*CALLER, "model_not_found", "not_found"),
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
        refusals=(*CALLER, *RESUMED, *COSTLY_GET),
    ),
    ("POST", "ai_sdk.end"): Operation(
        tag="ai-sdk",
        answers={**json_answer("The run's end.", "End"), 202: COME_BACK, 204: NOT_RUNNING, 303: TO_PAGE},
        refusals=(*CALLER, "not_found", "store_unavailable", *WITH_BODY),
    ),
    ("GET", "relay.healthz"): Operation(tag="operation", answers=json_answer("Alive.", "Health")),
    ("GET", "relay.readyz"): Operation(
        tag="operation",
        answers={
            **json_answer("Ready for new runs; a shared store that is away is told here too.", "Readiness"),
            **json_answer("Draining or starting.", "Readiness", 503),
        },
    ),
    **{
        (method, "probe.frames"): Operation(
            tag="operation",
            parameters=("last_event_id", "Last-Event-ID", "frames", "interval_ms", "silence_seconds"),
            answers={200: PROBE},
            refusals=("bad_cursor", "too_many_runs", *COSTLY_GET, *WITH_BODY),
        )
        for method in ("GET", "POST")
    },
    ("POST", "visiting.renew"): Operation(
        tag="pages",
        answers=json_answer("A token for POST /runs and POST /chat.", "VisitorToken"),
        refusals=("not_found", *WITH_BODY),
    ),
    ("GET", "scrape.metrics"): Operation(
        tag="operation",
        answers={200: Told(description="The metrics.", content={"text/plain": ""}, headers=("Cache-Control",))},
        refusals=CALLER,
    ),
    ("GET", "openapi.description"): Operation(tag="operation", answers=json_answer("This description.", "")),
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
    ("GET", "page.script"): Operation(tag="pages", answers=part("text/javascript")),
    ("GET", "page.sheet"): Operation(tag="pages", answers=part("text/css")),
    ("GET", "page.accent_css"): Operation(tag="pages", parameters=("accent",), answers=part("text/css")),
    ("GET", "static"): Operation(tag="pages", answers=part("*/*"), refusals=("not_found",)),
}
