"""Rounds -> the medians, as Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.targets import NAMES

FIGURES = {
    "token_us": "µs a further token",
    "answer_us": "µs a token of 200",
    "set_up_ms": "ms to set a stream up",
    "stream_kb": "KB an open stream",
    "first_p50_ms": "first token p50 ms",
    "first_p99_ms": "p99",
    "delay_p50_ms": "delay of a token p50 ms",
    "delay_p99_ms": "p99",
}


def _figures(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Return one round's figures: delays of a token from the long streams, of the first one from those of 200."""
    return {
        "ready_s": found["ready_seconds"],
        "token_us": found["long"]["token_us"],
        "answer_us": found["answer"]["total_us"],
        "set_up_ms": found["set_up"]["stream_ms"],
        "stream_kb": found["answer"]["stream_kb"],
        "first_p50_ms": found["answer"]["first_ms"]["p50"],
        "first_p99_ms": found["answer"]["first_ms"]["p99"],
        "delay_p50_ms": found["long"]["delay_ms"]["p50"],
        "delay_p99_ms": found["long"]["delay_ms"]["p99"],
    }


def medians(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float | None]]:
    """Return each target's median of each figure; None where no round has it."""
    found: dict[str, dict[str, float | None]] = {}
    for name, all_rounds in rounds.items():
        if all_rounds:
            figures = [_figures(each) for each in all_rounds]
            found[name] = {key: _median(each[key] for each in figures) for key in figures[0]}
    return found


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: float | None, key: str) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if key.endswith("_ms") else f"{value:.0f}"


def table(found: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return the targets as rows; "nothing between" has no processor time of its own, only delays."""
    lines = [_row(["", *FIGURES.values()]), _row(["---", *["---:"] * len(FIGURES)])]
    for name, figures in found.items():
        shown = [
            "" if name == "direct" and not key.startswith(("first", "delay")) else _cell(figures[key], key)
            for key in FIGURES
        ]
        lines.append(_row([NAMES[name], *shown]))
    return "\n".join(lines)


def curve_rows(kind: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a curve's points as rows: µs a token, and what a reader costs in memory."""
    counts = sorted({point["count"] for points in curves.values() for point in points})
    lines = [_row([kind, *map(str, counts)]), _row(["---", *["---:"] * len(counts)])]
    for what, key in (("µs a token", "token_us"), ("KB each", "stream_kb")):
        for name, points in curves.items():
            by_count = {point["count"]: point for point in points}
            cells = [_cell(by_count[count][key], key) if count in by_count else "" for count in counts]
            lines.append(_row([f"{NAMES[name]}, {what}", *cells]))
    return "\n".join(lines)
