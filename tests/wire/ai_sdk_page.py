"""A reader of AI SDK UI message streams, written from the protocol alone: it checks each chunk as it takes it."""

import json
from typing import Any

from streaming.wire.sse import Comment, Decoder

REQUIRED = {  # a chunk's type -> its fields of type text; those that have others are checked below
    "start": ["messageId"],
    "start-step": [],
    "text-start": ["id"],
    "text-delta": ["id", "delta"],
    "text-end": ["id"],
    "reasoning-start": ["id"],
    "reasoning-delta": ["id", "delta"],
    "reasoning-end": ["id"],
    "tool-input-start": ["toolCallId", "toolName"],
    "tool-input-delta": ["toolCallId", "inputTextDelta"],
    "tool-input-available": ["toolCallId", "toolName"],
    "tool-input-error": ["toolCallId", "toolName", "errorText"],
    "data-replace": ["id"],
    "data-step": ["id"],
    "file": ["url", "mediaType"],
    "source-url": ["sourceId", "url"],
    "source-document": ["sourceId", "mediaType", "title"],
    "message-metadata": [],
    "error": ["errorText"],
    "abort": ["reason"],
    "finish-step": [],
    "finish": ["finishReason"],
}
OTHERS = {
    "start": {"messageMetadata": dict},
    "tool-input-available": {"input": object},
    "tool-input-error": {"input": object},
    "data-replace": {"data": dict},
    "data-step": {"data": dict},
    "message-metadata": {"messageMetadata": dict},
    "finish": {"messageMetadata": dict},
}
FINISH_REASONS = {"stop", "length", "content-filter", "tool-calls", "error", "other"}


def chunks_of(body: bytes) -> list[dict[str, Any]]:
    """Return the chunks of whole SSE events, each of which must be one line of data without a name."""
    items = [item for item in Decoder().feed(body) if not isinstance(item, Comment)]
    assert all((item.type, item.id) == ("message", "") for item in items)
    if items and items[-1].data == "[DONE]":
        items.pop()
    return [json.loads(item.data) for item in items]


class Page:
    """The message that the chunks make. Raises AssertionError at one that does not fit."""

    def __init__(self) -> None:
        self.message_id: str | None = None
        self.metadata: dict[str, Any] = {}
        self.parts: list[dict[str, Any]] = []
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.aborted = False
        self._open: dict[str, dict[str, Any]] = {}  # a block's kind and id -> its part
        self._used: set[str] = set()
        self._in_step = False

    def take(self, chunk: dict[str, Any]) -> None:
        """Take the next chunk."""
        type_ = chunk["type"]
        assert self.finish_reason is None, "a chunk after the finish"
        assert (self.message_id is None) == (type_ == "start"), "start is first, and there is one"
        others = OTHERS.get(type_, {})
        assert set(chunk) - {"type"} == {*REQUIRED[type_], *others}
        assert all(isinstance(chunk[name], str) for name in REQUIRED[type_])
        assert all(isinstance(chunk[name], kind) for name, kind in others.items())
        method, *_ = type_.split("-")
        getattr(self, f"_{method}")(type_, chunk)

    def _start(self, type_: str, chunk: dict[str, Any]) -> None:
        if type_ == "start-step":
            assert not self._in_step
            self._in_step = True
            return
        self.message_id = chunk["messageId"]
        self.metadata |= chunk["messageMetadata"]

    def _text(self, type_: str, chunk: dict[str, Any]) -> None:
        kind, _, what = type_.partition("-")
        key = f"{kind} {chunk['id']}"
        assert self._in_step
        if what == "start":
            assert key not in self._used, "a block's id is used once"
            assert not self._open, "one block at a time"
            self._used.add(key)
            self._open[key] = {"type": kind, "text": ""}
            self.parts.append(self._open[key])
        elif what == "delta":
            self._open[key]["text"] += chunk["delta"]
        else:
            del self._open[key]

    _reasoning = _text

    def _tool(self, type_: str, chunk: dict[str, Any]) -> None:
        calls = {part["id"]: part for part in self.parts if part["type"] == "tool"}
        if type_ == "tool-input-start":
            assert chunk["toolCallId"] not in calls
            call = {"type": "tool", "id": chunk["toolCallId"], "name": chunk["toolName"], "arguments": ""}
            self.parts.append(call)
            return
        call = calls[chunk["toolCallId"]]
        assert "input" not in call
        if type_ == "tool-input-delta":
            call["arguments"] += chunk["inputTextDelta"]
        else:
            assert call["name"] == chunk["toolName"]
            call["input"] = chunk["input"]
            call["failed"] = type_ == "tool-input-error"

    def _data(self, type_: str, chunk: dict[str, Any]) -> None:
        same = [part for part in self.parts if (part["type"], part.get("id")) == (type_, chunk["id"])]
        if same:
            same[0]["data"] = chunk["data"]
        else:
            self.parts.append({"type": type_, "id": chunk["id"], "data": chunk["data"]})

    def _file(self, type_: str, chunk: dict[str, Any]) -> None:
        self.parts.append(chunk)

    _source = _file

    def _message(self, type_: str, chunk: dict[str, Any]) -> None:
        self.metadata |= chunk["messageMetadata"]

    def _error(self, type_: str, chunk: dict[str, Any]) -> None:
        self.error = chunk["errorText"]

    def _abort(self, type_: str, chunk: dict[str, Any]) -> None:
        self.aborted = True

    def _finish(self, type_: str, chunk: dict[str, Any]) -> None:
        assert not self._open, "a block was left open"
        if type_ == "finish-step":
            self._in_step = False
            return
        assert not self._in_step
        assert chunk["finishReason"] in FINISH_REASONS
        self.finish_reason = chunk["finishReason"]
        self.metadata |= chunk["messageMetadata"]

    # -- what a page shows -----------------------------------------------------------------------------------------

    def of(self, type_: str) -> list[dict[str, Any]]:
        """Return the parts of a type."""
        return [part for part in self.parts if part["type"] == type_]

    @property
    def text(self) -> str:
        """Return the answer: what was replaced is not part of it."""
        replaced = [number for number, part in enumerate(self.parts) if part["type"] == "data-replace"]
        shown = self.parts[replaced[-1] :] if replaced else self.parts
        return "".join(part["text"] for part in shown if part["type"] == "text")

    @property
    def reasoning(self) -> str:
        """Return the thinking."""
        return "".join(part["text"] for part in self.of("reasoning"))


def read(body: bytes) -> Page:
    """Return the page that has taken a whole stream, which must have ended as one."""
    assert body.endswith(b"data: [DONE]\n\n")
    page = Page()
    for chunk in chunks_of(body):
        page.take(chunk)
    assert page.finish_reason is not None
    return page
