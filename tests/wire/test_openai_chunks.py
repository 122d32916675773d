"""The short way of an OpenAI chunk, typed and with a text alone, means what the long way does."""

import json
import random
from typing import Any

import msgspec
import pytest

from streaming.wire.dialects import openai
from streaming.wire.dialects import openai_chunks as chunks
from streaming.wire.errors import Failure
from streaming.wire.sse import ServerSentEvent

ANSWERS = 4000
TEXTS = ("", "a", "好", "\u2028", "\ud83d", "\udca7", "x\ud83d", "\udca7y", None)
OTHERS = (True, 1, -1, 0.5, 10**30, "", "a", [], [None], {}, None)


class Dice(random.Random):
    """Throws what an upstream may send."""

    def some(self, **fields: Any) -> dict[str, Any]:
        """Return some of these fields; now and then one of them is of another type."""
        value = {name: field for name, field in fields.items() if self.random() < 0.4}
        if value and self.random() < 0.05:
            value[self.choice(sorted(value))] = self.choice(OTHERS)
        return value

    def text(self) -> str | None:
        return self.choice(TEXTS)

    def call(self) -> dict[str, Any]:
        function = self.some(name=self.text(), arguments=self.text())
        return self.some(index=self.randrange(2), id=self.text(), function=function)

    def chunk(self) -> dict[str, Any]:
        choices = []
        for _ in range(self.choice([0, 1, 1, 1, 2])):
            calls = [self.call() for _ in range(self.randrange(2))]
            thoughts = self.some(reasoning_content=self.text(), reasoning=self.text(), refusal=self.text())
            delta = {"content": self.text(), **self.some(tool_calls=calls, role="assistant", **thoughts)}
            ending = self.some(finish_reason=self.choice(["", "stop", "error", None]))
            choices.append({"delta": delta, **ending, **self.some(index=self.randrange(2), logprobs=None)})
        usage = self.some(prompt_tokens=self.randrange(3), total_tokens=self.randrange(3), more={"a": [0.5]})
        rare = {"error": self.choice(OTHERS)} if self.random() < 0.02 else {}
        return {"choices": choices, **self.some(usage=usage, id=self.text()), **rare}


def meaning(answer: list[str]) -> Any:
    reader, events = openai.Reader(), list[Any]()
    try:
        for data in answer:
            events += reader.feed(ServerSentEvent(data))
    except Failure as failure:
        events.append(failure.code)
    verdict = reader.eof()
    return events, reader.ending, reader.complete, verdict.reason, verdict.finish_reason, verdict.usage


def refuse(data: str) -> chunks.Chunk:
    raise msgspec.DecodeError("not by its types")


def test_both_ways_mean_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = Dice(1)
    answers = [[json.dumps(dice.chunk()) for _ in range(dice.randint(1, 4))] for _ in range(ANSWERS)]
    short = [meaning(answer) for answer in answers]
    monkeypatch.setattr(chunks, "decode_typed", refuse)
    for answer, told in zip(answers, short, strict=True):
        assert meaning(answer) == told, answer
