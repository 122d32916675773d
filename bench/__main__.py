"""Measures the relay beside its peers, on the same work, in one run:

    make bench                                          the relay and every peer that is installed
    .venv/bin/python -m bench --targets relay,go --rounds 5
    .venv/bin/python -m bench --redis-url redis://127.0.0.1:6379/0 --targets relay --parts table

Prints a Markdown table and writes bench/results.json; with --plot PATH the curves as an SVG.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import Loaded, Unclean, Work, load
from bench.plot import plot
from bench.report import curve_rows, medians, table
from bench.targets import ANY_DIALECT, HERE, TARGETS, Missing, Place, Running, free_port, running

TOKENS_A_SECOND = 2000  # of all streams of a curve's point together
CURVE_SECONDS = 10  # how long a point is looked at with all its streams open
SMALLER = {"litellm": 10}  # it would not keep up with more
PAUSE_SECONDS = 1.0  # closed connections of one target are not the next one's burden
STREAMS = (10, 50, 200, 1000, 5000)
SUBSCRIBERS = (1, 10, 100, 1000)
CURVES = ("relay", "nginx", "go", "flask")  # the others do not keep up


def table_works(words: argparse.Namespace, name: str) -> dict[str, Work]:
    """Return what a target is asked in every round."""
    at_once, rate = max(1, words.streams // SMALLER.get(name, 1)), words.rate
    return {
        "warm": Work("streams", max(2, at_once // 2), 20, rate, 100),
        "answer": Work("streams", at_once, 200, rate, 100),
        "long": Work("streams", max(1, at_once // 2), 1000, 2 * rate, 100),
        "set_up": Work("streams", 10 * at_once, 1, rate, 100),
    }


def point(kind: str, count: int) -> Work:
    """Return the work of one point of a curve: few readers get many tokens, many get few."""
    ramp = 100.0
    rate = min(100.0, TOKENS_A_SECOND / count)
    tokens = int(rate * (count / ramp + CURVE_SECONDS)) + 1
    return Work(kind, count, tokens, rate, ramp)


class Bench:
    """The simulator and the load generator, built and running; `place` says where a target finds them."""

    def __init__(self, work: Path, words: argparse.Namespace) -> None:
        self.work = work
        self._words = words
        self._upstream_port = free_port()
        for name in ("upstream", "load"):
            subprocess.run(["gcc", "-O2", "-o", work / name, HERE / f"{name}.c"], check=True)  # noqa: S603, S607
        self._upstream = subprocess.Popen([work / "upstream", str(self._upstream_port)])  # noqa: S603

    def close(self) -> None:
        """Stop the simulator."""
        self._upstream.terminate()
        self._upstream.wait()

    def place(self) -> Place:
        """Return a place for one more target."""
        words = self._words
        return Place(self.work, free_port(), self._upstream_port, words.dialect, words.redis_url)

    def load(self, target: Running, work: Work) -> Loaded:
        """Put the work on a target."""
        url = f"http://127.0.0.1:{self._upstream_port}/plan/{work.tokens}/{work.rate}"
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT")):
            pass
        return load(self.work / "load", target, work)

    @contextmanager
    def running(self, name: str) -> Iterator[Running]:
        """Run a target, or nothing: then the load goes straight to the simulator. Raises Missing."""
        if name == "direct":
            path = "/v1/chat-messages" if self._words.dialect == "dify" else "/v1/chat/completions"
            yield Running(self._upstream_port, self._upstream.pid, path, "{}", 0.0)
            return
        with running(name, self.place()) as target:
            yield target
        time.sleep(PAUSE_SECONDS)


def say(text: str) -> None:
    """Tell how it goes; the results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)


def measure_table(bench: Bench, words: argparse.Namespace, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return every round of every target, taking turns; a target starts afresh in each round."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(words.rounds):
        for name in list(rounds):
            try:
                with bench.running(name) as target:
                    found = {
                        key: dataclasses.asdict(bench.load(target, work))
                        for key, work in table_works(words, name).items()
                    }
                    rounds[name].append({"ready_seconds": target.ready_seconds, **found})
            except Missing as missing:
                say(f"{name}: skipped, {missing}")
                del rounds[name]
                continue
            except Unclean as unclean:
                say(f"{name}: this round does not count, {unclean}")
                continue
            say(f"round {number + 1}, {name}: {found['long']['token_us']:.1f} us a further token")
    return rounds


def measure_curve(
    bench: Bench, kind: str, counts: tuple[int, ...], names: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return, for each target, its points; a target that cannot do one is not asked for more."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        for count in counts:
            try:
                with bench.running(name) as target:
                    bench.load(target, Work("streams", 20, 20, 50, 100))
                    found = bench.load(target, point(kind, count))
            except (Missing, Unclean) as problem:
                say(f"{name}, {count} {kind}: {problem}")
                break
            if found.token_us is None:
                say(f"{name}, {count} {kind}: the first ended before the last had begun")
                break
            curves.setdefault(name, []).append({"count": count, **dataclasses.asdict(found)})
            say(f"{name}, {count} {kind}: {found.token_us:.1f} us a token")
    return curves


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],  # before: above 0.3 the machine had other work
    }


def parse() -> argparse.Namespace:
    """Return the command line's words."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", default=",".join(TARGETS), help="with commas between; the others are left out")
    parser.add_argument("--parts", default="table,streams,subscribers", help="what is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=50, help="at once, in the table")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second and stream, in the table")
    parser.add_argument("--dialect", choices=("openai", "dify"), default="openai")
    parser.add_argument("--redis-url", default="", help="the relay's store; without it, its memory")
    parser.add_argument("--max-streams", type=int, default=max(STREAMS), help="the curve's last point")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, and show."""
    words = parse()
    names = [name for name in words.targets.split(",") if words.dialect == "openai" or name in ANY_DIALECT]
    work = {key: str(value) for key, value in vars(words).items() if key not in {"out", "plot"}}
    results: dict[str, Any] = {"machine": machine(), "work": work}
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        bench = Bench(Path(work), words)
        try:
            if "table" in words.parts:
                rounds = measure_table(bench, words, ["direct", *names])
                results |= {"rounds": rounds, "medians": medians(rounds)}
            crowds = tuple(count for count in STREAMS if count <= words.max_streams)
            if "streams" in words.parts:
                in_curves = [name for name in names if name in CURVES]
                results["streams"] = measure_curve(bench, "streams", crowds, in_curves)
            if "subscribers" in words.parts and "relay" in names:
                results["subscribers"] = measure_curve(bench, "subscribers", SUBSCRIBERS, ["relay"])
        finally:
            bench.close()
    words.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if "medians" in results:
        print(table(results["medians"]))
    for kind in ("streams", "subscribers"):
        if results.get(kind):
            print(f"\n{curve_rows(kind, results[kind])}")
    if words.plot:
        words.plot.parent.mkdir(parents=True, exist_ok=True)
        words.plot.write_text(plot(results), encoding="utf-8")


if __name__ == "__main__":
    main()
