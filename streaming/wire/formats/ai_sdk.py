"""The log as an AI SDK UI message stream, which `useChat` and everything built on it read.

Source: the npm packages `ai` 7.0 (ui-message-stream, ui/process-ui-message-stream) and `@ai-sdk/workflow` 2.0
(workflow-chat-transport). Clients throw at a delta without its start and at a chunk of the wrong shape; the transport
resumes by the number of chunks it has, again and again until it gets a `finish`. Hence two rules: every event becomes
the same chunks whenever it is read, and every end, a failure too, ends in `finish`.

    start, start-step     our `start`; its object is the message's metadata, the run's id the message's id
    text-*, reasoning-*   one block for as long as the kind of text stays the same
    data-replace          the message's text before this part is void (Dify's moderation); a new block follows
    tool-input-*          `tool_call`; whether the arguments are right is known at the end
    data-step, file       `step` (the last one of an id counts), `file`
    source-*              Dify's sources
    error, abort          a run that failed, or was stopped
    finish-step, finish   `end`; what it tells is added to the metadata
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import msgspec

from streaming.wire import jsontext
from streaming.wire.events import LOST_END_SKIP, End, Entry, File, Replace, Start, Step, ToolCall
from streaming.wire.formats import HAPPY_ENDS

DONE = b"data: [DONE]\n\n"
_KINDS = {"token": "text", "reasoning": "reasoning"}  # event -> what a block of it is called
_TEXT_AT = len(b'{"text":')  # in the JSON of a token: what follows is the text, and the closing brace
_FINISH_REASONS = {
    None: "stop",  # Dify's chats have no word of their own
    "stop": "stop",
    "succeeded": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
}
_ERRORS = {
    "abandoned": "The answer was given up because nobody was reading it.",
    "interrupted": "The relay was shut down before the answer was complete.",
}


class _Call(msgspec.Struct):
    """A tool call so far. `id` is the client's, None until the call was announced."""

    id: str | None = None
    upstream_id: str | None = None
    name: str | None = None
    arguments: list[str] = []


class AiSdk:
    """Encodes one run from its first event on; the first `skip` chunks are not sent.

    `message_id`: the message that the answer continues; None = a new one, named after the run.
    """

    name: ClassVar[str] = "ai_sdk"
    content_type: ClassVar[str] = "text/event-stream; charset=utf-8"

    def __init__(self, *, skip: int = 0, message_id: str | None = None) -> None:
        self._skip = skip
        self._message_id = message_id
        self._run_id = ""
        self._upstream: Any = None
        self._block: str | None = None  # the type of the events that go into the open one
        self._blocks = 0
        self._delta_head = b""  # of the open block's chunks
        self._replaced = 0
        self._calls: dict[int, _Call] = {}
        self._call_ids: set[str] = set()

    def opening(self) -> bytes:
        """Return a comment that says how to resume."""
        return b": resume with ?startIndex=<number of chunks received>\n\n"

    def ping(self) -> bytes:
        """Return a comment: it is no chunk, so it counts for no index."""
        return b": ping\n\n"

    def encode(self, entry: Entry) -> bytes:
        """Return the chunks of one event that are not skipped."""
        if self._skip and entry.type == self._block:  # a resume skips thousands of these
            self._skip -= 1
            return b""
        chunks = self.chunks(entry)
        if entry.seq > LOST_END_SKIP:  # the end of a lost log: the client may have more of it than was kept
            self._skip = 0
        skipped = min(self._skip, len(chunks))
        self._skip -= skipped
        data = b"".join(chunks[skipped:])
        return data + DONE if entry.type == "end" else data

    def chunks(self, entry: Entry) -> list[bytes]:
        """Return all chunks of the next event, each a whole SSE event."""
        if entry.type == self._block:
            return [b"%s%s\n\n" % (self._delta_head, entry.data[_TEXT_AT:])]
        handler = _HANDLERS.get(entry.type)
        return handler(self, entry.data) if handler is not None else []

    # -- one method per event type ---------------------------------------------------------------------------------

    def _start(self, data: bytes) -> list[bytes]:
        event = msgspec.json.decode(data, type=Start)
        self._run_id = event.run_id
        metadata = _known(event)
        return [
            _chunk("start", messageId=self._message_id or event.run_id, messageMetadata=metadata),
            _chunk("start-step"),
        ]

    def _upstream_event(self, data: bytes) -> list[bytes]:
        """A chunk of its own would make `useChat` take the answer for begun."""
        self._upstream = msgspec.json.decode(data)
        return []

    def _token(self, data: bytes) -> list[bytes]:
        return self._begin("token", data)

    def _reasoning(self, data: bytes) -> list[bytes]:
        return self._begin("reasoning", data)

    def _begin(self, block: str, data: bytes) -> list[bytes]:
        """Return a new block's first chunks. The JSON of a text is spliced in, not decoded."""
        closing, kind = self._close(), _KINDS[block]
        self._block = block
        self._blocks += 1
        self._delta_head = b'data: {"type":"%s-delta","id":"%d","delta":' % (kind.encode(), self._blocks)
        start = _chunk(f"{kind}-start", id=str(self._blocks))
        return [*closing, start, b"%s%s\n\n" % (self._delta_head, data[_TEXT_AT:])]

    def _close(self) -> list[bytes]:
        if self._block is None:
            return []
        kind, self._block = _KINDS[self._block], None
        return [_chunk(f"{kind}-end", id=str(self._blocks))]

    def _replace(self, data: bytes) -> list[bytes]:
        event = msgspec.json.decode(data, type=Replace)
        self._replaced += 1
        chunks = [*self._close(), _chunk("data-replace", id=f"replace-{self._replaced}", data={"text": event.text})]
        return [*chunks, *self._begin("token", data)]

    def _tool_call(self, data: bytes) -> list[bytes]:
        event = msgspec.json.decode(data, type=ToolCall)
        call = self._calls.setdefault(event.index, _Call())
        call.arguments.append(event.arguments)
        if call.id is not None:
            return self._arguments(call, event.arguments)
        call.upstream_id = call.upstream_id or event.id
        call.name = call.name or event.name
        return self._announce(event.index, call) if call.name else []

    def _announce(self, index: int, call: _Call) -> list[bytes]:
        taken = call.upstream_id is None or call.upstream_id in self._call_ids
        call.id = f"{self._run_id}-{index}" if taken else call.upstream_id
        self._call_ids.add(call.id or "")
        start = _chunk("tool-input-start", toolCallId=call.id, toolName=call.name)
        return [*self._close(), start, *self._arguments(call, "".join(call.arguments))]

    def _arguments(self, call: _Call, text: str) -> list[bytes]:
        return [_chunk("tool-input-delta", toolCallId=call.id, inputTextDelta=text)] if text else []

    def _step(self, data: bytes) -> list[bytes]:
        event = msgspec.json.decode(data, type=Step)
        shown = _known(event)
        return [_chunk("data-step", id=shown.pop("id"), data=shown)]

    def _file(self, data: bytes) -> list[bytes]:
        event = msgspec.json.decode(data, type=File)
        return [_chunk("file", url=event.url, mediaType=_media_type(event))]

    # -- the end ---------------------------------------------------------------------------------------------------

    def _end(self, data: bytes) -> list[bytes]:
        event = msgspec.json.decode(data, type=End)
        chunks = self._close()
        if event.reason == "done":  # a tool call that was cut off must not be run: it stays as it is
            chunks += [chunk for index, call in self._calls.items() for chunk in self._finish_call(index, call)]
        chunks += [*_sources(event), _chunk("finish-step")]
        metadata = {**_shown_end(event), **({"upstream": self._upstream} if self._upstream else {})}
        finish_reason = "other"
        if event.reason == "done":
            finish_reason = _FINISH_REASONS.get(event.finish_reason, "other")
        elif event.reason == "stopped":
            chunks.append(_chunk("abort", reason="stopped"))
        elif event.reason not in HAPPY_ENDS:
            finish_reason = "error"
            text = event.error.message if event.error else _ERRORS.get(event.reason, "The answer is not complete.")
            # `useChat` reads no further than an error.
            chunks += [_chunk("message-metadata", messageMetadata=metadata), _chunk("error", errorText=text)]
        return [*chunks, _chunk("finish", finishReason=finish_reason, messageMetadata=metadata)]

    def _finish_call(self, index: int, call: _Call) -> list[bytes]:
        announcement: list[bytes] = []
        if call.id is None:
            call.name = "unknown"
            announcement = self._announce(index, call)
        text = "".join(call.arguments)
        fields = {"toolCallId": call.id, "toolName": call.name}
        try:
            return [*announcement, _chunk("tool-input-available", **fields, input=_input(text))]
        except ValueError:
            error = "The arguments are not valid JSON."
            return [*announcement, _chunk("tool-input-error", **fields, input=text, errorText=error)]


_HANDLERS: dict[str, Callable[[AiSdk, bytes], list[bytes]]] = {
    "start": AiSdk._start,
    "upstream": AiSdk._upstream_event,
    "token": AiSdk._token,
    "reasoning": AiSdk._reasoning,
    "replace": AiSdk._replace,
    "tool_call": AiSdk._tool_call,
    "step": AiSdk._step,
    "file": AiSdk._file,
    "end": AiSdk._end,
}


def count_chunks(entries: Iterable[Entry]) -> int:
    """Return how many chunks the entries become; they begin with the log's first."""
    encoder = AiSdk()
    return sum(len(encoder.chunks(entry)) for entry in entries)


def _chunk(type_: str, **fields: Any) -> bytes:
    return b"data: %s\n\n" % jsontext.dumps({"type": type_, **fields})


def _input(text: str) -> Any:
    """Return a tool's arguments. Raises ValueError where they are not JSON, or none that clients take."""
    if not text.strip():  # how some servers call a tool without parameters
        return {}
    data = text.encode()
    if jsontext.too_deep(data):
        raise ValueError("nested too deeply")
    value = msgspec.json.decode(data)
    if _refused_by_clients(jsontext.dumps(value)):
        raise ValueError("a forbidden name")
    return value


def _known(event: msgspec.Struct) -> dict[str, Any]:
    """Return an event's fields without those that are None: the clients' schemas know absent ones only."""
    return {name: value for name, value in msgspec.structs.asdict(event).items() if value is not None}


def _shown_end(event: End) -> dict[str, Any]:
    shown = _known(event)
    if not event.metadata:
        del shown["metadata"]
    if _refused_by_clients(jsontext.dumps(shown)):  # what the upstream added is optional, the end is not
        shown["metadata"] = {"omitted": "names that clients refuse"}
        if event.usage is not None:
            shown["usage"] = msgspec.structs.replace(event.usage, details=None)
    return shown


def _refused_by_clients(data: bytes) -> bool:
    """Return whether the JSON has keys at which the package's parser throws the whole chunk away."""
    return b'"__proto__":' in data or (b'"constructor":{' in data and b'"prototype":' in data)


def _media_type(file: File) -> str:
    """Return a media type: the upstream tells no more than the kind."""
    if file.url.startswith("data:"):
        return file.url[len("data:") :].partition(",")[0].partition(";")[0] or "text/plain"
    return f"{file.kind}/*" if file.kind in {"image", "audio", "video"} else "application/octet-stream"


def _sources(event: End) -> list[bytes]:
    """Return Dify's sources; a document of a crawled site is named by its address."""
    sources = event.metadata.get("sources")
    chunks = []
    for number, source in enumerate(sources if isinstance(sources, list) else (), 1):
        title = source.get("document_name") if isinstance(source, dict) else None
        if not isinstance(title, str):
            continue
        if title.startswith(("http://", "https://")):
            chunks.append(_chunk("source-url", sourceId=f"source-{number}", url=title))
        else:
            document = {"sourceId": f"source-{number}", "mediaType": "text/plain", "title": title}
            chunks.append(_chunk("source-document", **document))
    return chunks
