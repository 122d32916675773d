"""What an AI SDK page sends becomes an ask: messages with images and tool results, or a Dify app's prompt."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.ask import Ask, AskError
from streaming.wire.ui_messages import OWN_FIELDS, from_body

IMAGE = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA==", "filename": "a.png"}
PDF = {"type": "file", "mediaType": "application/pdf", "url": "https://x.example/a.pdf"}
CALL = {"type": "tool-weather", "toolCallId": "c1", "state": "output-available", "input": {"city": "北京"}, "output": 7}
IGNORED = [
    {"type": "data-x", "text": 5},
    {"type": "reasoning", "text": "hm"},
    {"type": "source-url", "url": 5},
    {"type": "new"},
]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "state": "done"}


def message(role: str, *parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "m", "role": role, "parts": list(parts), **fields}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return message("user", *parts)


def ask(*messages: dict[str, Any], history: str = "relay", conversation: str | None = None, **fields: Any) -> Ask:
    return from_body({"id": "chat", "messages": list(messages), **fields}).ask(history, conversation)


def sent(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages as they go to an OpenAI-compatible upstream."""
    return msgspec.to_builtins(ask(*messages).messages)


# -- for upstreams that keep no history --------------------------------------------------------------------------------


def test_the_whole_history_is_sent() -> None:
    history = [
        message("system", text("Be brief.")),
        user(text("Hi")),
        message("assistant", text("Hello")),
        user(text("?")),
    ]
    assert sent(*history) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "?"},
    ]


def test_a_users_texts_are_lines_and_an_answers_are_pieces() -> None:
    split = message("assistant", {"type": "step-start"}, text("a"), {"type": "reasoning", "text": "x"}, text("b"))
    assert [each["content"] for each in sent(user(text("a"), text("b")), split, user(text("?")))] == ["a\nb", "ab", "?"]


def test_unknown_parts_and_empty_messages_are_left_out() -> None:
    silent = [user(*IGNORED), message("assistant", {"type": "step-start"}), message("assistant", text(""))]
    assert sent(*silent, user(*IGNORED, text("?"))) == [{"role": "user", "content": "?"}]


def test_images_go_with_the_text_in_their_order() -> None:
    [question] = sent(user(text("What is"), IMAGE, text("this?")))
    assert question["content"] == [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": IMAGE["url"]}},
        {"type": "text", "text": "this?"},
    ]
    assert sent(user(IMAGE))[0]["content"] == [{"type": "image_url", "image_url": {"url": IMAGE["url"]}}]


def test_a_text_that_was_taken_back_is_not_sent_again() -> None:
    moderated = message("assistant", text("bad"), {"type": "data-replace", "id": "replace-1", "data": {}}, text("ok"))
    assert sent(moderated, user(text("?")))[0]["content"] == "ok"


def test_tool_results_follow_their_calls_step_by_step() -> None:
    steps = message(
        "assistant", {"type": "step-start"}, text("Let me see."), CALL, {"type": "step-start"}, text("7 degrees.")
    )
    function = {"name": "weather", "arguments": '{"city":"北京"}'}
    assert sent(steps) == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "7", "tool_call_id": "c1"},
        {"role": "assistant", "content": "7 degrees."},
    ]


@pytest.mark.parametrize(
    ("fields", "arguments", "result"),
    [
        ({"output": "sunny"}, {"city": "北京"}, "sunny"),
        ({"output": {"a": [1]}}, {"city": "北京"}, '{"a":[1]}'),
        ({"output": None, "input": None}, {}, "null"),
        ({"state": "output-error", "errorText": "broken", "input": '{"a":'}, '{"a":', "broken"),
        ({"state": "output-error", "errorText": "broken", "input": None, "rawInput": "x"}, "x", "broken"),
        ({"state": "output-denied"}, {"city": "北京"}, "The user did not allow this call."),
        ({"type": "dynamic-tool", "toolName": "weather", "output": 7}, {"city": "北京"}, "7"),
    ],
)
def test_every_kind_of_answered_call_is_sent(fields: dict[str, Any], arguments: Any, result: str) -> None:
    said, answered = sent(message("assistant", {**CALL, **fields}))
    [call] = said["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == arguments  # JSON, even where the model's own was not
    assert answered == {"role": "tool", "content": result, "tool_call_id": "c1"}


@pytest.mark.parametrize(
    "fields", [{"state": "input-available"}, {"state": "input-streaming"}, {"preliminary": True}, {"state": 5}]
)
def test_a_call_without_its_result_is_left_out(fields: dict[str, Any]) -> None:
    assert sent(message("assistant", {**CALL, **fields}), user(text("?"))) == [{"role": "user", "content": "?"}]


# -- for Dify ----------------------------------------------------------------------------------------------------------

HISTORY = (user(text("Hi")), message("assistant", text("Hello")), user(text("And?")))


def test_a_conversation_gets_the_last_question_alone() -> None:
    asked = ask(*HISTORY, history="upstream", conversation="c-1")
    assert (asked.prompt, asked.conversation_id, asked.replace_last) == ("And?", "c-1", False)
    again = ask(*HISTORY, history="upstream", conversation="c-1", trigger="regenerate-message")
    assert again.replace_last


@pytest.mark.parametrize("history", ["upstream", "none"])
def test_without_a_conversation_nothing_is_forgotten(history: str) -> None:
    assert ask(HISTORY[0], history=history).prompt == "Hi"
    asked = ask(*HISTORY, history=history, trigger="regenerate-message")
    assert asked.prompt == "user: Hi\n\nassistant: Hello\n\nuser: And?"
    assert (asked.conversation_id, asked.replace_last, asked.messages) == (None, False, None)


@pytest.mark.parametrize("conversation", [None, "c-1"])
def test_files_of_the_last_question_go_to_dify_by_address(conversation: str | None) -> None:
    named = {"type": "image", "transfer_method": "local_file", "upload_file_id": "u"}
    image = {**IMAGE, "url": "http://x.example/a.png"}
    last = user(text("?"), PDF, image)
    asked = ask(user(text("Hi"), PDF), last, history="upstream", conversation=conversation, files=[named])
    assert asked.files == [
        {"type": "document", "transfer_method": "remote_url", "url": PDF["url"]},
        {"type": "image", "transfer_method": "remote_url", "url": "http://x.example/a.png"},
        named,
    ]


# -- the body ----------------------------------------------------------------------------------------------------------


def test_what_an_app_adds_is_ignored_unless_it_is_a_field_of_an_ask() -> None:
    own = {
        "upstream": "u",
        "model": "m",
        "options": {"temperature": 0},
        "on_disconnect": "cancel",
        "user": "abc",
        "inputs": {"a": 1},
        "files": [],
        "flush_ms": 5,
        "idempotency_key": "k",
    }
    assert set(own) == set(OWN_FIELDS)
    asked = ask(user(text("?")), **own, stream=True, temperature="x", metadata=5, messageId=None, conversation_id=5)
    assert {name: getattr(asked, name) for name in own if name != "options"} == {
        name: value for name, value in own.items() if name != "options"
    }
    assert asked.options is not None
    assert asked.options.temperature == 0


def test_a_run_goes_on_without_readers_unless_the_page_says_otherwise() -> None:
    assert ask(user(text("?"))).on_disconnect == "finish"


def test_the_message_that_an_answer_goes_on_with() -> None:
    def continues(*messages: dict[str, Any]) -> str | None:
        return from_body({"messages": list(messages)}).continues

    assert continues(user(text("?"))) is None
    assert continues(user(text("?")), message("assistant", CALL, id="a-1")) == "a-1"
    assert continues({"role": "assistant", "parts": []}) is None


GOOD = user(text("?"))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "must be a JSON object"),
        ({}, "messages"),
        ({"messages": []}, "'messages'"),
        ({"messages": {}}, "'messages'"),
        ({"messages": ["hi"]}, "'messages[0]'"),
        ({"messages": [{"role": "user"}]}, "'messages[0]'"),
        ({"messages": [{"role": "user", "content": "hi", "parts": "hi"}]}, "'messages[0].parts'"),
        ({"messages": [{"role": "robot", "parts": []}]}, "'messages[0].role'"),
        ({"messages": [{"role": "user", "parts": ["hi"]}]}, "'messages[0].parts[0]'"),
        ({"messages": [{**GOOD, "id": 5}]}, "'messages[0].id'"),
        ({"messages": [{**GOOD, "id": "x" * 257}]}, "'messages[0].id'"),
        ({"messages": [GOOD], "id": 5}, "'id'"),
        ({"messages": [GOOD], "id": ""}, "'id'"),
        ({"messages": [GOOD], "id": "x" * 257}, "'id'"),
        ({"messages": [GOOD], "trigger": {}}, "'trigger'"),
        ({"messages": [GOOD] * 1001}, "'messages'"),
        ({"messages": [user(text("?"), {"text": "?"})]}, "'messages[0].parts[1].type'"),
        ({"messages": [user({"type": 5})]}, "'messages[0].parts[0].type'"),
        ({"messages": [user({"type": "text"})]}, "'messages[0].parts[0].text'"),
        ({"messages": [user({"type": "text", "text": ["?"]})]}, "'messages[0].parts[0].text'"),
        ({"messages": [user(text("")), GOOD, user(text(""))]}, "'messages[2]'"),
        ({"messages": [message("assistant", text(""))]}, "'messages'"),
        ({"messages": [message("assistant", {"type": "text", "text": None})]}, "'messages[0].parts[0].text'"),
        ({"messages": [message("assistant", {**CALL, "toolCallId": 5})]}, "'messages[0].parts[0].toolCallId'"),
        ({"messages": [message("assistant", {**CALL, "type": "dynamic-tool"})]}, "'messages[0].parts[0].toolName'"),
        ({"messages": [user(PDF)]}, "'messages[0].parts[0]'"),
        ({"messages": [user({**IMAGE, "url": "file:///etc/passwd"})]}, "'messages[0].parts[0].url'"),
        ({"messages": [user({**IMAGE, "url": 5})]}, "'messages[0].parts[0].url'"),
        ({"messages": [user({"type": "file", "url": "https://x"})]}, "'messages[0].parts[0].mediaType'"),
        ({"messages": [GOOD], "options": {"temperature": 5}}, "'options.temperature'"),
        ({"messages": [GOOD], "options": []}, "'options'"),
        ({"messages": [GOOD], "on_disconnect": "never"}, "'on_disconnect'"),
        ({"messages": [GOOD], "upstream": 5}, "'upstream'"),
        ({"messages": [GOOD], "flush_ms": -1}, "'flush_ms'"),
    ],
)
def test_what_is_wrong_is_named(body: Any, field: str) -> None:
    with pytest.raises(AskError) as caught:
        from_body(body).ask("relay", None)
    assert field in str(caught.value)


@pytest.mark.parametrize("conversation", [None, "c-1"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": [message("assistant", text("Hi"))]}, "'messages'"),
        ({"messages": [user(text("?"), IMAGE)]}, "'messages[0].parts[1].url'"),
        ({"messages": [user(text("?"), PDF)], "files": {}}, "'files'"),
        ({"messages": [GOOD], "files": {}}, "'files'"),
    ],
)
def test_what_dify_cannot_take_is_named(body: Any, field: str, conversation: str | None) -> None:
    with pytest.raises(AskError) as caught:
        from_body(body).ask("upstream", conversation)
    assert field in str(caught.value)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.sampled_from(["x", "output-error", "user"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)
NAMES = ["type", "text", "url", "mediaType", "state", "toolCallId", "toolName", "input", "output", "errorText"]
PARTS = st.dictionaries(
    st.sampled_from(NAMES),
    st.one_of(
        st.sampled_from(["text", "file", "tool-x", "dynamic-tool", "step-start", "image/png", "output-denied"]), JSON
    ),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "parts": st.lists(PARTS | JSON, max_size=3)},
    optional={"id": JSON},
)
BODIES = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, min_size=1, max_size=3) | JSON},
    optional=dict.fromkeys(("id", "trigger", "flush_ms", "files", "options", "inputs"), JSON),
)


@given(BODIES | JSON, st.sampled_from(["relay", "upstream", "none"]), st.sampled_from([None, "c-1"]))
def test_whatever_is_sent_is_an_ask_or_refused_as_one(body: Any, history: str, conversation: str | None) -> None:
    with contextlib.suppress(AskError):
        msgspec.json.encode(from_body(body).ask(history, conversation))


def test_ten_thousand_parts_are_no_more_work_than_their_text() -> None:
    parts = [text("x")] * 10_000
    assert len(sent(message("assistant", *parts), user(*parts))[0]["content"]) == 10_000
