"""/openapi.json: valid, complete, and what it says of the bytes of every format is so."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app import create_app
from streaming.settings import Settings
from streaming.web.openapi import meanings
from streaming.web.openapi.description import VERSION, document
from streaming.web.openapi.examples import EXAMPLES
from streaming.web.openapi.operations import OPERATIONS
from streaming.wire.errors import FAILURES, REFUSALS
from streaming.wire.events import Entry
from streaming.wire.formats.native import Ndjson, Sse
from tests.live import Relay
from tests.web.client import request, sse_events
from tests.wire.random_logs import random_logs

ROOT = Path(__file__).parents[2]


APP = create_app(Settings())
DOCUMENT = document(APP)
OPERATIONS_TOLD = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]


def validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]})


LINE, SSE_EVENT = validator("Line"), validator("SseStream")


def codes_told() -> set[str]:
    return {code for code in {**REFUSALS, **FAILURES} for told in OPERATIONS_TOLD if f"`{code}`" in json.dumps(told)}


def test_it_is_openapi() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_it_is_served(server: Relay) -> None:
    answer = requests.get(f"{server.url}/openapi.json", timeout=20)
    assert answer.json() == DOCUMENT
    assert answer.headers["Content-Type"] == "application/json"


def test_the_version_is_the_packages() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_every_route_is_described_and_none_that_is_not_there() -> None:
    """What is missing belongs into streaming/web/openapi/operations.py."""
    there = {
        (method, rule.endpoint)
        for rule in APP.url_map.iter_rules()
        if not rule.websocket
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert there - OPERATIONS.keys() == set(), "not described"
    assert OPERATIONS.keys() - there == set(), "described, but not there"
    assert len(OPERATIONS_TOLD) >= len(there)


def test_every_code_has_a_meaning_and_a_route() -> None:
    """A new code belongs into meanings.REFUSALS and into the `refusals` of a route (or ANY_ROUTE, NEW_RUN…)."""
    assert meanings.REFUSALS.keys() == REFUSALS.keys()
    in_runs_only = {code for code in FAILURES if not code.startswith("upstream_")} - {"internal"}
    assert codes_told() == ({*REFUSALS, *FAILURES} - in_runs_only)
    told = DOCUMENT["components"]["schemas"]["RefusedError"]["properties"]["code"]["oneOf"]
    assert {each["const"] for each in told} == {*REFUSALS, *FAILURES}


def test_every_code_is_told_with_its_status() -> None:
    for told in OPERATIONS_TOLD:
        for status, answer in told["responses"].items():
            _, _, refused = answer["description"].partition("Refused: ")
            for code in refused.rstrip(".").replace("`", "").split(", ") if refused else ():
                statuses = {REFUSALS.get(code), FAILURES[code].status if code in FAILURES else None}
                assert int(status) in statuses or (code, status) == ("upstream_rejected", "400")


def test_every_field_has_a_sentence() -> None:
    ask = DOCUMENT["components"]["schemas"]["Ask"]["properties"]
    assert ask.keys() - {"query"} == meanings.ASK.keys()
    assert all(schema["description"] for schema in ask.values())


def test_every_header_that_is_explained_is_used() -> None:
    used = json.dumps(DOCUMENT["paths"])
    assert [name for name in meanings.HEADERS if f"#/components/headers/{name}" not in used] == []


def test_where_a_key_may_be_asked_for_it_is_told_how_to_send_it() -> None:
    """A relay may do without: `{}` beside it."""
    assert {told["operationId"] for told in OPERATIONS_TOLD if "security" in told} == {
        told["operationId"] for told in OPERATIONS_TOLD if "`unauthorized`" in json.dumps(told)
    }
    assert all(told.get("security") in (None, [{"bearer": []}, {}]) for told in OPERATIONS_TOLD)


@pytest.mark.parametrize("schema", EXAMPLES)
def test_every_example_is_right(schema: str) -> None:
    assert f"#/components/schemas/{schema}" in json.dumps(DOCUMENT["paths"]), "an example that nobody sees"
    check = validator(schema)
    for example in EXAMPLES[schema].values():
        assert schema == "SseStream" or list(check.iter_errors(example["value"])) == []


def test_a_wrong_line_is_seen() -> None:
    """What the next test relies on."""
    assert not LINE.is_valid({"seq": 3, "type": "token"})
    assert not LINE.is_valid({"seq": 0, "type": "token", "text": "Hi"})
    assert not LINE.is_valid({"seq": 3, "type": "tokens", "text": "Hi"})
    assert LINE.is_valid({"seq": 3, "type": "token", "text": "Hi"})


@settings(max_examples=25, deadline=None, derandomize=True)
@given(random_logs())
def test_every_event_is_as_described_in_every_format(log: list[Entry]) -> None:
    for entry in log:
        LINE.validate(json.loads(Ndjson().encode(entry)))
        (event,) = sse_events(Sse(retry_ms=1000).encode(entry))
        check_sse(event.type, event.data)


def check_sse(name: str, data: str) -> None:
    """Fail where an event is not as described. jsonschema does not look into `data`."""
    SSE_EVENT.validate({"event": name, "data": data})
    validator(_schema_of(name)).validate(json.loads(data))


def _schema_of(name: str) -> str:
    return {"message": "Token", "tool_call": "ToolCall"}.get(name, name.capitalize())


def test_a_head_is_told_what_else_it_may_ask(server: Relay) -> None:
    with request(f"{server.url}/stream?prompt=hi", "HEAD") as response:
        assert response.status == 405
        assert response.headers["allow"] == "GET, OPTIONS, POST"


@pytest.mark.parametrize("format_", ["sse", "ndjson", "text", "json"])
def test_a_stream_has_the_headers_that_are_told(server: Relay, format_: str) -> None:
    with request(f"{server.url}/stream?format={format_}", "POST", json_body={"prompt": "hi"}) as response:
        response.body()
        told: dict[str, Any] = DOCUMENT["paths"]["/stream"]["post"]["responses"]["200"]["headers"]
        always = [name for name in told if not told[name]["$ref"].endswith(".perhaps")]
        assert [name for name in always if name.lower() not in response.headers] == []
        assert "X-Run-Id" in told
        assert response.headers["x-run-id"]
