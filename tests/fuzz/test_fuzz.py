"""A short time under the fuzzer for each target; `make fuzz SECONDS=600` takes longer."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from gevent.pool import Pool

from tests.fuzz import growth, seeds
from tests.fuzz.__main__ import TARGETS as NAMES
from tests.fuzz.targets import TARGETS
from tests.live import ROOT

SECONDS = 20
AT_ONCE = 2
NO_FUZZER = sys.platform != "linux" or sys.version_info >= (3, 14)  # atheris has no wheels there


def test_every_target_is_fuzzed() -> None:
    assert set(NAMES) == set(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_found_once_is_mended(name: str) -> None:
    given = seeds.of(name)
    assert given
    for seed in given:
        TARGETS[name](seed)


@pytest.mark.skipif(NO_FUZZER, reason="atheris has no wheels for this Python")
@pytest.mark.timeout(900)
def test_a_short_time_finds_nothing() -> None:
    def fuzz(name: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(SECONDS), name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    found = [told for code, told in Pool(AT_ONCE).imap_unordered(fuzz, NAMES) if code]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("work", "found"),
    [
        (lambda size: size // 8, False),
        (lambda size: size // 8 if size > 4 * growth.LONG_BYTES else 0, False),
        (lambda size: size**2 // 4000, True),
    ],
    ids=("linear", "linear past a length", "quadratic"),
)
def test_growth_is_told_from_size(work: Callable[[int], int], found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def target(data: bytes) -> None:
        for _ in range(work(len(data))):
            pass

    monkeypatch.setitem(TARGETS, "x", target)
    assert bool(growth.faster_than_input("x", [b"abc"])) is found
