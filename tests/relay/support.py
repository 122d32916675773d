"""The relay's parts put together as app.py does, for tests that look at them from inside."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from streaming.relay.conversations import Conversations
from streaming.relay.exchange import HttpExchange, HttpUpstream
from streaming.relay.run import Run
from streaming.relay.runs import Bounds, Caller, Runs
from streaming.relay.stores.memory import MemoryStore
from streaming.relay.upstream import Limits, Session, Sink, Upstream
from streaming.wire.ask import Ask, Context, Message
from streaming.wire.dialects import Dialect
from streaming.wire.dialects.dify import Dify
from streaming.wire.dialects.openai import OpenAI
from streaming.wire.events import Event

LIMITS = Limits(connect_seconds=5, idle_seconds=30, progress_seconds=30)
BOUNDS = Bounds(
    max_runs=100,
    max_tries=1,
    run_max_bytes=1 << 20,
    log_max_bytes=16 << 20,
    run_ttl_seconds=60,
    run_max_seconds=60,
    disconnect_grace_seconds=30,
)
CALLER = Caller()

to_close: list[Any] = []  # what the running test has opened


def token_chunk(text: str, **choice: Any) -> bytes:
    """Return one OpenAI chunk with a text."""
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, **choice}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Collector:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.acceptances: list[float | None] = []  # connect_ms of each

    def accepted(self, connect_ms: float | None) -> None:
        self.acceptances.append(connect_ms)

    def append(self, event: Event) -> None:
        self.events.append(event)


def openai(url: str) -> OpenAI:
    return OpenAI(url=url, api_key="sk-test", model="m")


def dify(url: str, mode: str = "chat") -> Dify:
    return Dify(url=url, api_key="app-test", mode=mode)


def kept_session() -> Session:
    """Return a session for several calls of one test."""
    session = Session()
    to_close.append(session)
    return session


def exchange(
    dialect: Dialect,
    collector: Collector | None = None,
    *,
    session: Session | None = None,
    context: Context | None = None,
    **limits: float,
) -> HttpExchange:
    """Return a call to the upstream of `dialect` that has not begun. It is closed after the test."""
    collector = collector or Collector()
    call = HttpExchange(
        dialect=dialect,
        session=session or kept_session(),
        limits=msgspec.structs.replace(LIMITS, **limits),
        ask=Ask(prompt="hi"),
        context=context or Context(messages=[Message("user", "hi")], user="abc-123"),
        sink=Sink(accepted=collector.accepted, append=collector.append),
    )
    to_close.append(call)
    return call


@contextmanager
def runs(
    *dialects: Dialect,
    store: MemoryStore | None = None,
    upstreams: list[Upstream] | None = None,
    max_turns: int = 50,
    conversation_ttl_seconds: float = 60,
    idle_seconds: float = 30,
    **bounds: Any,
) -> Iterator[Runs]:
    """Runs over HTTP upstreams named u0, u1… (or over `upstreams`), closed afterwards."""
    store, session = store or MemoryStore(), Session()
    all_bounds = msgspec.structs.replace(BOUNDS, **bounds)
    limits = msgspec.structs.replace(LIMITS, idle_seconds=idle_seconds)
    conversations = Conversations(store, ttl_seconds=conversation_ttl_seconds, max_turns=max_turns, claim_seconds=120)
    if upstreams is None:
        upstreams = [
            HttpUpstream(f"u{n}", "dify" if isinstance(dialect, Dify) else "openai", dialect, session, limits)
            for n, dialect in enumerate(dialects)
        ]
    all_runs = Runs(upstreams=upstreams, store=store, conversations=conversations, bounds=all_bounds)
    try:
        yield all_runs
    finally:
        all_runs.close()
        session.close()


def ended(run: Run, within_seconds: float = 20.0) -> Any:
    """Wait for the run's end and return it."""
    assert run.wait_end(within_seconds), "the run did not end"
    assert run.end is not None
    return run.end
