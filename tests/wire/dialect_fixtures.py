"""Loads the upstream answers of tests/fixtures/dialects: `NAME.sse`, the exact bytes, and `NAME.json`, what they mean.

Adding a pair of files adds a test. Keys of the JSON: `about`; `dialect` {kind, mode}; `asked_conversation_id`, where
one was; `events` [[type, fields], …]; `complete`, whether the last word is known before the body ends; `verdict`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streaming.wire.ask import Context, Message
from streaming.wire.dialects import Dialect, Verdict
from streaming.wire.dialects.dify import Dify
from streaming.wire.dialects.openai import OpenAI
from streaming.wire.events import Event

FOLDER = Path(__file__).parent.parent / "fixtures" / "dialects"
UPSTREAM_URL = "https://upstream.example/v1"

EventPair = tuple[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """One upstream's answer and what it means. `verdict` has the failure's code in place of the failure."""

    name: str
    raw: bytes
    kind: str
    mode: str
    asked_conversation_id: str | None
    events: list[EventPair]
    complete: bool
    verdict: dict[str, Any]

    def dialect(self, url: str = UPSTREAM_URL) -> Dialect:
        """Return the dialect that reads this answer, for an upstream at `url`."""
        if self.kind == "dify":
            return Dify(url=url, api_key="app-key", mode=self.mode)
        return OpenAI(url=url, api_key="sk-key", model="some-model")

    def context(self) -> Context:
        """Return the context of the question that this answer belongs to."""
        question = [Message(role="user", content="hi")]
        return Context(messages=question, conversation_id=self.asked_conversation_id, user="abc-123")


def load(name: str) -> Fixture:
    """Return the fixture of that name."""
    told = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Fixture(
        name=name,
        raw=(FOLDER / f"{name}.sse").read_bytes(),
        kind=told["dialect"]["kind"],
        mode=told["dialect"].get("mode", ""),
        asked_conversation_id=told.get("asked_conversation_id"),
        events=[(type_, fields) for type_, fields in told["events"]],
        complete=told["complete"],
        verdict=told["verdict"],
    )


def names() -> list[str]:
    """Return the names of all fixtures: every file of the folder belongs to one."""
    return sorted({path.stem for path in FOLDER.iterdir()})


def event_pair(event: Event) -> EventPair:
    """Return an event in the fixtures' form."""
    return event.type, msgspec.to_builtins(event)


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict in the fixtures' form."""
    return {
        "reason": verdict.reason,
        "finish_reason": verdict.finish_reason,
        "failure": verdict.failure.code if verdict.failure else None,
        "usage": msgspec.to_builtins(verdict.usage),
        "metadata": verdict.metadata,
    }
