"""Examples of bodies for /openapi.json, by the name of their schema: {name: {"value": …}}."""

from typing import Any

from streaming.web.openapi.parameters import RUN_ID

_CONVERSATION_ID = "cVVyPLM_bIrw7EtPFYV8pg"
_USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "exact": True, "details": None}
_TIMING = {"connect": 12.5, "headers": 180.2, "first_token": 412.8, "total": 903.1}
_END = {
    "reason": "done",
    "finish_reason": "stop",
    "error": None,
    "usage": _USAGE,
    "digest": {"bytes": 6, "crc32": "352441c2"},
    "upstream_stop": None,
    "timing": _TIMING,
    "metadata": {},
}
_BUSY = {
    "code": "upstream_busy",
    "message": "The upstream is busy; try again shortly.",
    "retryable": True,
    "retry_after": 5,
    "status": 503,
}
_FAILED = {**_END, "reason": "error", "finish_reason": None, "error": _BUSY, "usage": None, "digest": None}
_IDS = {"run_id": RUN_ID, "conversation_id": _CONVERSATION_ID}
_SAID = {"text": "abc", "reasoning": "", "tool_calls": [], "files": []}
_QUESTION = {"role": "user", "content": "Hello"}

_VALUES: dict[str, dict[str, Any]] = {
    "Ask": {
        "a question": {"prompt": "Hello"},
        "with options": {"prompt": "Hello", "options": {"temperature": 0.2, "max_tokens": 200}},
        "a conversation of yours": {"messages": [{"role": "system", "content": "Be brief."}, _QUESTION]},
        "a Dify app's inputs": {"prompt": "Hello", "inputs": {"tone": "kind"}},
    },
    "AskForm": {"a question": {"prompt": "Hello"}},
    "Feedback": {"good": {"rating": "like"}, "taken back": {"rating": None}},
    "ChatBody": {
        "chunks": {"messages": [_QUESTION], "stream": True, "stream_options": {"include_usage": True}},
        "one object": {"messages": [_QUESTION], "temperature": 0.2},
    },
    "ChatRequest": {
        "a question": {
            "id": "h6vK2mZtQ0pLw9xA",
            "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}],
            "trigger": "submit-message",
        }
    },
    "Started": {
        "begun": {**_IDS, "events_url": f"/runs/{RUN_ID}/events", "stop_url": f"/runs/{RUN_ID}/stop"},
    },
    "StillRunning": {"running": {**_IDS, "state": "running"}},
    "Answer": {"done": {**_IDS, **_SAID, "end": _END}, "failed": {**_IDS, **_SAID, "end": _FAILED}},
    "End": {"done": _END, "failed": _FAILED},
    "Snapshot": {
        "running": {
            **_IDS,
            **_SAID,
            "state": "running",
            "seq": 3,
            "upstream": {"name": "openai", "model": "gpt-4.1-mini", "tries": 1},
            "steps": [],
            "end": None,
        }
    },
    "Health": {"alive": {"status": "ok"}},
    "Readiness": {"ready": {"status": "ready", "runs": {"unfinished": 2, "ended": 40}}},
    "Models": {
        "one": {"object": "list", "data": [{"id": "demo", "object": "model", "created": 0, "owned_by": "demo"}]}
    },
    "SseStream": {
        "a short answer": (
            ": resume with the header Last-Event-ID: <last id seen>; an event named end is the last\nretry: 2000\n\n"
            f"id: {RUN_ID}.1\nevent: start\n"
            f'data: {{"run_id":"{RUN_ID}","conversation_id":null,"created":1795231877}}\n\n'
            f'id: {RUN_ID}.2\nevent: upstream\ndata: {{"name":"demo","model":"demo","tries":1}}\n\n'
            f'id: {RUN_ID}.3\ndata: {{"text":"Hi"}}\n\n'
            f'id: {RUN_ID}.4\nevent: end\ndata: {{"reason":"done", …}}\n\n'
        )
    },
    "NdjsonStream": {
        "a short answer": (
            '{"type":"ping"}\n'
            f'{{"seq":1,"type":"start","run_id":"{RUN_ID}","conversation_id":null,"created":1795231877}}\n'
            '{"seq":2,"type":"upstream","name":"demo","model":"demo","tries":1}\n'
            '{"seq":3,"type":"token","text":"Hi"}\n'
            '{"seq":4,"type":"end","reason":"done", …}\n'
        )
    },
    "TextStream": {"a short answer": "Hi"},
}

EXAMPLES = {schema: {name: {"value": value} for name, value in values.items()} for schema, values in _VALUES.items()}
