"""Many small runs side by side, no two with the same answer, so that none can pass for another."""

import json
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tests.live import Call
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import sse_events

POSITIONS = 300  # for each kind of fault, on either side of the relay
SLOTS = 12  # cases that go on at the same time
WORDS = ["早上", "好", " 👋", "\n\n", "a", " plain", " wörds", "👨‍👩‍👧", '"}', "data: x\n\n"]

Event = tuple[int, str, dict[str, Any]]  # seq, type, fields
AnyCase = TypeVar("AnyCase")


def tokens_of(prompt: str) -> list[str]:
    """Return the answer to a prompt."""
    chance = random.Random(prompt)
    return [*(chance.choice(WORDS) for _ in range(chance.randint(4, 8))), f" {prompt}."]


def answer_pieces(prompt: str, *, keep: bool = False) -> list[bytes]:
    """Return what the upstream writes: head, tokens, finish, [DONE], the last chunk."""
    events = [*map(token_chunk, tokens_of(prompt)), FINISH, DONE]
    connection = b"keep-alive" if keep else b"close"
    head = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: %s\r\n\r\n" % connection
    chunks = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    return [b"HTTP/1.1 200 OK\r\n" + head, *chunks, b"0\r\n\r\n"]


class Model:
    """The upstream's script: whole answers. `calls` counts by prompt; `keep`: its connections stay open."""

    def __init__(self, *, keep: bool = False) -> None:
        self.calls: Counter[str] = Counter()
        self._keep = keep

    def __call__(self, call: Call) -> None:
        prompt = json.loads(call.body)["messages"][-1]["content"]
        self.calls[prompt] += 1
        pieces = answer_pieces(prompt, keep=self._keep)
        if self._keep:  # in one piece, so that the connection is free again when the run ends
            return call.send(b"".join(pieces))
        pace_seconds = random.Random(prompt).choice([0, 0.003])  # half of them come in many reads
        for piece in pieces:
            call.send(piece)
            time.sleep(pace_seconds)
        return call.connection.close()


def side_by_side(cases: Sequence[AnyCase], do: Callable[[int, AnyCase], None], slots: int = SLOTS) -> None:
    """Call `do(slot, case)` for all; the cases of one slot come one after the other."""

    def work(slot: int) -> None:
        for case in cases[slot::slots]:
            try:
                do(slot, case)
            except Exception as error:
                raise AssertionError(f"{case}: {error!r}") from error

    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(work, range(slots)))


def whole_events(format_name: str, data: bytes) -> list[Event]:
    """Return the whole events of a body that was cut anywhere."""
    if format_name == "sse":
        found = [(int(event.id.rpartition(".")[2]), event.type, json.loads(event.data)) for event in sse_events(data)]
        return [(seq, "token" if type_ == "message" else type_, fields) for seq, type_, fields in found]
    lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].split(b"\n") if line.startswith(b"{")]
    return [(line.pop("seq"), line.pop("type"), line) for line in lines if "seq" in line]


def text_of(events: list[Event]) -> str:
    """Return the text of a log without replacements."""
    return "".join(fields["text"] for _, type_, fields in events if type_ == "token")


def checked_end(events: list[Event]) -> dict[str, Any]:
    """Check what is true of every log: gapless, one start, one end, the right digest. Return the end."""
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    types = [type_ for _, type_, _ in events]
    assert (types[0], types[-1], types.count("start"), types.count("end")) == ("start", "end", 1, 1)
    end, data = events[-1][2], text_of(events).encode()
    assert end["digest"] == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}
    return end
