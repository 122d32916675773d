"""What the relay tells those who watch it: metrics, log lines, traces. They know of it, it knows nothing of them.

One happening is told once, at its end; nothing is told for each token.
"""

import logging
from collections.abc import Callable

import msgspec

from streaming.relay.pace import Pace
from streaming.wire.events import End
from streaming.wire.trace import Trace

log = logging.getLogger(__name__)


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an observer may care for."""


class RunEnded(Happening, frozen=True, kw_only=True):
    """A run of this process has ended. `end` has its usage, digest and timing."""

    run_id: str
    owner: str | None  # see runs.Caller
    request_id: str | None
    trace: Trace | None
    upstream: str  # that answered, or was asked last
    dialect: str
    model: str | None
    tries: int  # calls of upstreams, 0 = it never came to one
    resumes: int  # of its subscribers, at this worker
    began: float  # Unix seconds
    stop_seconds: float | None  # from being asked to stop to the end; None = nobody asked
    pace: Pace
    end: End


class UpstreamCalled(Happening, frozen=True, kw_only=True):
    """A call of an upstream came to something: `result` is "accepted", "interrupted" or one of errors.FAILURES."""

    upstream: str
    result: str
    is_retry: bool  # of the same upstream


class Resumed(Happening, frozen=True, kw_only=True):
    """A client came back. `result`: "followed", "over" (it had all there is) or "lost" (the run is gone)."""

    result: str


class Streamed(Happening, frozen=True, kw_only=True):
    """A streaming response is over."""

    format: str
    size_bytes: int  # before compression


class Heartbeat(Happening, frozen=True, kw_only=True):
    """A sign of life was sent in silence."""


class SlowClientDropped(Happening, frozen=True, kw_only=True):
    """A client took nothing for too long."""


class Refused(Happening, frozen=True, kw_only=True):
    """A request was refused. `endpoint` is the route's name in the code, None = it never came to a route."""

    code: str
    status: int
    endpoint: str | None
    request_id: str
    trace: Trace | None = None


class DigestMismatched(Happening, frozen=True, kw_only=True):
    """A page found that its text was not the answer, and read it anew."""


class RedisAnswered(Happening, frozen=True, kw_only=True):
    """Commands that travelled together have their replies."""

    commands: int
    seconds: float


Observer = Callable[[Happening], None]
"""Takes note of what it cares for, and passes over the rest. It must neither block nor give way to other greenlets."""


def nobody(happening: Happening) -> None:
    """Take no note."""


def each_of(*observers: Observer) -> Observer:
    """Return an observer that tells all of these, whatever becomes of one of them: none may harm a run."""

    def tell(happening: Happening) -> None:
        for observer in observers:
            try:
                observer(happening)
            except Exception:
                log.exception("what happened could not be noted: %s", type(happening).__name__)

    return tell
