"""Parameters of routes, as /openapi.json tells them: those that asks have from their type, the rest in a table."""

from typing import Any

from streaming.web.asking import MAX_KEY_CHARACTERS
from streaming.web.openapi.schemas import Schema, ask_fields
from streaming.web.streams import FORMATS
from streaming.wire.ask import JSON_FIELDS

RUN_ID = "VUYmoP2mYHeAI1wltH4Juo6ylg"

IN_PATH = {
    "run_id": ("The run's id.", RUN_ID),
    "chat_id": ("The chat's id at the app, or a run's id. It may hold slashes.", RUN_ID),
    "model": ("The model's id. It may hold slashes.", "demo"),
    "filename": ("A file's path.", "page.css"),
}

_TABLE: dict[str, tuple[str, str, Schema]] = {  # name -> where, what, type
    "format": (
        "query",
        "The format of the answer, in the place of `Accept`; SSE where neither says one.",
        {"enum": list(FORMATS)},
    ),
    "last_event_id": (
        "query",
        "As the header `Last-Event-ID`, for clients that cannot set one.",
        {"type": "string"},
    ),
    "Last-Event-ID": (
        "header",
        "The last id seen: the answer goes on behind it, and no run is started.",
        {"type": "string"},
    ),
    "Idempotency-Key": (
        "header",
        "The same key with the same ask finds the run that the first request began.",
        {"type": "string", "maxLength": MAX_KEY_CHARACTERS},
    ),
    "X-Conversation-Id": (
        "header",
        "As the field `conversation_id`.",
        {"type": "string", "maxLength": 256},
    ),
    "after": (
        "query",
        "The last `seq` seen, or `<run_id>.<seq>`; of this and `Last-Event-ID` the larger counts.",
        {"type": "string", "examples": ["3"]},
    ),
    "flush_ms": ("query", "", {}),  # as in an ask
    "startIndex": (
        "query",
        "The number of chunks received; negative = that many from the end.",
        {"type": "integer", "minimum": -(10**15) + 1, "maximum": 10**15 - 1},
    ),
    "frames": ("query", "How many frames.", {"type": "integer", "minimum": 1, "maximum": 1000}),
    "interval_ms": ("query", "How far apart.", {"type": "integer", "minimum": 10, "maximum": 5000}),
    "silence_seconds": (
        "query",
        "How long nothing but heartbeats comes before the second frame.",
        {"type": "number", "minimum": 0, "maximum": 300, "examples": [0]},
    ),
    "accent": ("query", "A colour: three or six hex digits.", {"type": "string", "examples": ["0a7"]}),
}


def described(name: str) -> list[dict[str, Any]]:
    """Return the parameters of this name in the table; `ask` stands for all fields of an ask, as a query has them."""
    fields = ask_fields()
    if name == "ask":
        return [_field(each, schema) for each, schema in fields.items()]
    if name in fields:
        return [_field(name, fields[name])]
    where, what, schema = _TABLE[name]
    return [{"name": name, "in": where, "description": what, "schema": schema}]


def in_path(name: str) -> dict[str, Any]:
    """Return a parameter that is part of the path."""
    what, example = IN_PATH[name]
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": what, "schema": schema, "example": example}


def _field(name: str, schema: Schema) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "description"}
    shape = {"content": {"application/json": {"schema": rest}}} if name in JSON_FIELDS else {"schema": rest}
    return {"name": name, "in": "query", "description": schema["description"], **shape}
