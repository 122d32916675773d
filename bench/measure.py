"""One measurement: a load on a target, and what the target's process tree spent on it."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.targets import Running

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SETTLE_SECONDS = 0.3  # what a target does behind the last answer is part of its cost


@dataclass(frozen=True)
class Work:
    """What is asked: `count` readers, all open at once, who come `ramp` a second; `rate` in tokens a second and stream.

    `kind`: each reader begins a stream of its own ("streams"), or all follow one run ("subscribers").
    """

    kind: str
    count: int
    tokens: int
    rate: float
    ramp: float


@dataclass(frozen=True)
class Spent:
    """What a process tree has used so far; `cpu_seconds` is user and system time, `memory_bytes` is resident."""

    cpu_seconds: float
    memory_bytes: int


def spent(pid: int) -> Spent:
    """Return what the tree under `pid` has spent. A process that ended is counted by its parent."""
    parents: dict[int, tuple[int, float, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended just now
        ticks = sum(map(int, fields[11:15]))  # its own, and those of children that it has waited for
        parents[int(path.parent.name)] = (int(fields[1]), ticks / TICKS_A_SECOND, int(fields[21]) * PAGE_BYTES)
    tree, more = {pid}, True
    while more:
        found = {child for child, (parent, _, _) in parents.items() if parent in tree} | tree
        more, tree = len(found) > len(tree), found
    known = [parents[each] for each in tree if each in parents]
    return Spent(sum(cpu for _, cpu, _ in known), sum(memory for _, _, memory in known))


class Unclean(Exception):
    """Tokens were lost or doubled, or streams failed: the figures would compare nothing."""


@dataclass(frozen=True)
class Loaded:
    """What one work cost. `None`: not told by this work.

    `total_us` per token with everything, set-up and end included; `token_us` while only tokens flowed; `stream_ms` per
    stream with everything; `stream_kb` what memory had grown by when all streams were open.
    """

    tokens: int
    total_us: float
    token_us: float | None
    stream_ms: float
    stream_kb: float | None
    first_ms: dict[str, float]
    delay_ms: dict[str, float]


def load(program: Path, target: Running, work: Work) -> Loaded:
    """Put the work on the target. Raises Unclean."""
    path, body = ("/runs", '{"prompt":"hi","on_disconnect":"finish"}') if work.kind == "subscribers" else ("", "")
    words = [program, work.kind, "127.0.0.1", target.port, path or target.path, body or target.body]
    before = spent(target.pid)
    found: dict[str, tuple[dict[str, Any], Spent]] = {}
    with subprocess.Popen(  # noqa: S603  # our own words
        [*map(str, words), str(work.count), str(work.tokens), str(work.ramp)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if said["at"] == "over":
                time.sleep(SETTLE_SECONDS)
            found[said["at"]] = (said, spent(target.pid))
    if "over" not in found:
        raise Unclean("the load ended early")
    over, after = found["over"]
    if over["failed"] or over["lost"] or over["doubled"] or not over["tokens"]:
        raise Unclean(json.dumps(over))
    cpu_seconds = after.cpu_seconds - before.cpu_seconds
    token_us = stream_kb = None
    if "open" in found:
        (opened, then), (closing, later) = found["open"], found["closing"]
        flowed = closing["tokens"] - opened["tokens"]
        token_us = (later.cpu_seconds - then.cpu_seconds) / flowed * 1e6 if flowed else None
        stream_kb = (max(then.memory_bytes, later.memory_bytes) - before.memory_bytes) / work.count / 1024
    return Loaded(
        tokens=over["tokens"],
        total_us=cpu_seconds / over["tokens"] * 1e6,
        token_us=token_us,
        stream_ms=cpu_seconds / work.count * 1e3,
        stream_kb=stream_kb,
        first_ms=over["first_ms"],
        delay_ms=over["delay_ms"],
    )
