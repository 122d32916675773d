"""`GET /openapi.json`: the API's description, put together from the app's routes, the table and the types."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, current_app
from werkzeug.routing import Rule

from streaming.web.openapi import parameters, schemas
from streaming.web.openapi.operation import JSON
from streaming.web.openapi.operations import OPERATIONS
from streaming.web.openapi.responses import headers, media, operation_id, responses

VERSION = "0.1.0"
_ARGUMENT = re.compile(r"<(?:any\((?P<choices>[^)]*)\):|path:)?(?P<name>\w+)>")
_TAGS = {
    "ask": "Start a run, and stream it, wait for it or look later.",
    "runs": "Follow, read, stop and rate a run.",
    "upstreams": "What can be asked, and files for it.",
    "openai": "OpenAI's interface over every upstream.",
    "ai-sdk": "The AI SDK's interface over every upstream.",
    "operation": "For who runs the relay.",
    "pages": "The chat page and its parts.",
}

_BEARER = (
    "One of API_KEYS, or a JSON Web Token; which of them, and whether it can do without, is the relay's own choice: "
    "docs/access.md."
)

openapi = Blueprint("openapi", __name__)


@openapi.get("/openapi.json")
def description() -> Response:
    """Return this description (OpenAPI 3.1)."""
    response = Response(_encoded(current_app._get_current_object()), content_type=JSON)  # type: ignore[attr-defined]
    response.headers["Cache-Control"] = "no-cache"
    return response


@cache
def _encoded(app: Flask) -> bytes:
    return msgspec.json.encode(document(app)) + b"\n"


def document(app: Flask) -> dict[str, Any]:
    """Return the description of an app's routes as a JSON object. Routes that the table does not have are left out."""
    paths: dict[str, dict[str, Any]] = {}
    for method, rule, path in _routes(app):
        paths.setdefault(path, {})[method.lower()] = _operation(app, method, rule, path)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Sluice",
            "version": VERSION,
            "summary": "Relays LLM answers token by token, without losing one.",
            "description": "For people: docs/api.md. The schema Line tells the events, whatever the format.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": what} for name, what in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "headers": headers(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": _BEARER}},
        },
    }


def _routes(app: Flask) -> Iterator[tuple[str, Rule, str]]:
    """Yield method, rule and path, one for each of the choices that an argument may have."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        argument = _ARGUMENT.search(rule.rule)
        choices = re.findall(r"'([^']*)'", argument["choices"] or "") if argument else []
        paths = [_ARGUMENT.sub(choice, rule.rule) for choice in choices] or [_ARGUMENT.sub(r"{\g<name>}", rule.rule)]
        for method in sorted(rule.methods or ()):
            if (method, rule.endpoint) in OPERATIONS and not rule.websocket:
                yield from ((method, rule, path) for path in paths)


def _operation(app: Flask, method: str, rule: Rule, path: str) -> dict[str, Any]:
    operation = OPERATIONS[method, rule.endpoint]
    summary, _, more = (app.view_functions[rule.endpoint].__doc__ or "Return a file of the page.").partition("\n")
    arguments = re.findall(r"{(\w+)}", path)
    told: dict[str, Any] = {
        "operationId": operation_id(method, rule.endpoint) if arguments or not rule.arguments else path.strip("/"),
        "tags": [operation.tag],
        "summary": summary,
        "parameters": [
            *(parameters.in_path(name) for name in arguments),
            *(each for name in operation.parameters for each in parameters.described(name)),
        ],
        "responses": responses(operation),
    }
    if more.strip():
        told["description"] = " ".join(more.split())
    if "unauthorized" in operation.refusals:
        told["security"] = [{"bearer": []}, {}]
    if operation.body:
        content = {media_type: media(schema) for media_type, schema in operation.body.items()}
        told["requestBody"] = {"required": True, "content": content}
    return told
