"""The vocabulary of a run's log: every event is a type and one JSON object (the same in every native format).

A run's log is `Start`, perhaps `Upstream`, any number of the others, and exactly one `End`, which is last.
The log keeps events as `Entry`s: encoded once, sent to every subscriber as they are.
"""

from typing import Any, ClassVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that happened in a run. `type` is its name in every format."""

    type: ClassVar[str]


class Start(Event, frozen=True, kw_only=True):
    """Always `seq` 1, written before the upstream is contacted: every client holds a cursor from its first bytes on."""

    type: ClassVar[str] = "start"
    run_id: str
    conversation_id: str | None  # ours; None where the upstream keeps no conversation
    created: int  # Unix seconds


class Upstream(Event, frozen=True, kw_only=True):
    """An upstream has accepted the call."""

    type: ClassVar[str] = "upstream"
    name: str
    model: str | None
    tries: int


class Token(Event, frozen=True, kw_only=True):
    """Append `text` to the answer."""

    type: ClassVar[str] = "token"
    text: str


class Reasoning(Event, frozen=True, kw_only=True):
    """Append `text` to the thinking."""

    type: ClassVar[str] = "reasoning"
    text: str


class Replace(Event, frozen=True, kw_only=True):
    """`text` replaces the whole answer so far (Dify's moderation)."""

    type: ClassVar[str] = "replace"
    text: str


class ToolCall(Event, frozen=True, kw_only=True):
    """A fragment of a tool call; `arguments` are cut as the upstream cuts them, `id` and `name` come once."""

    type: ClassVar[str] = "tool_call"
    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Step(Event, frozen=True, kw_only=True):
    """Progress inside the upstream. `status`: started, finished, failed."""

    type: ClassVar[str] = "step"
    id: str
    kind: str  # node, thought, iteration, loop, branch, log
    name: str
    status: str
    detail: dict[str, Any] | None = None


class File(Event, frozen=True, kw_only=True):
    """A file that belongs to the answer."""

    type: ClassVar[str] = "file"
    id: str
    kind: str
    url: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts; None = unknown. `exact` is False where they are our estimate."""

    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    exact: bool
    details: dict[str, Any] | None = None  # the upstream's own object, untouched


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """Proof for a client that it holds every character: of the answer's UTF-8."""

    bytes: int
    crc32: str  # 8 lower-case hex digits


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from the run's start; None = it never came to that.

    `connect` is how long connecting took, None on a kept connection.
    """

    connect: float | None = None
    headers: float | None = None
    first_token: float | None = None
    total: float | None = None


class EndError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run failed. `message` is ours and safe to show; `retry_after` is in seconds."""

    code: str
    message: str
    retryable: bool
    retry_after: int | None
    status: int


class End(Event, frozen=True, kw_only=True):
    """The single terminal event.

    `reason`: done, stopped, paused, abandoned, error, interrupted. `finish_reason` is the upstream's own word.
    `upstream_stop`: confirmed (its stop call succeeded), closed (the connection was closed), failed, or None.
    `usage`, `digest` and `timing` are None only where the run's log was lost.
    """

    type: ClassVar[str] = "end"
    reason: str
    finish_reason: str | None = None
    error: EndError | None = None
    usage: Usage | None = None
    digest: Digest | None = None
    upstream_stop: str | None = None
    timing: Timing | None = None
    metadata: dict[str, Any] = {}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One event as the log keeps it: `data` is its JSON object, UTF-8, without raw CR or LF."""

    seq: int
    type: str
    data: bytes


LOST_END_SKIP = 1_000_000
"""How far the `seq` of an `end` that somebody else wrote for a dead owner lies beyond the last one seen: a cursor
that saw events which the store then lost still gets that end (DESIGN §6, invariant 1)."""
