"""What: no field and no header of a request begins a line of its own behind it, or grows beyond its limit."""

import json
from typing import Any
from urllib.parse import quote_plus

import pytest

from tests.live import Relay, ScriptedUpstream
from tests.web.client import request

NASTY = ["a\r\nX-Injected: 1", "a\nX-Injected: 1", "a\rb", "a\0b", "a\x1b[2J", "a\x7f", "a\x85b", "a\u2028b"]
NAMES = ["conversation_id", "user", "upstream", "model", "idempotency_key"]
MESSAGE = {"role": "user", "content": "hi"}
UI_MESSAGE = {"role": "user", "parts": [{"type": "text", "text": "hi"}]}


def refusal(server: Relay, path: str, body: Any, headers: dict[str, str] | None = None) -> str:
    """Send a POST that must be refused as a bad request; return the message."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with request(
        server.url + path, "POST", body=data, headers={"Content-Type": "application/json"} | (headers or {})
    ) as r:
        message = r.json()["error"]["message"]
        assert r.status == 400, message
        assert "x-injected" not in r.headers
        assert message.isprintable()
        return message


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_line(name: str, text: str, server: Relay, upstream: ScriptedUpstream) -> None:
    assert name in refusal(server, "/runs", {"prompt": "hi", name: text}) or "\0" in text
    form = f"prompt=hi&{name}={quote_plus(text)}".encode()
    assert name in refusal(server, "/stream", form, {"Content-Type": "application/x-www-form-urlencoded"})
    assert upstream.calls == []


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("face", ["/v1/chat/completions", "/api/chat"])
def test_so_it_is_in_every_face(face: str, text: str, server: Relay, upstream: ScriptedUpstream) -> None:
    messages = [UI_MESSAGE if face == "/api/chat" else MESSAGE]
    refusal(server, face, {"messages": messages, "user": text})
    refusal(server, face, {"messages": messages, "conversation_id" if face.startswith("/v1") else "id": text})
    assert upstream.calls == []


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Conversation-Id", "Last-Event-ID", "X-Request-Id"])
@pytest.mark.parametrize("text", ["a\x01b", "a\x7fb", "a\x85b", "\u2028", "x" * 300])
def test_a_header_is_checked_as_a_field_is(name: str, text: str, server: Relay, upstream: ScriptedUpstream) -> None:
    path, body = ("/v1/chat/completions", {"messages": [MESSAGE]}) if "Conv" in name else ("/stream", {"prompt": "hi"})
    data = json.dumps(body).encode()
    with request(server.url + path, "POST", body=data, headers={"Content-Type": "application/json", name: text}) as r:
        taken = name == "X-Request-Id" and text[:2][-1] not in "\x01\x7f"  # which no HTTP server lets through
        assert r.status == (200 if taken else 400)
        assert len(r.headers["x-request-id"]) == 32  # made here, not the client's
        if taken:
            r.body()
            upstream.next_call()
    assert len(upstream.calls) == taken


LIMITS: dict[str, tuple[str, Any, str]] = {  # path, body, what the message names
    "NUL": ("/runs", b'{"prompt": "a\\u0000b"}', "NUL"),
    "NUL behind a backslash": ("/runs", b'{"prompt": "\\\\\\u0000"}', "NUL"),
    "NUL in a name": ("/runs", b'{"prompt": "a", "inputs": {"\\u0000": 1}}', "NUL"),
    "depth": ("/runs", b'{"prompt": "a", "inputs": ' + b'{"a":' * 300 + b"1" + b"}" * 301, "nested"),
    "depth of brackets": ("/v1/chat/completions", b"[" * 100_000, "nested"),
    "depth in a form's JSON": ("/runs", b'{"prompt": "a", "options": ' + b"[" * 300 + b"]" * 300 + b"}", "nested"),
    "messages": ("/runs", {"messages": [MESSAGE] * 1001}, "messages"),
    "UI messages": ("/api/chat", {"messages": [UI_MESSAGE] * 1001}, "messages"),
    "parts": ("/runs", {"messages": [{"role": "user", "content": [{}] * 10_001}]}, "messages[0].content"),
    "UI parts": ("/api/chat", {"messages": [{"role": "user", "parts": [{}] * 10_001}]}, "messages[0].parts"),
    "tool calls": ("/runs", {"messages": [MESSAGE, {"role": "assistant", "tool_calls": [{}] * 129}]}, "tool_calls"),
    "tools": ("/runs", {"prompt": "a", "options": {"tools": [{"type": "function", "function": {}}] * 129}}, "tools"),
    "stop words": ("/runs", {"prompt": "a", "options": {"stop": ["a"] * 5}}, "stop"),
    "a stop word": ("/runs", {"prompt": "a", "options": {"stop": ["a" * 257]}}, "stop"),
    "inputs": ("/runs", {"inputs": {str(number): 1 for number in range(257)}}, "inputs"),
    "files": ("/runs", {"prompt": "a", "files": [{}] * 21}, "files"),
    "a name": ("/runs", {"prompt": "a", "user": "u" * 257}, "user"),
    "a message's name": ("/runs", {"messages": [{**MESSAGE, "name": "n" * 257}]}, "messages[0].name"),
    "a number": ("/runs", b'{"prompt": "a", "options": {"seed": ' + b"9" * 5000 + b"}}", "range"),
    "no number": ("/runs", b'{"prompt": "a", "inputs": {"a": 1e999}}', "JSON"),
    "a type": ("/runs", {"prompt": ["a"]}, "prompt"),
}


@pytest.mark.parametrize("case", LIMITS)
def test_every_field_has_a_limit_and_the_refusal_names_it(case: str, server: Relay, upstream: ScriptedUpstream) -> None:
    path, body, named = LIMITS[case]
    assert named in refusal(server, path, body)
    assert upstream.calls == []


def test_a_backslash_before_u0000_is_text(server: Relay, upstream: ScriptedUpstream) -> None:
    with request(f"{server.url}/chat", "POST", json_body={"prompt": "\\u0000"}) as response:
        assert response.status == 200
        response.body()
    assert json.loads(upstream.next_call().body)["messages"][-1]["content"] == "\\u0000"
