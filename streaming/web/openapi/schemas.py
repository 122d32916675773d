"""The types that requests and answers are made of -> JSON Schema, for /openapi.json.

What msgspec decodes or encodes is described by msgspec itself. Added here: what a type alone does not say, such as that
an event's line has `seq` and `type`, and the sentences for its fields.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from streaming.relay.apps import Uploaded
from streaming.web import bodies
from streaming.web.feedback import Feedback
from streaming.web.files import UploadFields
from streaming.web.openapi import meanings
from streaming.wire import ask, ui_messages
from streaming.wire.answer import EVENT_TYPES, JSON_FIELDS, SNAPSHOT_FIELDS, Answer
from streaming.wire.ask import Ask
from streaming.wire.errors import FAILURES, REFUSALS
from streaming.wire.openai_ask import ChatBody

Schema = dict[str, Any]

_REF = "#/components/schemas/"
_ASKED = (Ask, Feedback, ChatBody, ui_messages.ChatRequest, UploadFields)
_ANSWERED = (
    Answer,
    *EVENT_TYPES.values(),
    Uploaded,
    bodies.Started,
    bodies.StillRunning,
    bodies.Health,
    bodies.Readiness,
    bodies.AskableUpstreams,
    bodies.Rated,
    bodies.Suggested,
    bodies.Refused,
    bodies.OpenAIRefused,
    bodies.Models,
    bodies.VisitorToken,
)
_PYTHON = {"None": "null", "True": "true", "False": "false"}
_NEEDS_ONE_OF = ("prompt", "query", "messages", "inputs")


def ref(name: str) -> Schema:
    """Return a reference to one of `components`."""
    return {"$ref": _REF + name}


def components() -> dict[str, Schema]:
    """Return every schema by its name."""
    asked = _described(_ASKED)
    answered = _described(_ANSWERED)
    for schema in answered.values():
        schema["required"] = list(schema.get("properties", ()))  # defaults are written too
    answer = answered.pop("Answer")
    return {
        **asked,
        **answered,
        **_described([bodies.Completion]),
        "Ask": _ask_body(asked["Ask"]),
        "AskForm": _form(asked["Ask"]),
        "Answer": _part_of(answer, JSON_FIELDS, "A run's whole answer, after its end."),
        "Snapshot": _snapshot(answer),
        "Upload": _upload(asked["UploadFields"]),
        "ChatBody": _openai_ask(asked),
        "ChatRequest": _ai_sdk_ask(asked),
        "RefusedError": _with_codes(answered["RefusedError"]),
        **_streams(),
    }


def ask_fields() -> dict[str, Schema]:
    """Return the schema of each field of an ask, as a form or query string has them: without null."""
    fields = _ask(_described([Ask])["Ask"])["properties"]
    return {name: _not_null(schema) for name, schema in fields.items()}


def codes(names: Iterable[str]) -> Schema:
    """Return the schema of a refusal with one of these codes."""
    return {
        "allOf": [
            ref("Refused"),
            {"properties": {"error": {"type": "object", "properties": {"code": {"enum": sorted(names)}}}}},
        ]
    }


def _described(types: Iterable[type]) -> dict[str, Schema]:
    _, found = msgspec.json.schema_components(types, ref_template=_REF + "{name}")
    for schema in found.values():
        if "description" in schema:
            schema["description"] = re.sub(
                r"\b(None|True|False)\b", lambda word: _PYTHON[word[0]], schema["description"]
            )
    return found


def _part_of(schema: Schema, names: Iterable[str], description: str) -> Schema:
    properties = {name: schema["properties"][name] for name in names}
    return {"type": "object", "description": description, "properties": properties, "required": list(properties)}


def _snapshot(answer: Schema) -> Schema:
    schema = _part_of(answer, SNAPSHOT_FIELDS, "What there is so far; followed from its `seq`, it misses nothing.")
    schema["properties"]["state"] = {"enum": ["running", "ended"]}
    schema["required"].append("state")
    return schema


# -- asking ------------------------------------------------------------------------------------------------------------


def _ask(schema: Schema) -> Schema:
    fields = {
        name: {**field, "description": meanings.ASK.get(name, "")} for name, field in schema["properties"].items()
    }
    fields["prompt"]["examples"] = ["Hello"]
    return {**schema, "properties": fields}


def _ask_body(schema: Schema) -> Schema:
    """Add what holds for JSON alone: it is checked more strictly than a form, and may use the other names of fields."""
    asked = _ask(schema)
    aliases = {alias: asked["properties"][name] for alias, name in ask.ALIASES.items()}
    fields = {**asked["properties"], **aliases}
    return {**asked, "properties": fields, "anyOf": [{"required": [name]} for name in _NEEDS_ONE_OF]}


def _form(schema: Schema) -> Schema:
    fields = {name: _not_null(field) for name, field in _ask(schema)["properties"].items()}
    for name in ask.JSON_FIELDS:
        text = {"type": "string", "contentMediaType": "application/json", "description": fields[name]["description"]}
        fields[name] = text
    return {
        "type": "object",
        "description": "The fields of Ask as text; empty ones count as absent.",
        "properties": fields,
    }


def _not_null(schema: Schema) -> Schema:
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    if not kinds:
        return dict(schema)
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}


def _openai_ask(asked: dict[str, Schema]) -> Schema:
    body, options = asked["ChatBody"], asked["Options"]
    description = "OpenAI's request; fields that are not here are ignored. docs/openai.md tells which are refused."
    return {**body, "description": description, "properties": {**body["properties"], **options["properties"]}}


def _ai_sdk_ask(asked: dict[str, Schema]) -> Schema:
    body, ask_schema = asked["ChatRequest"], _ask(asked["Ask"])
    fields = {name: schema for name, schema in body["properties"].items() if name != "own"}
    own = {name: ask_schema["properties"][name] for name in ui_messages.OWN_FIELDS}
    description = "What the AI SDK's transports send, and what an app may add to it; other fields are ignored."
    return {**body, "description": description, "properties": {**fields, **own}}


def _upload(fields: Schema) -> Schema:
    file = {"type": "string", "format": "binary", "description": "The file, with its name."}
    texts = {name: _not_null(schema) for name, schema in fields["properties"].items()}
    return {**fields, "properties": {"file": file, **texts}, "required": ["file"]}


# -- answering ---------------------------------------------------------------------------------------------------------


def _with_codes(error: Schema) -> Schema:
    told = {**meanings.REFUSALS, **{code: kind.message for code, kind in FAILURES.items()}}
    all_codes = [{"const": code, "description": told.get(code, "")} for code in {**REFUSALS, **FAILURES}]
    return {**error, "properties": {**error["properties"], "code": {"type": "string", "oneOf": all_codes}}}


def _streams() -> dict[str, Schema]:
    """Return what the streaming formats send. OpenAPI 3.1 has no word for a stream's items: they stand apart."""
    lines = [
        {
            "title": f"{name} line",
            "properties": {"seq": {"type": "integer", "minimum": 1}, "type": {"const": name}},
            "required": ["seq", "type"],
            "allOf": [ref(kind.__name__)],
        }
        for name, kind in EVENT_TYPES.items()
    ]
    ping = {"title": "ping", "properties": {"type": {"const": "ping"}}, "required": ["type"]}
    return {
        "Line": {
            "type": "object",
            "description": "One line of NDJSON: an event, or a sign of life.",
            "oneOf": [*lines, ping],
        },
        "SseStream": _events(
            "Server-Sent Events, each as here. Tokens have no `event`, which means `message`; `id` is the cursor to "
            "come back with in `Last-Event-ID`; `end` is the last.",
            {"anyOf": [ref(kind.__name__) for kind in EVENT_TYPES.values()]},
            id={"type": "string"},
            event={"enum": ["message" if name == "token" else name for name in EVENT_TYPES]},
        ),
        "NdjsonStream": {"type": "string", "description": "A JSON object a line, each a Line; `end` is the last."},
        "TextStream": {
            "type": "string",
            "description": "The answer's text alone. A run that does not end well breaks the body off.",
        },
        "ProbeStream": _events("The frames of a probe as Server-Sent Events, `end` the last."),
        "ChunkStream": _events("OpenAI's chunks as Server-Sent Events; the text `[DONE]` is the last one's data."),
        "UiMessageStream": _events(
            "The AI SDK's UI message stream: its chunks, which docs/ai-sdk.md tells, as Server-Sent Events."
        ),
    }


def _events(description: str, data: Schema | None = None, **fields: Schema) -> Schema:
    """Return the schema of one event of an SSE stream: before OpenAPI 3.2 that is how a stream is described."""
    shape = {"type": "string", **({"contentMediaType": "application/json", "contentSchema": data} if data else {})}
    return {"type": "object", "description": description, "properties": {**fields, "data": shape}, "required": ["data"]}
