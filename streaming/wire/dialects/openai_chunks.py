"""One chunk of an OpenAI-compatible stream: typed where it is as documented, picked apart where it is not.

The typed decoder names only the fields that are read, so the rest is skipped and never built.
"""

from typing import Any

import msgspec

from streaming.wire import jsontext
from streaming.wire.errors import Failure


class Function(msgspec.Struct, gc=False):
    """A tool call's name and a fragment of its arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    """A fragment of one tool call."""

    index: int = 0
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct, gc=False):
    """What a chunk adds."""

    content: str | None = None
    reasoning_content: str | None = None  # DeepSeek, llama.cpp, older vLLM
    reasoning: str | None = None  # Ollama, newer vLLM, OpenRouter
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct, gc=False):
    """One choice; only index 0 is read."""

    index: int = 0
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, gc=False):
    """One chunk, by the fields that are read."""

    choices: list[Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


decode_typed = msgspec.json.Decoder(Chunk).decode
"""A chunk as it is documented. Raises one of NOT_TYPED for everything else."""

NOT_TYPED = (msgspec.DecodeError, UnicodeError, RecursionError)


def decode_leniently(data: str) -> Chunk:
    """Decode what the typed decoder refuses: lone surrogates, and fields of another type, which are skipped.

    Raises Failure("upstream_invalid") where the data is no JSON object.
    """
    try:
        value = jsontext.loads(data)
    except jsontext.NotJSON:
        # transformers does not escape its message: {"error": "a "quoted" word"}.
        if data.lstrip().startswith('{"error"'):
            return Chunk(error="unreadable")
        raise Failure("upstream_invalid") from None
    if not isinstance(value, dict):
        raise Failure("upstream_invalid")
    choices = [_choice_of(item) for item in _list(value, "choices") if isinstance(item, dict)]
    return Chunk(choices=choices, usage=_of(dict, value, "usage"), error=value.get("error"))


def _choice_of(value: dict[str, Any]) -> Choice:
    delta = _of(dict, value, "delta") or {}
    calls = [
        ToolCall(
            index=_of(int, item, "index") or 0,
            id=_of(str, item, "id"),
            function=Function(
                name=_of(str, _of(dict, item, "function") or {}, "name"),
                arguments=_of(str, _of(dict, item, "function") or {}, "arguments"),
            ),
        )
        for item in _list(delta, "tool_calls")
        if isinstance(item, dict)
    ]
    texts = {name: _of(str, delta, name) for name in ("content", "reasoning_content", "reasoning", "refusal")}
    return Choice(
        index=_of(int, value, "index") or 0,
        delta=Delta(**texts, tool_calls=calls),
        finish_reason=_of(str, value, "finish_reason"),
    )


def _of(type_: type[Any], value: dict[str, Any], key: str) -> Any:
    item = value.get(key)
    return item if type(item) is type_ else None  # not isinstance: True would pass for 1


def _list(value: dict[str, Any], key: str) -> list[Any]:
    return _of(list, value, key) or []
