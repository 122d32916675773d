"""What OpenAI's clients send, and what of it reaches an upstream."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.ask import Ask, AskError, Message, Options, Tool
from streaming.wire.openai_ask import ChatRequest, read, to_ask

HI = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}}
WEATHER = {"name": "weather", "parameters": {"type": "object"}, "strict": True}
TOOL = {"type": "function", "function": WEATHER}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "now?"}]},
]


def request(**body: Any) -> ChatRequest:
    return read({"messages": HI, **body})


def ask_openai(**body: Any) -> Ask:
    return to_ask(request(**body), "openai", "main", None)


def ask_dify(**body: Any) -> Ask:
    return to_ask(request(**body), "dify", "app", None)


def test_the_least_request() -> None:
    assert request() == ChatRequest(
        model=None,
        messages=[Message("user", "hi")],
        options=None,
        user=None,
        conversation_id=None,
        stream=False,
        include_usage=False,
    )


def test_a_request_with_everything() -> None:
    asked = request(
        model="m",
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        user="u-1",
        n=1,
        temperature=1,
        top_p=0.5,
        max_tokens=5,
        max_completion_tokens=6,
        presence_penalty=-2,
        frequency_penalty=2,
        stop=["\n"],
        seed=7,
        reasoning_effort="low",
        verbosity="high",
        logit_bias={"50256": -100},
        response_format={"type": "json_object"},
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
    )
    assert (asked.model, asked.stream, asked.include_usage, asked.user) == ("m", True, True, "u-1")
    assert asked.options == Options(
        temperature=1.0,
        top_p=0.5,
        max_tokens=5,
        max_completion_tokens=6,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        stop=["\n"],
        seed=7,
        reasoning_effort="low",
        verbosity="high",
        logit_bias={"50256": -100.0},
        response_format={"type": "json_object"},
        tools=[Tool("function", WEATHER)],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
    )


@pytest.mark.parametrize(
    "ignored",
    [
        {"store": True, "metadata": {"a": "b"}, "service_tier": "priority", "safety_identifier": "x"},
        {"top_k": 5, "thinking": {"type": "disabled"}, "something_new": [1]},
        {"n": None, "stop": None, "tools": None, "stream": None, "stream_options": None, "user": None, "model": None},
        {"user": "", "logprobs": False, "top_logprobs": 0, "modalities": ["text"], "functions": []},
        {"stream_options": {}},
        {"conversation_id": None},
    ],
)
def test_what_is_not_known_or_says_nothing_changes_nothing(ignored: dict[str, Any]) -> None:
    assert request(**ignored) == request()


def test_a_whole_answer_can_be_sent_back_as_history() -> None:
    answer = {
        "role": "assistant",
        "content": "hello",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "reasoning_content": "hm",
    }
    assert request(messages=[*HI, answer]).messages[1] == Message("assistant", "hello")


def test_thinking_stays_beside_tool_calls() -> None:
    """DeepSeek answers 400 where it is missing there, and where it stands elsewhere."""
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"}
    result = {"role": "tool", "content": "9", "tool_call_id": "call_1"}
    assert request(messages=[*HI, answer, result]).messages[1:] == [
        Message("assistant", None, tool_calls=[CALL], reasoning_content="hm"),
        Message("tool", "9", tool_call_id="call_1"),
    ]


MISTAKES: list[tuple[dict[str, Any], str | None]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [*HI, {}]}, "messages[1]"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "function", "content": "hi", "name": "f"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": {"text": "hi"}}]}, "messages[0].content"),
    ({"messages": HI * 1001}, "messages"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"model": ["m"]}, "model"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": True}, "stream_options"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"n": 0}, "n"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"n": "1"}, "n"),
    ({"user": 5}, "user"),
    ({"user": "u" * 257}, "user"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"seed": 2**63}, "seed"),
    ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
    ({"logit_bias": []}, "logit_bias"),
    ({"response_format": "json"}, "response_format"),
    ({"tools": {}}, "tools"),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tools": ["weather"]}, "tools[0]"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ({"tools": [TOOL, {"type": "custom", "function": {}}]}, "tools[1].type"),
    ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function"),
    ({"tool_choice": "some"}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"functions": [WEATHER]}, "functions"),
    ({"function_call": "auto"}, "function_call"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"modalities": "audio"}, "modalities"),
    ({"conversation_id": ""}, "conversation_id"),
    ({"conversation_id": ["c"]}, "conversation_id"),
    ({"reasoning_effort": "x" * 17}, "reasoning_effort"),
    ({"verbosity": 1}, "verbosity"),
]


@pytest.mark.parametrize(("body", "field"), MISTAKES, ids=lambda value: json.dumps(value)[:60])
def test_a_mistake_names_its_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(AskError) as caught:
        request(**body)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"field '{field}': ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("body", [None, [], "hi", 5, {}])
def test_a_body_that_asks_nothing_is_told_so(body: Any) -> None:
    with pytest.raises(AskError):
        read(body)


@given(
    st.dictionaries(
        st.sampled_from(sorted({name for body, _ in MISTAKES for name in body})),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
            max_leaves=5,
        ),
    ),
    st.sampled_from(["openai", "dify", "demo"]),
)
def test_any_json_is_an_ask_or_a_told_mistake(body: dict[str, Any], dialect: str) -> None:
    try:
        ask = to_ask(request(**body), dialect, None, None)
    except AskError:
        return
    assert ask.on_disconnect == "cancel"


# -- what reaches an upstream ------------------------------------------------------------------------------------------


def test_an_openai_upstream_gets_everything() -> None:
    ask = to_ask(request(messages=HISTORY, temperature=0, user="u"), "openai", "main", "m-2")
    assert ask == Ask(
        messages=request(messages=HISTORY).messages,
        options=Options(temperature=0.0),
        user="u",
        upstream="main",
        model="m-2",
        on_disconnect="cancel",
    )


def test_only_upstreams_that_keep_the_history_have_conversations() -> None:
    with pytest.raises(AskError) as caught:
        ask_openai(conversation_id="c-1")
    assert caught.value.field == "conversation_id"


def test_dify_gets_the_last_question_in_a_conversation() -> None:
    ask = to_ask(read({"messages": HISTORY}, "c-1"), "dify", "app", None)
    assert ask == Ask(prompt="and now?", conversation_id="c-1", upstream="app", on_disconnect="cancel")
    assert ask == ask_dify(messages=HISTORY, conversation_id="c-1")
    last_is_an_answer = [*HISTORY, {"role": "assistant", "content": "Sure,"}]
    assert ask == ask_dify(messages=last_is_an_answer, conversation_id="c-1")


def test_dify_gets_the_history_as_one_question_without_a_conversation() -> None:
    assert ask_dify(messages=HISTORY).prompt == "system: Be brief.\n\nuser: hi\n\nassistant: hello\n\nuser: and now?"
    assert ask_dify().prompt == "hi"


def test_header_and_field_must_agree() -> None:
    assert read({"messages": HI, "conversation_id": "c"}, "c").conversation_id == "c"
    with pytest.raises(AskError, match="differ"):
        read({"messages": HI, "conversation_id": "c"}, "d")


def test_what_only_changes_the_style_is_passed_over_for_dify() -> None:
    ask = ask_dify(temperature=0, max_tokens=5, tool_choice="auto", tools=[], response_format={"type": "text"})
    assert ask.options is None


def test_images_become_difys_files() -> None:
    files = [{"type": "image", "transfer_method": "remote_url", "url": "https://x.example/a.png"}]
    question = {"role": "user", "content": [{"type": "text", "text": "what?"}, IMAGE]}
    assert ask_dify(messages=[question]).files == files
    assert ask_dify(messages=[question, question]).files == files * 2
    # In a conversation Dify has the earlier ones.
    assert ask_dify(messages=[question, {"role": "user", "content": "and?"}], conversation_id="c").files is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"messages": [*HI, {"role": "assistant", "tool_calls": [CALL]}]}, "messages[1]"),
        ({"messages": [*HI, {"role": "tool", "content": "9", "tool_call_id": "call_1"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages"),  # Dify wants a question
        ({"messages": [{"role": "assistant", "content": "hi"}], "conversation_id": "c"}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "input_audio"}]}]},
            "messages[0].content[1]",
        ),
        (
            {
                "messages": [
                    *HI,
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}],
                    },
                ]
            },
            "messages[1].content[0]",
        ),
        (
            {"messages": [*HI, {"role": "user", "content": [{"type": "image_url", "image_url": "https://x"}]}]},
            "messages[1].content[0]",
        ),
    ],
)
def test_what_dify_cannot_do_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(AskError) as caught:
        ask_dify(**body)
    assert caught.value.field == field
    ask_openai(**{name: value for name, value in body.items() if name != "conversation_id"})  # where it is no mistake
