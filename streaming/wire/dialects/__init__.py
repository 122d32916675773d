"""Upstream languages. A dialect makes the request, reads the refusal, and gives each answer its own reader.

Dialect.request(ask, context) -> Request      what to POST
Dialect.refusal(status, headers, body)        an HTTP error answer -> Failure
Dialect.reader() -> Reader                    one answer
Reader.feed(event) -> our events              pure: no I/O, no clock
Reader.ending, complete, eof()                whether and how it ended
Reader.stop_request() -> Request | None       how to stop it
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from streaming.wire.ask import Ask, Context
from streaming.wire.errors import Failure
from streaming.wire.events import Event, Usage
from streaming.wire.sse import ServerSentEvent
from streaming.wire.trace import Trace


class Pieces(Protocol):
    """A long body; its `len` is in bytes. Iterated from the beginning each time: a call may be made once more."""

    def __iter__(self) -> Iterator[bytes]: ...
    def __len__(self) -> int: ...


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call to an upstream: an absolute URL, headers, and a body (JSON, or an upload)."""

    url: str
    headers: dict[str, str]
    body: bytes | Pieces = b""
    method: Literal["GET", "POST"] = "POST"

    def traced(self, trace: Trace | None) -> "Request":
        """Return the same call as a part of a trace, None = of none."""
        if trace is None:
            return self
        return msgspec.structs.replace(self, headers={**self.headers, **trace.headers()})


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How the upstream ended. `failure` is set exactly where `reason` is "error"; `usage` None = it told none."""

    reason: str  # done, stopped, paused, error
    finish_reason: str | None = None
    failure: Failure | None = None
    usage: Usage | None = None
    metadata: dict[str, Any] = {}


def failed(code: str, **details: Any) -> Verdict:
    """Return the verdict of an answer that failed with `code`, one of errors.FAILURES."""
    return Verdict(reason="error", failure=Failure(code), **details)


class Reader(Protocol):
    """Reads one answer.

    `ending` since the first terminal sign; what it ended with may still gain usage until `complete`, the last word.
    `conversation_id` is the upstream's own, None where it has none.
    """

    @property
    def ending(self) -> bool: ...
    @property
    def complete(self) -> bool: ...
    @property
    def conversation_id(self) -> str | None: ...

    def feed(self, event: ServerSentEvent) -> list[Event]:
        """Return our events for one of the upstream's. Raises Failure("upstream_invalid") for what is no JSON."""

    def eof(self) -> Verdict:
        """Return the verdict when the body has ended, or when nothing more is awaited."""

    def stop_request(self) -> Request | None:
        """Return the call that stops the answer; None = there is none, or its task is not known yet."""


class Dialect(Protocol):
    """One upstream language, configured for one upstream."""

    @property
    def history(self) -> str:
        """Who keeps it: "relay", "upstream" (Dify's chat apps), or "none" (no conversations)."""

    @property
    def stops_by_request(self) -> bool:
        """Whether a stop is a call of its own; otherwise closing the connection is the stop."""

    @property
    def model(self) -> str | None:
        """The model that is asked for, None where that is the upstream's own business."""

    @property
    def models(self) -> tuple[str, ...]:
        """Which others a caller may choose; "*" = any."""

    def check(self, ask: Ask) -> None:
        """Raise AskError where the ask needs something this upstream does not have."""

    def request(self, ask: Ask, context: Context) -> Request:
        """Return the call that begins the answer."""

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Return what an HTTP answer other than 200 means; `headers` are looked up in lower case."""

    def reader(self, context: Context) -> Reader:
        """Return a reader for one answer."""
