"""The `openai` format: a run as OpenAI's chat completion, in chunks or as one object.

OpenAI has no words for some things that happen here:

- A run that failed ends with an error chunk, without `finish_reason` and [DONE]: official clients raise on it.
- A run that was stopped elsewhere, or that waits for a person (Dify), is no whole answer. OpenAI's only word for that
  is `length`; a field of ours, `end_reason`, says what it was.
- Text that was shown cannot be taken back: where the answer is replaced, chunks end as those of a run that failed,
  while the single object has the new text.
- Steps, files and sources have no place; the run's own routes tell them.

`id` is the run's own, so that /runs/<id> has the rest, and what follows a cut.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from streaming.wire import jsontext
from streaming.wire.answer import Answer, fold
from streaming.wire.events import End, Entry, Start, ToolCall, Upstream, Usage
from streaming.wire.formats import HAPPY_ENDS

_FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
_MESSAGES = {
    "abandoned": "The run was cancelled: nobody was reading its answer.",
    "interrupted": "The relay went away before the answer was complete.",
    "answer_replaced": "The upstream replaced the answer, which a stream cannot show; ask without 'stream'.",
}


class _Text(msgspec.Struct):
    text: msgspec.Raw  # JSON as the log has it, to be put into another object


class Chunks:
    """Server-sent chunks, from the run's first event on. `include_usage`: one more chunk at the end tells the usage."""

    name: ClassVar[str] = "openai"
    content_type: ClassVar[str] = "text/event-stream; charset=utf-8"

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._start = Start(run_id="", conversation_id=None, created=0)
        self._fields: dict[str, Any] = {}  # of every chunk
        self._calls: set[int] = set()
        self._shown = False  # some text
        self._failed = False

    def opening(self) -> bytes:
        """Return nothing: the first event has bytes of its own."""
        return b""

    def ping(self) -> bytes:
        """Return a comment."""
        return b": ping\n\n"

    def encode(self, entry: Entry) -> bytes:
        """Return the event's chunks, b"" for what has no place in them."""
        encode = _ENCODERS.get(entry.type)
        return b"" if encode is None or self._failed else encode(self, entry.data)

    def _begin(self, data: bytes) -> bytes:
        self._start = msgspec.json.decode(data, type=Start)
        return b": this answer is also at /runs/%s/events\n\n" % self._start.run_id.encode()

    def _accepted(self, data: bytes) -> bytes:
        """Return the first chunk: only now it is known who answers."""
        upstream = msgspec.json.decode(data, type=Upstream)
        self._fields = {
            "id": self._start.run_id,
            "object": "chat.completion.chunk",
            "created": self._start.created,
            "model": upstream.model or upstream.name,
        }
        return self._delta({"role": "assistant", "content": ""}, **_conversation(self._start.conversation_id))

    def _token(self, data: bytes) -> bytes:
        self._shown = True
        return self._delta({"content": msgspec.json.decode(data, type=_Text).text})

    def _reasoning(self, data: bytes) -> bytes:
        return self._delta({"reasoning_content": msgspec.json.decode(data, type=_Text).text})

    def _replace(self, data: bytes) -> bytes:
        if self._shown:
            return self._fail(error_object("answer_replaced", _MESSAGES["answer_replaced"], 502))
        return self._token(data)

    def _tool_call(self, data: bytes) -> bytes:
        call = msgspec.json.decode(data, type=ToolCall)
        function = {"name": call.name, "arguments": call.arguments}
        fragment = {"index": call.index, "id": call.id, "type": "function", "function": _present(function)}
        if call.index in self._calls:
            del fragment["type"]
        self._calls.add(call.index)
        return self._delta({"tool_calls": [_present(fragment)]})

    def _end(self, data: bytes) -> bytes:
        end = msgspec.json.decode(data, type=End)
        if end.reason not in HAPPY_ENDS:
            return self._fail(failure(end)[1])
        chunks = self._delta({}, _finish_reason(end, bool(self._calls)), **_end_reason(end))
        if self._include_usage and end.usage is not None:
            chunks += _event({**self._fields, "choices": [], "usage": usage_object(end.usage)})
        return chunks + b"data: [DONE]\n\n"

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return _event({**self._fields, "choices": [choice], **usage, **more})

    def _fail(self, error: dict[str, Any]) -> bytes:
        self._failed = True
        return _event({"error": error})


_ENCODERS: dict[str, Callable[[Chunks, bytes], bytes]] = {
    "start": Chunks._begin,
    "upstream": Chunks._accepted,
    "token": Chunks._token,
    "reasoning": Chunks._reasoning,
    "replace": Chunks._replace,
    "tool_call": Chunks._tool_call,
    "end": Chunks._end,
}


class Completion:
    """The single object, for an answer that takes long: blank bytes keep the connection until then.

    The status 200 has left by then. A run that fails after that sends a body that is no JSON, with the status and the
    error object in it. Official clients raise on it at once; after a broken connection they would ask, and pay, again.
    """

    name: ClassVar[str] = "openai"
    content_type: ClassVar[str] = "application/json"

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def opening(self) -> bytes:
        """Return a blank line, which JSON allows."""
        return b"\n"

    def ping(self) -> bytes:
        """Return a blank line."""
        return b"\n"

    def encode(self, entry: Entry) -> bytes:
        """Return everything at the end, and nothing before."""
        self._entries.append(entry)
        if entry.type != "end":
            return b""
        answer = fold(self._entries)
        assert answer.end is not None
        if answer.end.reason in HAPPY_ENDS:
            return jsontext.dumps(completion(answer)) + b"\n"
        status, error = failure(answer.end)
        return b"HTTP %d\n%s\n" % (status, jsontext.dumps({"error": error}))


def completion(answer: Answer) -> dict[str, Any]:
    """Return the `chat.completion` object of an answer that ended well."""
    assert answer.end is not None
    upstream, calls = answer.upstream, answer.tool_calls
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or (None if calls else "")}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if calls:
        message["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer.end, bool(calls))}
    return {
        "id": answer.run_id,
        "object": "chat.completion",
        "created": answer.created,
        "model": upstream and (upstream.model or upstream.name),
        "choices": [choice],
        "usage": usage_object(answer.end.usage) if answer.end.usage else None,
        **_conversation(answer.conversation_id),
        **_end_reason(answer.end),
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return the counts, with the upstream's own details; an estimate of ours says so (`exact: false`)."""
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    return {**(usage.details or {}), **counts} if usage.exact else {**counts, "exact": False}


def failure(end: End) -> tuple[int, dict[str, Any]]:
    """Return the status and the error object of a run that did not end well."""
    if end.error is not None:
        return end.error.status, error_object(end.error.code, end.error.message, end.error.status)
    return 503, error_object(end.reason, _MESSAGES[end.reason], 503)


def error_object(code: str, message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """Return what is under `error` in OpenAI's bodies."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def _finish_reason(end: End, called_tools: bool) -> str:
    if end.reason != "done":
        return "length"
    if end.finish_reason in _FINISH_REASONS:
        return str(end.finish_reason)
    return "tool_calls" if called_tools else "stop"


def _end_reason(end: End) -> dict[str, Any]:
    return {} if end.reason == "done" else {"end_reason": end.reason}


def _conversation(conversation_id: str | None) -> dict[str, Any]:
    return {} if conversation_id is None else {"conversation_id": conversation_id}


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + jsontext.dumps(chunk) + b"\n\n"
