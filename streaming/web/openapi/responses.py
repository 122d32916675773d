"""The answers of one operation, refusals among them, as /openapi.json tells them."""

from collections.abc import Sequence
from typing import Any

from streaming.web.openapi import meanings, schemas
from streaming.web.openapi.examples import EXAMPLES
from streaming.web.openapi.operation import ANY_ROUTE, HTML, JSON, WITH_BODY, Operation, Told
from streaming.web.openapi.schemas import Schema
from streaming.wire.errors import FAILURES, REFUSALS

ALWAYS = ("X-Request-Id", "X-Content-Type-Options")
PERHAPS = ".perhaps"
_NO_REFUSAL = Told(description="")


def responses(operation: Operation) -> dict[str, Any]:
    """Return the responses by status."""
    by_status: dict[int, list[str]] = {}
    for code in sorted({*ANY_ROUTE, *operation.refusals, *(WITH_BODY if operation.body else ())}):
        for status in _statuses(code):
            by_status.setdefault(status, []).append(code)
    return {
        str(status): _response(operation, operation.answers.get(status, _NO_REFUSAL), by_status.get(status, ()))
        for status in sorted({*operation.answers, *by_status})
    }


def _statuses(code: str) -> set[int]:
    if code == "upstream_rejected":  # 400 where the caller's own fields caused it
        return {400, FAILURES[code].status}
    return {REFUSALS[code] if code in REFUSALS else FAILURES[code].status}


def _response(operation: Operation, told: Told, codes: Sequence[str]) -> dict[str, Any]:
    refused = f"Refused: {', '.join(f'`{code}`' for code in codes)}." if codes else ""
    answer: dict[str, Any] = {
        "description": " ".join(filter(None, (told.description, refused))),
        "headers": _headers(told, codes),
    }
    content = {media_type: media(schema) for media_type, schema in told.content.items()}
    if codes:
        content[JSON] = {"schema": _either(content.get(JSON), _refusal(operation, codes))}
    if operation.pages and JSON in content:
        content[HTML] = {}
    if content:
        answer["content"] = content
    if operation.next_routes and told.content:
        answer["links"] = _links(operation.next_routes)
    return answer


def _headers(told: Told, codes: Sequence[str]) -> dict[str, Any]:
    """Return all headers; where a refusal has the same status, only those are sure that every answer has."""
    required = {*ALWAYS, *(() if codes else told.headers)}
    possible = {*told.headers, *told.may_have}
    if any(REFUSALS.get(code) in {429, 503} for code in codes):
        possible.add("Retry-After")
    if any(REFUSALS.get(code) == 429 for code in codes):
        possible |= {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}
    if "unauthorized" in codes:
        possible.add("WWW-Authenticate")
    if "method_not_allowed" in codes:
        required.add("Allow")
    return {
        name: {"$ref": f"#/components/headers/{name if name in required else name + PERHAPS}"}
        for name in sorted(required | possible)
    }


def headers() -> dict[str, Any]:
    """Return every header by its name, and once more as one that not every answer has."""
    return {
        name + suffix: {"description": what, "required": not suffix, "schema": {"type": "string"}}
        for name, what in meanings.HEADERS.items()
        for suffix in ("", PERHAPS)
    }


def media(schema: str) -> dict[str, Any]:
    """Return a media type's object; schema "" = any bytes."""
    if not schema:
        return {}
    examples = EXAMPLES.get(schema)
    return {"schema": schemas.ref(schema), **({"examples": examples} if examples else {})}


def _refusal(operation: Operation, codes: Sequence[str]) -> Schema:
    return schemas.codes(codes) if operation.error == "Refused" else schemas.ref(operation.error)


def _either(before: dict[str, Any] | None, refused: Schema) -> Schema:
    if before is None or before["schema"] == refused:
        return refused
    return {"anyOf": [before["schema"], refused]}


def _links(routes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        endpoint.rpartition(".")[2]: {
            "operationId": operation_id(method, endpoint),
            "parameters": {"run_id": "$response.body#/run_id"},
        }
        for method, endpoint in routes
    }


def operation_id(method: str, endpoint: str) -> str:
    """Return what links call an operation."""
    return f"{method.lower()}_{endpoint.rpartition('.')[2]}"
