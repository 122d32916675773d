"""Reads chat completion chunks as OpenAI's clients do, whoever sent them."""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.web.client import sse_events


@dataclass
class Chat:
    """What the chunks of one answer amount to. `error`: the error chunk that ended it."""

    text: str = ""
    reasoning: str = ""
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    done: bool = False  # [DONE] was seen
    error: dict[str, Any] | None = None
    chunks: list[dict[str, Any]] = field(default_factory=list)


def read_chat(data: bytes) -> Chat:
    """Return what the bytes of a stream amount to; choices other than the first are passed over."""
    chat = Chat()
    for event in sse_events(data):
        assert not chat.done
        assert chat.error is None
        if event.data.startswith("[DONE]"):
            chat.done = True
            continue
        chunk = json.loads(event.data)
        if chunk.get("error"):
            chat.error = chunk["error"]
            continue
        chat.chunks.append(chunk)
        chat.usage = chunk.get("usage") or chat.usage
        for choice in chunk.get("choices") or ():
            if choice["index"] == 0:
                _add(chat, choice)
    chat.text, chat.reasoning = _joined(chat.text), _joined(chat.reasoning)
    for call in chat.tool_calls.values():
        call["arguments"] = _joined(call["arguments"])
    return chat


def _joined(text: str) -> str:
    """Return the text with characters whole that a server had cut into two surrogates."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _add(chat: Chat, choice: dict[str, Any]) -> None:
    chat.finish_reason = choice.get("finish_reason") or chat.finish_reason
    delta = choice.get("delta") or {}
    chat.text += (delta.get("content") or "") + (delta.get("refusal") or "")
    chat.reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
    for fragment in delta.get("tool_calls") or ():
        call = chat.tool_calls.setdefault(fragment["index"], {"id": None, "name": None, "arguments": ""})
        function = fragment.get("function") or {}
        call["id"] = call["id"] or fragment.get("id")
        call["name"] = call["name"] or function.get("name")
        call["arguments"] += function.get("arguments") or ""
