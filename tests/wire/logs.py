"""Logs of runs, as the relay would have written them."""

import msgspec

from streaming.wire import jsontext
from streaming.wire.errors import Failure
from streaming.wire.events import (
    End,
    Entry,
    Event,
    File,
    Reasoning,
    Replace,
    Start,
    Step,
    Token,
    ToolCall,
    Upstream,
    Usage,
)
from tests.wire.dialect_fixtures import Fixture

RUN = "ab12XYZ"
_EVENT_TYPES: dict[str, type[Event]] = {cls.type: cls for cls in (Token, Reasoning, Replace, ToolCall, Step, File)}


def log_with(*events: Event, conversation_id: str | None = None, model: str | None = "m-1") -> list[Entry]:
    """Return the log of a run that upstream `main` has accepted, with these events behind that."""
    start = Start(run_id=RUN, conversation_id=conversation_id, created=1_771_000_000)
    log = [start, Upstream(name="main", model=model, tries=1), *events]
    return [Entry(seq, event.type, jsontext.dumps(event)) for seq, event in enumerate(log, 1)]


def log_of(fixture: Fixture) -> list[Entry]:
    """Return the log of a run that got the recorded answer."""
    verdict = fixture.verdict
    end = End(
        reason=verdict["reason"],
        finish_reason=verdict["finish_reason"],
        error=Failure(verdict["failure"]).as_end_error() if verdict["failure"] else None,
        usage=msgspec.convert(verdict["usage"], Usage | None),
        metadata=verdict["metadata"],
    )
    return log_with(*(msgspec.convert(fields, _EVENT_TYPES[type_]) for type_, fields in fixture.events), end)
