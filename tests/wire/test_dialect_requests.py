"""What is sent to an upstream: URL, headers and JSON body of every kind of question."""

import json
from typing import Any

import pytest

from streaming.wire.ask import Ask, AskError, Context, Message, Options, Tool
from streaming.wire.dialects.dify import Dify
from streaming.wire.dialects.http import endpoint
from streaming.wire.dialects.openai import OpenAI


def context(*contents: Any, conversation_id: str | None = None) -> Context:
    """Return a context whose messages are the user's and the assistant's in turn, the user's last."""
    roles = ["user" if (len(contents) - n) % 2 else "assistant" for n in range(len(contents))]
    messages = [Message(role=role, content=content) for role, content in zip(roles, contents, strict=True)]  # type: ignore[arg-type]
    return Context(messages=messages, conversation_id=conversation_id, user="visitor-1")


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def openai(**settings: Any) -> OpenAI:
    return OpenAI(**{"url": "https://upstream.example", "api_key": "sk-1", "model": "m", **settings})


def dify(mode: str = "chat", **settings: Any) -> Dify:
    return Dify(**{"url": "https://upstream.example", "api_key": "app-1", "mode": mode, **settings})


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
        ("https://api.deepseek.com/chat/completions", "https://api.deepseek.com/chat/completions"),
        ("http://localhost:11434/v1/chat/completions/?a=1", "http://localhost:11434/v1/chat/completions?a=1"),
        ("https://r.openai.azure.com/openai/v1", "https://r.openai.azure.com/openai/v1/chat/completions"),
        (
            "https://r.openai.azure.com/openai/deployments/dep?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/dep/chat/completions?api-version=2024-10-21",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/dep/chat/completions?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/dep/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_a_base_url_is_taken_with_and_without_its_version_and_path(base: str, url: str) -> None:
    assert endpoint(base, "chat/completions") == url
    assert openai(url=base).request(Ask(prompt="hi"), context("hi")).url == url


@pytest.mark.parametrize(
    ("auth_header", "api_key", "sent"),
    [
        ("Authorization", "sk-1", {"Authorization": "Bearer sk-1"}),
        ("authorization", "sk-1", {"authorization": "Bearer sk-1"}),
        ("api-key", "az-1", {"api-key": "az-1"}),  # Azure wants the key bare
        ("Authorization", None, {}),  # Ollama has none
        ("Authorization", "", {}),
    ],
)
def test_the_key_is_a_bearer_token_only_in_authorization(
    auth_header: str, api_key: str | None, sent: dict[str, str]
) -> None:
    request = openai(auth_header=auth_header, api_key=api_key).request(Ask(prompt="hi"), context("hi"))
    assert request.headers == {"Content-Type": "application/json", "Accept": "text/event-stream", **sent}


PARTS = [
    {"type": "text", "text": "what is this?"},
    {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
]
PLAIN = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("settings", "ask", "given", "body"),
    [
        ({}, Ask(prompt="hi"), context("hi"), {**PLAIN, "messages": [user("hi")]}),
        (
            {},
            Ask(prompt="and now?", conversation_id="c"),
            context("hi", "hello", "and now?"),
            {**PLAIN, "messages": [user("hi"), {"role": "assistant", "content": "hello"}, user("and now?")]},
        ),
        (
            {"system_prompt": "Be brief."},
            Ask(prompt="hi"),
            context("hi"),
            {**PLAIN, "messages": [{"role": "system", "content": "Be brief."}, user("hi")]},
        ),
        (  # a caller's own system message stands
            {"system_prompt": "Be brief."},
            Ask(messages=[Message(role="developer", content="Be long."), Message(role="user", content="hi")]),
            Context(
                messages=[Message(role="developer", content="Be long."), Message(role="user", content="hi")], user="u"
            ),
            {**PLAIN, "messages": [{"role": "developer", "content": "Be long."}, user("hi")]},
        ),
        (
            {"include_usage": False},
            Ask(prompt="hi"),
            context("hi"),
            {"model": "m", "stream": True, "messages": [user("hi")]},
        ),
        (
            {"model": None},
            Ask(prompt="hi"),
            context("hi"),
            {"stream": True, "stream_options": {"include_usage": True}, "messages": [user("hi")]},
        ),
        ({}, Ask(prompt="hi", user="abc-123"), context("hi"), {**PLAIN, "user": "abc-123", "messages": [user("hi")]}),
        (
            {},
            Ask(prompt="hi", options=Options(temperature=0, max_tokens=5, stop=["\n"], seed=-1)),
            context("hi"),
            {**PLAIN, "temperature": 0, "max_tokens": 5, "stop": ["\n"], "seed": -1, "messages": [user("hi")]},
        ),
        (
            {"models": ("m-2",)},
            Ask(prompt="hi", model="m-2"),
            context("hi"),
            {**PLAIN, "model": "m-2", "messages": [user("hi")]},
        ),
        (
            {},
            Ask(prompt="hi", options=Options(tools=[Tool("function", {"name": "f"})], tool_choice="auto")),
            context("hi"),
            {
                **PLAIN,
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": "auto",
                "messages": [user("hi")],
            },
        ),
        ({}, Ask(messages=[Message(role="user", content=PARTS)]), context(PARTS), {**PLAIN, "messages": [user(PARTS)]}),
        (  # a tool's turn: absent fields stay absent, old servers refuse nulls
            {},
            Ask(messages=[Message(role="user", content="hi")]),
            Context(
                messages=[
                    Message(role="assistant", tool_calls=[{"id": "call_1"}]),
                    Message(role="tool", content="9", tool_call_id="call_1"),
                ],
                user="u",
            ),
            {
                **PLAIN,
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "call_1"}]},
                    {"role": "tool", "content": "9", "tool_call_id": "call_1"},
                ],
            },
        ),
    ],
)
def test_an_openai_request_is_exactly_what_was_asked_for(
    settings: dict[str, Any], ask: Ask, given: Context, body: dict[str, Any]
) -> None:
    assert json.loads(openai(**settings).request(ask, given).body) == body


CHAT = {"response_mode": "streaming", "user": "visitor-1"}
FILES = [{"type": "image", "transfer_method": "remote_url", "url": "https://x.example/a.png"}]
TURNS = [Message(role="system", content="Be brief."), Message(role="user", content=PARTS)]


@pytest.mark.parametrize(
    ("mode", "settings", "ask", "given", "path", "body"),
    [
        (
            "chat",
            {},
            Ask(prompt="hi"),
            context("hi"),
            "/v1/chat-messages",
            {**CHAT, "inputs": {}, "query": "hi", "conversation_id": ""},
        ),
        (  # the caller's conversation is ours; Dify gets its own
            "chat",
            {},
            Ask(prompt="hi", conversation_id="ours", inputs={"lang": "de"}, files=FILES, user="someone"),
            context("hi", conversation_id="theirs"),
            "/v1/chat-messages",
            {**CHAT, "inputs": {"lang": "de"}, "query": "hi", "conversation_id": "theirs", "files": FILES},
        ),
        (
            "chat",
            {},
            Ask(messages=TURNS[1:]),
            context(PARTS),
            "/v1/chat-messages",
            {**CHAT, "inputs": {}, "query": "what is this?", "conversation_id": ""},
        ),
        (  # Dify takes one question: several turns are written out as one
            "chat",
            {},
            Ask(messages=TURNS),
            Context(messages=TURNS, user="visitor-1"),
            "/v1/chat-messages",
            {**CHAT, "inputs": {}, "query": "system: Be brief.\n\nuser: what is this?", "conversation_id": ""},
        ),
        (
            "completion",
            {},
            Ask(inputs={"topic": "tea"}),
            context("hi"),
            "/v1/completion-messages",
            {**CHAT, "inputs": {"topic": "tea"}, "query": ""},
        ),
        (
            "completion",
            {},
            Ask(prompt="hi", files=[]),
            context("hi"),
            "/v1/completion-messages",
            {**CHAT, "inputs": {"query": "hi"}, "query": "hi", "files": []},
        ),
        ("workflow", {}, Ask(prompt="hi"), context("hi"), "/v1/workflows/run", {**CHAT, "inputs": {"query": "hi"}}),
        (
            "workflow",
            {"prompt_input": "topic"},
            Ask(prompt="hi", inputs={"lang": "de"}),
            context("hi"),
            "/v1/workflows/run",
            {**CHAT, "inputs": {"topic": "hi", "lang": "de"}},
        ),
        (
            "workflow",
            {},
            Ask(inputs={"query": "x"}),
            context("hi"),
            "/v1/workflows/run",
            {**CHAT, "inputs": {"query": "x"}},
        ),
    ],
)
def test_a_dify_request_has_the_route_and_body_of_its_mode(
    mode: str, settings: dict[str, Any], ask: Ask, given: Context, path: str, body: dict[str, Any]
) -> None:
    for base in ("https://upstream.example", "https://upstream.example/v1", "https://upstream.example/v1/"):
        request = dify(mode, url=base, **settings).request(ask, given)
        assert request.url == "https://upstream.example" + path
        assert json.loads(request.body) == body
        assert request.headers["Authorization"] == "Bearer app-1"
        assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("url", "options", "sent"),
    [
        ("https://upstream.example", None, {"max_tokens": 100}),
        ("https://upstream.example", Options(max_tokens=7), {"max_tokens": 7}),
        ("https://upstream.example", Options(max_completion_tokens=100), {"max_completion_tokens": 100}),
        ("https://api.openai.com/v1", Options(seed=1), {"seed": 1, "max_completion_tokens": 100}),
    ],
)
def test_no_answer_may_be_longer_than_the_upstream_allows(
    url: str, options: Options | None, sent: dict[str, int]
) -> None:
    ask, dialect = Ask(prompt="hi", options=options), openai(url=url, max_tokens=100)
    dialect.check(ask)
    body = json.loads(dialect.request(ask, context("hi")).body)
    assert {name: body[name] for name in body if name in Options.__struct_fields__} == sent


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_more_tokens_than_the_upstream_allows_are_refused(name: str) -> None:
    dialect = openai(max_tokens=100)
    with pytest.raises(AskError, match=f"^field '{name}': this upstream allows 100 at most$"):
        dialect.check(Ask(prompt="hi", options=Options(**{name: 101})))
    openai().check(Ask(prompt="hi", options=Options(**{name: 101})))


def test_only_the_options_that_the_upstream_allows_may_be_set() -> None:
    dialect = openai(options=("temperature", "stop"))
    dialect.check(Ask(prompt="hi", options=Options(temperature=0, stop="x")))
    with pytest.raises(AskError, match=r"^field 'seed': this upstream does not let callers set it$") as caught:
        dialect.check(Ask(prompt="hi", options=Options(temperature=0, seed=1)))
    assert caught.value.field == "options.seed"


def test_a_request_leaves_the_ask_as_it_was() -> None:
    """A retry makes the request again from the same ask."""
    ask = Ask(prompt="hi", inputs={"lang": "de"})
    workflow = dify("workflow")
    assert workflow.request(ask, context("hi")) == workflow.request(ask, context("hi"))
    assert ask.inputs == {"lang": "de"}


@pytest.mark.parametrize("mode", ["chat", "completion", "workflow"])
def test_dify_is_told_the_id_of_the_request_as_its_trace_id(mode: str) -> None:
    given = Context(messages=[Message(role="user", content="hi")], user="u", request_id="req-1")
    assert json.loads(dify(mode).request(Ask(prompt="hi"), given).body)["trace_id"] == "req-1"
    assert "trace_id" not in json.loads(dify(mode).request(Ask(prompt="hi"), context("hi")).body)


def test_a_lone_surrogate_in_a_question_still_makes_a_request() -> None:
    ask = Ask(prompt="a\ud83d", inputs={"\udca7": "b\ud83d"})
    assert json.loads(dify().request(ask, context("a\ud83d")).body)["query"] == "a\ufffd"
    assert json.loads(openai().request(Ask(prompt="a\ud83d"), context("a\ud83d")).body)["messages"] == [user("a\ufffd")]


REMOTE = {"type": "image", "transfer_method": "remote_url", "url": "https://x.example/a.png"}
LOCAL = {"type": "document", "transfer_method": "local_file", "upload_file_id": "f-1", "newer": True}


@pytest.mark.parametrize(
    ("dialect", "ask", "named"),
    [
        (openai(), Ask(prompt="hi", inputs={}), "'inputs'"),
        (openai(), Ask(prompt="hi", files=[]), "'files'"),
        (dify(), Ask(prompt="hi", options=Options()), "'options'"),
        (dify(), Ask(prompt="hi", model="m"), "'model'"),
        (openai(), Ask(prompt="hi", model="m-2"), "'model'"),
        (openai(models=("m-2",)), Ask(prompt="hi", model="m-3"), "'model'"),
        (dify(), Ask(inputs={}), "'prompt'"),
        (dify(), Ask(prompt="hi", files=[{}]), r"'files\[0\]': .*`type`"),
        (dify(), Ask(prompt="hi", files=[REMOTE, {**REMOTE, "type": "exe"}]), r"'files\[1\].type'"),
        (dify(), Ask(prompt="hi", files=[{**REMOTE, "transfer_method": "ftp"}]), r"'files\[0\].transfer_method'"),
        (dify(), Ask(prompt="hi", files=[{**REMOTE, "url": "file:///etc/passwd"}]), r"'files\[0\].url'"),
        (dify(), Ask(prompt="hi", files=[{**REMOTE, "url": None}]), r"'files\[0\].url' is missing"),
        (dify("workflow"), Ask(inputs={}, files=[{**LOCAL, "upload_file_id": 5}]), r"'files\[0\].upload_file_id'"),
        (dify(), Ask(prompt="hi", files=[{**LOCAL, "upload_file_id": None}]), r"'files\[0\].upload_.* is missing"),
        (dify("completion"), Ask(prompt="hi", conversation_id="c"), "'conversation_id'"),
        (dify("workflow"), Ask(inputs={}, conversation_id="c"), "'conversation_id'"),
    ],
)
def test_a_field_that_the_upstream_does_not_have_is_refused_by_name(
    dialect: OpenAI | Dify, ask: Ask, named: str
) -> None:
    with pytest.raises(AskError, match=named):
        dialect.check(ask)


@pytest.mark.parametrize(
    ("dialect", "ask"),
    [
        (openai(), Ask(prompt="hi", conversation_id="c", options=Options(seed=1))),
        (dify(), Ask(prompt="hi", conversation_id="c", inputs={}, files=[])),
        (openai(), Ask(prompt="hi", model="m")),
        (openai(models=("m-2",)), Ask(prompt="hi", model="m-2")),
        (openai(models=("*",)), Ask(prompt="hi", model="whatever")),
        (dify("completion"), Ask(inputs={})),
        (dify("workflow"), Ask(inputs={}, files=[])),
        (dify(), Ask(prompt="hi", files=[REMOTE, LOCAL])),
    ],
)
def test_a_field_that_the_upstream_has_passes(dialect: OpenAI | Dify, ask: Ask) -> None:
    dialect.check(ask)
