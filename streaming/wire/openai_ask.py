"""An OpenAI chat completion request -> an ask.

Fields that are not known here are ignored: these clients send new ones with each version. Known ones are checked, and
what could not be answered as asked (several answers, log probabilities, sound) is refused instead of dropped.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from streaming.wire.ask import Ask, AskError, Message, Name, Options, Tool, checked
from streaming.wire.dialects.dify import flattened

_REFUSED = {  # true values of these cannot be answered as asked
    "functions": "use 'tools'",
    "function_call": "use 'tool_choice'",
    "logprobs": "log probabilities are not relayed",
    "top_logprobs": "log probabilities are not relayed",
    "audio": "only text is relayed",
}


class StreamOptions(msgspec.Struct, frozen=True):
    """`include_usage`: one more chunk at the end tells the usage."""

    include_usage: bool | None = None


class ChatBody(msgspec.Struct, frozen=True, kw_only=True):
    """What is read beside the options; what else there is, is ignored."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=1000)]
    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    conversation_id: Name | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked request. `model` None = whatever answers; `conversation_id` is ours, None = a conversation of its own.

    `stream`: chunks are asked for; `include_usage`: and the usage behind them.
    """

    model: str | None
    messages: list[Message]
    options: Options | None
    user: str | None
    conversation_id: str | None
    stream: bool
    include_usage: bool


def read(value: Any, conversation_header: str = "") -> ChatRequest:
    """Return the request in a decoded JSON body; `conversation_header` is X-Conversation-Id, "" = none.

    Raises AskError.
    """
    if not isinstance(value, dict):
        raise AskError("the body must be a JSON object")
    _refuse_what_is_not_relayed(value)
    body = checked({**value, "messages": _known(value.get("messages"), Message)}, ChatBody)
    given = {name: value[name] for name in Options.__struct_fields__ if value.get(name) is not None}
    if "tools" in given:
        given["tools"] = _known(given["tools"], Tool)
    return ChatRequest(
        model=body.model,
        messages=[_without_old_thinking(message) for message in body.messages],
        options=checked(given, Options) if given else None,
        user=checked({"user": body.user}, Ask).user if body.user else None,
        conversation_id=_one_of(body.conversation_id, conversation_header),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


def _refuse_what_is_not_relayed(value: dict[str, Any]) -> None:
    for name, why in _REFUSED.items():
        if value.get(name):
            raise AskError(f"field '{name}': {why}", name)
    if value.get("modalities") not in (None, ["text"]):
        raise AskError("field 'modalities': only [\"text\"] is relayed", "modalities")
    n = value.get("n", 1)
    if n is not None and (type(n) is not int or n != 1):
        raise AskError("field 'n': there is one answer to a request, so only 1 is allowed", "n")


def _known(items: Any, type_: type[msgspec.Struct]) -> Any:
    """Leave out of each object what is not known: clients send back whole answers, with fields of all kinds."""
    if not isinstance(items, list):
        return items
    names = type_.__struct_fields__
    return [{name: item[name] for name in names if name in item} if isinstance(item, dict) else item for item in items]


def _without_old_thinking(message: Message) -> Message:
    """DeepSeek refuses its earlier thinking, except beside tool calls, where it must have it."""
    return message if message.tool_calls else msgspec.structs.replace(message, reasoning_content=None)


def _one_of(field: str | None, header: str) -> str | None:
    if field and header and field != header:
        raise AskError("field 'conversation_id' and header 'X-Conversation-Id' differ", "conversation_id")
    return field or checked({"conversation_id": header or None}, Ask).conversation_id


def to_ask(request: ChatRequest, dialect: str, upstream: str | None, model: str | None) -> Ask:
    """Return what to ask an upstream of this dialect; `upstream` and `model` as in Ask. Raises AskError.

    Its run is cancelled when the client goes away, which is how these clients stop.
    """
    if dialect == "dify":
        return _ask_dify(request, upstream)
    if request.conversation_id is not None:
        raise AskError("field 'conversation_id': this upstream takes the history from 'messages'", "conversation_id")
    return Ask(
        messages=request.messages,
        options=request.options,
        user=request.user,
        upstream=upstream,
        model=model,
        on_disconnect="cancel",
    )


def _ask_dify(request: ChatRequest, upstream: str | None) -> Ask:
    """Dify keeps its own history, so in a conversation only the last question is new; otherwise all is one question.

    Its app sets its model's options itself: those that change only the style are passed over, because most clients
    send some. Those that promise something to the caller's code are refused.
    """
    options = request.options or Options()
    if options.tools:
        raise AskError("field 'tools': a Dify app has its own tools", "tools")
    if options.response_format and options.response_format.get("type") != "text":
        raise AskError("field 'response_format': a Dify app answers as it is built to", "response_format")
    numbered = list(enumerate(request.messages))
    for number, message in numbered:
        if message.role == "tool" or message.tool_calls:
            raise AskError("field 'messages': a Dify app takes no tool calls", f"messages[{number}]")
    if request.conversation_id is not None:
        numbered = [pair for pair in numbered if pair[1].role == "user"][-1:]
    sent = [message for _, message in numbered]
    if not any(message.text().strip() for message in sent):
        raise AskError("field 'messages': there is no question in them", "messages")
    return Ask(
        prompt=flattened(sent),
        conversation_id=request.conversation_id,
        files=[file for number, message in numbered for file in _files(number, message)] or None,
        user=request.user,
        upstream=upstream,
        on_disconnect="cancel",
    )


def _files(number: int, message: Message) -> Iterator[dict[str, Any]]:
    """Yield Dify's form of the images in a message."""
    for position, part in enumerate(message.content if isinstance(message.content, list) else ()):
        if isinstance(part.get("text"), str):
            continue
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else None
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            field = f"messages[{number}].content[{position}]"
            raise AskError(f"field '{field}': Dify takes text, and images by their http(s) address", field)
        yield {"type": "image", "transfer_method": "remote_url", "url": url}
