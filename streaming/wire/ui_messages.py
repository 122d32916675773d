"""What an AI SDK page sends: a chat's UI messages, each made of parts -> an ask.

Source: the npm package `ai` 7.0 (ui/ui-messages, ui/convert-to-model-messages, ui/http-chat-transport). Apps send more
than the package does: fields and parts that are not known here are ignored, those that are must be right.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streaming.wire import jsontext
from streaming.wire.ask import Ask, AskError, Message, Name, Parts, checked, from_json
from streaming.wire.dialects.dify import flattened

OWN_FIELDS = ("upstream", "model", "options", "on_disconnect", "user", "inputs", "files", "flush_ms", "idempotency_key")
"""Fields of an ask that an app may add to the body."""

_DIFY_FILE_TYPES = {"image", "audio", "video"}  # by the media type; anything else is a document

Part = dict[str, Any]


class UiMessage(msgspec.Struct, frozen=True):
    """One message of the page."""

    role: Literal["system", "user", "assistant"]
    parts: Parts
    id: Annotated[str, Meta(max_length=256)] | None = None

    def typed_parts(self, where: str) -> Iterator[tuple[str, Part, str]]:
        """Yield each part's type, the part, and its place. Raises AskError."""
        for number, part in enumerate(self.parts):
            place = f"{where}.parts[{number}]"
            yield _text(part, "type", place), part, place


class ChatRequest(msgspec.Struct, frozen=True):
    """The body of POST /api/chat. `id` is the app's chat id, None where it sends none (WorkflowChatTransport)."""

    messages: Annotated[list[UiMessage], Meta(min_length=1, max_length=1000)]
    id: Name | None = None
    trigger: str | None = None
    own: dict[str, Any] = {}  # OWN_FIELDS that were there

    @property
    def continues(self) -> str | None:
        """Return the id of the message that the answer goes on with, None = the answer is a new message."""
        last = self.messages[-1]
        return last.id or None if last.role == "assistant" else None

    def ask(self, history: str, conversation_id: str | None) -> Ask:
        """Return the ask for an upstream whose history is kept as Dialect.history says. Raises AskError.

        A Dify app takes one prompt. Without a conversation that is the whole history, so that nothing is forgotten when
        a new one begins.
        """
        if history == "relay":
            return self._ask(messages=msgspec.to_builtins(self._history(with_images=True)))
        fields = {"files": files} if (files := self._dify_files()) else {}
        if conversation_id is None:
            return self._ask(prompt=flattened(self._history(with_images=False)), **fields)
        question, where = self._question()
        return self._ask(
            prompt=_said(question, where),
            conversation_id=conversation_id,
            replace_last=self.trigger == "regenerate-message",
            **fields,
        )

    def _ask(self, **fields: Any) -> Ask:
        # A reload and `stop()` look alike from here; the AI SDK's advice for streams that can resume is to go on.
        return from_json({"on_disconnect": "finish", **self.own, **fields})

    def _question(self) -> tuple[UiMessage, str]:
        for number, message in reversed(list(enumerate(self.messages))):
            if message.role == "user":
                return message, f"messages[{number}]"
        raise _wrong("messages", "there is none of the user")

    def _dify_files(self) -> list[Any]:
        """Return the files that the app's user chose for the last question, and those that the body names."""
        question, where = self._question()
        files = [_dify_file(part, place) for type_, part, place in question.typed_parts(where) if type_ == "file"]
        named = self.own.get("files")
        if named is not None and not isinstance(named, list):
            raise _wrong("files", "it must be an array")
        return [*files, *(named or ())]

    def _history(self, *, with_images: bool) -> list[Message]:
        history: list[Message] = []
        for number, message in enumerate(self.messages):
            where = f"messages[{number}]"
            said: list[Message] = []
            if message.role == "assistant":
                said = _assistant(message, where)
            elif content := _content(message, where) if with_images else _said(message, where):
                said = [Message(message.role, content)]
            elif number == len(self.messages) - 1:
                raise _wrong(where, "it has no text")
            history += said
        if not history:
            raise _wrong("messages", "none of them has a text")
        return history


def from_body(value: Any) -> ChatRequest:
    """Return the request in a decoded JSON body. Raises AskError."""
    if not isinstance(value, dict):
        raise AskError("the body must be a JSON object")
    known = {name: value[name] for name in ("messages", "id", "trigger") if name in value}
    return checked({**known, "own": {name: value[name] for name in OWN_FIELDS if name in value}}, ChatRequest)


def _wrong(field: str, what: str) -> AskError:
    return AskError(f"field '{field}': {what}", field)


def _text(part: Part, name: str, where: str) -> str:
    value = part.get(name)
    if not isinstance(value, str):
        raise _wrong(f"{where}.{name}", "it must be text")
    return value


def _json(value: Any, where: str) -> str:
    try:
        return jsontext.dumps(value).decode()
    except RecursionError:
        raise _wrong(where, "it is nested too deeply") from None


# -- a user's parts ----------------------------------------------------------------------------------------------------


def _said(message: UiMessage, where: str) -> str:
    """Return a message's text alone."""
    return "\n".join(_text(part, "text", place) for type_, part, place in message.typed_parts(where) if type_ == "text")


def _content(message: UiMessage, where: str) -> str | list[dict[str, Any]]:
    """Return a message's content with its images; empty where no part says anything to a model."""
    content: list[dict[str, Any]] = []
    for type_, part, place in message.typed_parts(where):
        if type_ == "text":
            content.append({"type": "text", "text": _text(part, "text", place)})
        elif type_ == "file":
            content.append({"type": "image_url", "image_url": {"url": _image_url(part, place)}})
    return content if any(item["type"] != "text" for item in content) else _said(message, where)


def _image_url(part: Part, where: str) -> str:
    url, media_type = _text(part, "url", where), _text(part, "mediaType", where)
    if media_type.partition("/")[0] != "image":
        raise _wrong(where, "this upstream takes no files but images")
    if not url.startswith(("https://", "http://", "data:image/")):
        raise _wrong(f"{where}.url", "it must begin with https://, http:// or data:image/")
    return url


def _dify_file(part: Part, where: str) -> dict[str, str]:
    url, media_type = _text(part, "url", where), _text(part, "mediaType", where)
    if not url.startswith(("https://", "http://")):
        raise _wrong(f"{where}.url", "Dify takes an http(s) address; upload the file first and name it in 'files'")
    kind = media_type.partition("/")[0]
    return {"type": kind if kind in _DIFY_FILE_TYPES else "document", "transfer_method": "remote_url", "url": url}


# -- an assistant's parts ----------------------------------------------------------------------------------------------


def _assistant(message: UiMessage, where: str) -> list[Message]:
    """Return what the assistant said and called, step by step, each step with its tools' results behind it."""
    steps = [_Step()]
    for type_, part, place in message.typed_parts(where):
        if type_ == "step-start":
            steps.append(_Step())
        elif type_ == "text":
            steps[-1].texts.append(_text(part, "text", place))
        elif type_ == "data-replace":  # our own part: moderation took back what was said before it
            steps[-1].texts.clear()
        elif type_ == "dynamic-tool":
            steps[-1].add_call(part, _text(part, "toolName", place), place)
        elif type_.startswith("tool-"):
            steps[-1].add_call(part, type_[len("tool-") :], place)
    return [said for step in steps for said in step.messages()]


class _Step:
    """One step of an assistant's message: text, and calls with their results."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._results: list[Message] = []

    def add_call(self, part: Part, name: str, where: str) -> None:
        """Add a tool call, unless it was never answered: APIs refuse a call without its result."""
        state = part.get("state")
        if state == "output-available" and part.get("preliminary") is not True:
            result = part.get("output")
        elif state == "output-error":
            result = part.get("errorText")
        elif state == "output-denied":
            result = "The user did not allow this call."
        else:
            return
        id_ = _text(part, "toolCallId", where)
        given = [part[key] for key in ("input", "rawInput") if part.get(key) is not None]
        arguments = _json(given[0] if given else {}, where)  # JSON even where the model's own was not
        self._calls.append({"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}})
        text = result if isinstance(result, str) else _json(result, where)
        self._results.append(Message("tool", text, tool_call_id=id_))

    def messages(self) -> list[Message]:
        """Return the assistant's message and the tools', none where nothing was said."""
        text = "".join(self.texts)
        if not text and not self._calls:
            return []
        return [Message("assistant", text or None, tool_calls=self._calls or None), *self._results]
