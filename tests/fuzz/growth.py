"""Whether a target's time grows faster than its input, told without a clock's absolute figures.

A part of an input is repeated until it is long, then twice, four and eight times as long: linear work doubles each
time, quadratic work takes four times as much. The greatest of the three steps is left out, because work that begins
only past some length (a short list is refused before it is read) makes one great step and is linear all the same. What
is too quick to be measured cannot be quadratic at this length.
"""

import random
import time
from collections.abc import Callable
from itertools import pairwise

from tests.fuzz.targets import TARGETS

LONG_BYTES = 16 * 1024
LENGTHS = (1, 2, 4, 8)
TOO_MUCH = 9  # in two steps: linear work takes 4, with caches and collections in its way a little more, quadratic 16
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
            if parts[1] and all(_growth(TARGETS[name], parts) > TOO_MUCH for _ in range(TRIES)):
                return f"{name}: time grows faster than the input when the middle one is repeated: {parts}"
    return ""


def _growth(target: Callable[[bytes], None], parts: tuple[bytes, bytes, bytes]) -> float:
    """Return how many times the CPU time grows in the lesser two of the three steps, 0 where there is too little."""
    before, part, behind = parts
    many = LONG_BYTES // len(part) + 1
    took = [_cpu_seconds(target, before + part * many * times + behind) for times in LENGTHS]
    if took[-1] < MEASURABLE_SECONDS:
        return 0.0
    least, middle, _ = sorted(longer / shorter for shorter, longer in pairwise(took))
    return least * middle


def _cpu_seconds(target: Callable[[bytes], None], data: bytes) -> float:
    begun = time.process_time()
    target(data)
    return time.process_time() - begun + 1e-6
