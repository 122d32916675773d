"""Fuzzes the targets: `python -m tests.fuzz [--seconds 600] [name…]`, one after the other.

Each runs in a process of its own from the seeds in tests/fuzz/seeds; what crashes it, or makes its time grow faster
than its input, is told, and the exit code is 1. The input of a crash is written to the working directory; it belongs
into the seeds.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import growth, seeds

TARGETS = (
    "answer_head",
    "sse",
    "openai_reader",
    "dify_reader",
    "asking",
    "openai_ask",
    "ui_messages",
    "ws_messages",
    "ws_frames",
)
MAX_INPUT_BYTES = 8192
SLOWEST_SECONDS = 10  # one input of this length: a hang on any machine
MEMORY_MB = 2048


def fuzz(name: str, seconds: int) -> str:
    """Fuzz one target for so long; return what was found, "" = nothing."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, given = Path(folder, "corpus"), Path(folder, "seeds")
        corpus.mkdir()
        seeds.write(name, given)
        words = Path(folder, "words")
        words.write_text(seeds.dictionary(), encoding="ascii")
        options = {
            "max_total_time": seconds,
            "max_len": MAX_INPUT_BYTES,
            "timeout": SLOWEST_SECONDS,
            "rss_limit_mb": MEMORY_MB,
            "dict": words,
            "artifact_prefix": f"{name}-",
            "print_final_stats": 1,
        }
        command = [sys.executable, "-m", "tests.fuzz.run", name, *(f"-{key}={value}" for key, value in options.items())]
        done = subprocess.run([*command, corpus, given], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{name}: a fault\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
        print(name, *(line for line in done.stderr.splitlines() if line.startswith("stat::number_of")), flush=True)
        return growth.faster_than_input(name, [path.read_bytes() for path in (*given.iterdir(), *corpus.iterdir())])


def main() -> None:
    """Fuzz; exit with what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("names", nargs="*", default=TARGETS)
    asked = parser.parse_args()
    found = [finding for name in asked.names if (finding := fuzz(name, asked.seconds))]
    sys.exit("\n\n".join(found) or 0)


if __name__ == "__main__":
    main()
