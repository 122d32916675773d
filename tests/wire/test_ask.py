"""What a caller may ask, as JSON and as form or query pairs, and how a mistake is told."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.ask import Ask, AskError, Message, Options, from_json, from_pairs

PARTS = [
    {"type": "text", "text": "what "},
    {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
    {"type": "text", "text": "is this?"},
    {"type": "text", "text": 5},
]


@pytest.mark.parametrize(
    ("body", "ask"),
    [
        ({"prompt": "hi"}, Ask(prompt="hi")),
        ({"query": "hi"}, Ask(prompt="hi")),  # Dify's word
        ({"prompt": "null"}, Ask(prompt="null")),
        ({"inputs": {}}, Ask(inputs={})),  # a Dify app may take only inputs
        ({"inputs": {"a": {"b": [1]}}, "prompt": None}, Ask(inputs={"a": {"b": [1]}})),
        ({"prompt": "hi", "messages": None, "conversation_id": None}, Ask(prompt="hi")),
        (
            {"prompt": "again", "conversation_id": "c-1", "replace_last": True},
            Ask(prompt="again", conversation_id="c-1", replace_last=True),
        ),
        (
            {"messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": PARTS, "name": "n"}]},
            Ask(messages=[Message(role="developer", content="x"), Message(role="user", content=PARTS, name="n")]),
        ),
        (
            {"prompt": "hi", "options": {"temperature": 1, "stop": "\n", "seed": -(2**63)}},
            Ask(prompt="hi", options=Options(temperature=1.0, stop="\n", seed=-(2**63))),
        ),
        (
            {
                "prompt": "hi",
                "on_disconnect": "cancel",
                "response_mode": "blocking",
                "idempotency_key": "k",
                "user": "u",
            },
            Ask(prompt="hi", on_disconnect="cancel", response_mode="blocking", idempotency_key="k", user="u"),
        ),
    ],
)
def test_a_json_body_becomes_an_ask(body: dict[str, Any], ask: Ask) -> None:
    assert from_json(body) == ask


@pytest.mark.parametrize(
    ("pairs", "body"),
    [
        ({"prompt": "hi"}, {"prompt": "hi"}),
        ({"query": "hi", "utm_source": "mail", "format": "sse"}, {"prompt": "hi"}),  # unknown ones are not ours
        ({"prompt": "5", "user": "true", "upstream": "null"}, {"prompt": "5", "user": "true", "upstream": "null"}),
        ({"prompt": "hi", "conversation_id": "", "user": ""}, {"prompt": "hi"}),  # a form sends its empty fields too
        (
            {"prompt": "hi", "conversation_id": "c", "replace_last": "true"},
            {"prompt": "hi", "conversation_id": "c", "replace_last": True},
        ),
        ({"prompt": "hi", "replace_last": "0"}, {"prompt": "hi"}),
        (
            {"prompt": "hi", "options": '{"max_tokens": 5}', "inputs": '{"a": "1"}', "files": "[]"},
            {"prompt": "hi", "options": {"max_tokens": 5}, "inputs": {"a": "1"}, "files": []},
        ),
        ({"messages": '[{"role":"user","content":"hi"}]'}, {"messages": [{"role": "user", "content": "hi"}]}),
        ({"prompt": "hi", "on_disconnect": "finish"}, {"prompt": "hi", "on_disconnect": "finish"}),
    ],
)
def test_a_form_and_the_same_json_make_equal_asks(pairs: dict[str, str], body: dict[str, Any]) -> None:
    """An idempotency key compares asks: the same question by form and by JSON is the same ask."""
    assert from_pairs(pairs) == from_json(body)


@given(st.text(min_size=1).filter(str.strip).filter(lambda text: "\0" not in text))
def test_a_prompt_passes_as_it_is(text: str) -> None:
    assert from_json({"prompt": text}).prompt == text
    assert from_pairs({"prompt": text}).prompt == text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # unknown fields, by name and with a hint
        ({"promt": "hi"}, "unknown field 'promt'; did you mean 'prompt'?"),
        ({"prompt": "hi", "conversationId": "c"}, "unknown field 'conversationId'; did you mean 'conversation_id'?"),
        ({"prompt": "hi", "Query": "x"}, "unknown field 'Query'; did you mean 'query'?"),
        ({"zzz": 1}, "unknown field 'zzz'; known are prompt, messages, conversation_id"),
        ({"prompt": "hi", "options": {"temprature": 1}}, "field 'options': Object contains unknown field `temprature`"),
        ({"messages": [{"role": "user", "text": "x"}]}, "field 'messages[0]': Object contains unknown field `text`"),
        # wrong types and ranges, by path
        ({"prompt": 5}, "field 'prompt': Expected `str | null`, got `int`"),
        ({"query": ["x"]}, "field 'prompt': Expected `str | null`, got `array`"),
        ({"prompt": "hi", "options": []}, "field 'options': Expected `object | null`, got `array`"),
        ({"prompt": "hi", "options": {"seed": "5"}}, "field 'options.seed': Expected `int | null`, got `str`"),
        ({"prompt": "hi", "options": {"seed": 2**63}}, "field 'options.seed': Expected `int` <= 9223372036854775807"),
        ({"prompt": "hi", "options": {"temperature": 2.1}}, "field 'options.temperature': Expected `float` <= 2.0"),
        ({"prompt": "hi", "options": {"max_tokens": 0}}, "field 'options.max_tokens': Expected `int` >= 1"),
        ({"prompt": "hi", "options": {"stop": ["a"] * 5}}, "field 'options.stop': Expected `array` of length <= 4"),
        ({"prompt": "hi", "options": {"stop": ["a", 5]}}, "field 'options.stop[1]': Expected `str`, got `int`"),
        ({"prompt": "hi", "user": ""}, "field 'user': Expected `str` of length >= 1"),
        ({"prompt": "hi", "user": "u" * 257}, "field 'user': Expected `str` of length <= 256"),
        ({"prompt": "hi", "files": [{}] * 21}, "field 'files': Expected `array` of length <= 20"),
        ({"prompt": "hi", "replace_last": "true"}, "field 'replace_last': Expected `bool`, got `str`"),
        ({"prompt": "hi", "on_disconnect": "stay"}, "field 'on_disconnect': Invalid enum value 'stay'"),
        ({"messages": []}, "field 'messages': Expected `array` of length >= 1"),
        ({"messages": [{"content": "hi"}]}, "field 'messages[0]': Object missing required field `role`"),
        ({"messages": [{"role": "robot"}]}, "field 'messages[0].role': Invalid enum value 'robot'"),
        ({"messages": [{"role": "user", "content": [1]}]}, "field 'messages[0].content[0]': Expected `object`"),
        # fields that do not go together
        ({"prompt": "hi", "messages": [{"role": "user"}]}, "give 'prompt' or 'messages', not both"),
        ({"prompt": "hi", "query": "hi"}, "give 'prompt' or 'query', not both"),
        ({"messages": [{"role": "user"}], "conversation_id": "c"}, "'messages' bring their own history"),
        ({"messages": [{"role": "user"}], "replace_last": True}, "'replace_last' needs a 'prompt'"),
        ({"prompt": "hi", "replace_last": True}, "'replace_last' needs a 'conversation_id'"),
        ({"prompt": " \n"}, "'prompt' is empty"),
        ({"query": ""}, "'prompt' is empty"),
        ({}, "'prompt' is missing"),
        ({"prompt": None, "user": "u"}, "'prompt' is missing"),
    ],
)
def test_a_mistake_in_json_is_told_with_the_name_of_the_field(body: dict[str, Any], message: str) -> None:
    with pytest.raises(AskError) as caught:
        from_json(body)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("body", [None, [], "prompt", 5, True])
def test_a_body_that_is_no_object_is_told_so(body: Any) -> None:
    with pytest.raises(AskError, match="the body must be a JSON object"):
        from_json(body)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({}, "'prompt' is missing"),
        ({"prompt": ""}, "'prompt' is empty"),  # an empty form: the person is told what is wrong with the field
        ({"query": " "}, "'prompt' is empty"),
        ({"prompt": "hi", "options": "{"}, "field 'options' must be JSON text here"),
        ({"prompt": "hi", "inputs": "plain"}, "field 'inputs' must be JSON text here"),
        ({"prompt": "hi", "inputs": "[" * 100_000}, "field 'inputs' must be JSON text here"),
        ({"prompt": "hi", "inputs": '"\ud83d"'}, "field 'inputs' must be JSON text here"),
        ({"prompt": "hi", "inputs": "[1]"}, "field 'inputs': Expected `object | null`, got `array`"),
        ({"prompt": "hi", "replace_last": "maybe"}, "field 'replace_last': Expected `bool`, got `str`"),
        ({"prompt": "hi", "response_mode": "x"}, "field 'response_mode': Invalid enum value 'x'"),
    ],
)
def test_a_mistake_in_a_form_is_told_with_the_name_of_the_field(pairs: dict[str, str], message: str) -> None:
    with pytest.raises(AskError) as caught:
        from_pairs(pairs)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "body",
    [
        {"a\r\nX-Evil: 1": 1},
        {"a" * 10_000: 1},
        {"prompt": "hi", "options": {"a\r\nb\u2028": 1}},
        {"prompt": "hi", "options": {"a" * 10_000: 1}},
        {"prompt": "hi", "on_disconnect": "a\r\n\0" * 10_000},
        {"prompt": "hi", "options": {"a - at `$.prompt`": 1}},
    ],
)
def test_a_callers_own_words_cannot_break_a_line_or_flood_it(body: dict[str, Any]) -> None:
    with pytest.raises(AskError) as caught:
        from_json(body)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    assert not message.startswith("field 'prompt'")


@given(
    st.dictionaries(
        st.sampled_from([*Ask.__struct_fields__, "query"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
            max_leaves=5,
        ),
    )
)
def test_any_json_is_an_ask_or_a_told_mistake(body: dict[str, Any]) -> None:
    try:
        ask = from_json(body)
    except AskError:
        return
    assert from_json(json.loads(msgspec.json.encode(ask))) == ask  # an ask survives the store


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message(role="user", content="hi"), "hi"),
        (Message(role="user", content=PARTS), "what is this?"),
        (Message(role="assistant"), ""),
        (Message(role="user", content=[]), ""),
    ],
)
def test_the_text_of_a_message_is_its_text_parts_alone(message: Message, text: str) -> None:
    assert message.text() == text
