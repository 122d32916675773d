"""Whether a target's time grows faster than its input, told without a clock's absolute figures.

A part of an input is repeated until it is long, and until it is eight times as long: linear work takes eight times the
CPU time, quadratic work sixty-four times. What is too quick to be measured cannot be quadratic at this length.
"""

import random
import time
from collections.abc import Callable

from tests.fuzz.targets import TARGETS

LONG_BYTES = 16 * 1024
TIMES = 8
TOO_MUCH = 3 * TIMES  # linear work with caches and collections in its way stays below
MEASURABLE_SECONDS = 0.02
INPUTS = 30
PARTS = 2  # of each input
TRIES = 3


def faster_than_input(name: str, inputs: list[bytes]) -> str:
    """Return which input's time grows too fast, "" where none does."""
    rng = random.Random(name)
    for data in rng.sample(inputs, min(len(inputs), INPUTS)):
        for _ in range(PARTS):
            start, end = sorted(rng.choices(range(len(data) + 1), k=2))
            parts = data[:start], data[start:end], data[end:]
            if parts[1] and all(_ratio(TARGETS[name], parts) > TOO_MUCH for _ in range(TRIES)):
                return f"{name}: time grows faster than the input when the middle one is repeated: {parts}"
    return ""


def _ratio(target: Callable[[bytes], None], parts: tuple[bytes, bytes, bytes]) -> float:
    before, part, behind = parts
    many = LONG_BYTES // len(part) + 1
    long = _cpu_seconds(target, before + part * many * TIMES + behind)
    return long / _cpu_seconds(target, before + part * many + behind) if long > MEASURABLE_SECONDS else 0.0


def _cpu_seconds(target: Callable[[bytes], None], data: bytes) -> float:
    begun = time.process_time()
    target(data)
    return time.process_time() - begun + 1e-6
