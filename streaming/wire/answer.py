"""Log entries -> one JSON answer: the `json` format, the snapshot, and a conversation's next turn."""

from collections.abc import Iterable
from typing import Any

import msgspec

from streaming.wire.events import End, Entry, File, Reasoning, Replace, Start, Step, Token, ToolCall, Upstream

EVENT_TYPES = {cls.type: cls for cls in (Start, Upstream, Token, Reasoning, Replace, ToolCall, Step, File, End)}
_DECODERS = {type_: msgspec.json.Decoder(cls) for type_, cls in EVENT_TYPES.items()}


class Answer(msgspec.Struct, kw_only=True):
    """What a log amounts to so far. `end` is None while the run goes on; `seq` is the last event's."""

    run_id: str = ""
    conversation_id: str | None = None
    created: int = 0  # Unix seconds
    seq: int = 0
    upstream: Upstream | None = None
    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = []
    steps: list[Step] = []
    files: list[File] = []
    end: End | None = None

    def status(self) -> int:
        """Return the HTTP status of the `json` format; 503 where the run was abandoned or interrupted."""
        if self.end is None or self.end.reason in {"abandoned", "interrupted"}:
            return 503
        return self.end.error.status if self.end.error else 200

    def as_json(self) -> dict[str, Any]:
        """Return the `json` format's object."""
        return {name: getattr(self, name) for name in JSON_FIELDS}

    def as_snapshot(self) -> dict[str, Any]:
        """Return the object of GET /runs/<id>: followed from its `seq`, it misses nothing."""
        return {"state": "ended" if self.end else "running", **{name: getattr(self, name) for name in SNAPSHOT_FIELDS}}


JSON_FIELDS = ("run_id", "conversation_id", "text", "reasoning", "tool_calls", "files", "end")
SNAPSHOT_FIELDS = tuple(name for name in Answer.__struct_fields__ if name != "created")  # and `state`


def fold(entries: Iterable[Entry]) -> Answer:
    """Return what the entries amount to; they begin with the log's first."""
    folding, seq = _Folding(), 0
    for entry in entries:
        seq = entry.seq
        event = _DECODERS[entry.type].decode(entry.data)
        if type(event) is Token:  # nearly all are: 200 of them are folded in 50 µs in place of 110, twice a run
            folding.text.append(event.text)
        else:
            getattr(folding, entry.type)(event)
    folding.answer.seq = seq
    return folding.finish()


class _Folding:
    """One method per event type but Token. Pieces are joined once, at the end: adding strings would be quadratic."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._steps: dict[str, Step] = {}

    def start(self, event: Start) -> None:
        self.answer.run_id, self.answer.conversation_id = event.run_id, event.conversation_id
        self.answer.created = event.created

    def upstream(self, event: Upstream) -> None:
        self.answer.upstream = event

    def reasoning(self, event: Reasoning) -> None:
        self._reasoning.append(event.text)

    def replace(self, event: Replace) -> None:
        self.text = [event.text]

    def tool_call(self, event: ToolCall) -> None:
        new: dict[str, Any] = {"index": event.index, "id": None, "name": None, "arguments": []}
        call = self._calls.setdefault(event.index, new)
        call["id"] = call["id"] or event.id
        call["name"] = call["name"] or event.name
        call["arguments"].append(event.arguments)

    def step(self, event: Step) -> None:
        self._steps[event.id] = event

    def file(self, event: File) -> None:
        self.answer.files.append(event)

    def end(self, event: End) -> None:
        self.answer.end = event

    def finish(self) -> Answer:
        answer = self.answer
        answer.text, answer.reasoning = "".join(self.text), "".join(self._reasoning)
        answer.tool_calls = [
            {**call, "arguments": "".join(call["arguments"])} for _, call in sorted(self._calls.items())
        ]
        answer.steps = list(self._steps.values())
        return answer
