"""Results -> an SVG with three charts. It is drawn by hand: a plotting library would be larger than what it draws.

Colours come from style rules, so that the picture is readable on a light and on a dark page.
"""

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.targets import NAMES

WIDTH, CHART_HEIGHT, TOP, LEFT, RIGHT = 720, 190, 44, 150, 90
OFF_THE_SCALE = 4  # times the median: a bar that long would make the others invisible
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 14px }
.faint { fill: #59636e }
.grid { stroke: #d1d9e0 }
.relay { --c: #0969da } .nginx { --c: #57606a } .go { --c: #1a7f37 } .flask { --c: #bc4c00 } .fastapi { --c: #8250df }
.litellm { --c: #cf222e }
rect.bar, circle, text.name { fill: var(--c) }
polyline { stroke: var(--c); fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
  .relay { --c: #4493f8 } .nginx { --c: #9198a1 } .go { --c: #3fb950 } .flask { --c: #f0883e } .fastapi { --c: #ab7df8 }
  .litellm { --c: #f85149 }
}
"""


def plot(results: Mapping[str, Any]) -> str:
    """Return the picture of what was measured; parts that were not are left out."""
    charts: list[str] = []
    height = 0
    for draw in (_bars, _streams, _subscribers):
        chart, chart_height = draw(results, height)
        charts.append(chart)
        height += chart_height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
    return (
        f'{head}aria-label="Processor time for each relayed token, the relay beside its peers">\n'
        f"<style>{STYLE}</style>\n{''.join(charts)}</svg>\n"
    )


def _text(x: float, y: float, text: str, classes: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{classes}" text-anchor="{anchor}">{html.escape(text)}</text>\n'


def _name(name: str) -> str:
    return NAMES[name].replace("*", "").replace("`", "")


def _bars(results: Mapping[str, Any], top: int) -> tuple[str, int]:
    """Draw the processor time of each target, the cheapest first."""
    found = {
        name: figures["token_us"]
        for name, figures in results.get("medians", {}).items()
        if name != "direct" and figures["token_us"]
    }
    if not found:
        return "", 0
    longest = max(value for value in found.values() if value <= OFF_THE_SCALE * statistics.median(found.values()))
    drawn = _text(8, top + 24, "Processor time for one more token of a stream, µs", "title")
    for row, (name, value) in enumerate(sorted(found.items(), key=lambda item: item[1])):
        y = top + TOP + row * 26
        width = (WIDTH - LEFT - RIGHT) * min(1.0, value / longest)
        drawn += _text(LEFT - 8, y + 13, _name(name), anchor="end")
        drawn += f'<rect class="bar {name}" x="{LEFT}" y="{y}" width="{width:.1f}" height="17" rx="2"/>\n'
        drawn += _text(LEFT + width + 6, y + 13, f"{value:.0f}" if value <= longest else f"{value:,.0f} (cut)")
    return drawn, TOP + len(found) * 26 + 16


def _streams(results: Mapping[str, Any], top: int) -> tuple[str, int]:
    return _curves(results.get("streams"), top, "… against the number of open streams")


def _subscribers(results: Mapping[str, Any], top: int) -> tuple[str, int]:
    return _curves(results.get("subscribers"), top, "… for each subscriber of one run, against their number")


def _curves(curves: Mapping[str, Sequence[Mapping[str, Any]]] | None, top: int, title: str) -> tuple[str, int]:
    """Draw lines over a logarithmic number of readers."""
    points = [point for each in (curves or {}).values() for point in each]
    if not curves or not points:
        return "", 0
    counts = sorted({point["count"] for point in points})
    most = math.ceil(max(point["token_us"] for point in points) / 20) * 20  # four steps of round numbers
    span = math.log(counts[-1] / counts[0]) or 1.0
    bottom = top + TOP + CHART_HEIGHT - 24

    def place(point: Mapping[str, Any]) -> tuple[float, float]:
        across = math.log(point["count"] / counts[0]) / span
        return 48 + (WIDTH - 48 - 150) * across, bottom - (CHART_HEIGHT - 24) * point["token_us"] / most

    drawn = _text(8, top + 24, title, "title")
    for step in range(5):
        value = most * step / 4
        y = bottom - (CHART_HEIGHT - 24) * step / 4
        drawn += f'<line class="grid" x1="48" x2="{WIDTH - 150}" y1="{y:.1f}" y2="{y:.1f}"/>\n'
        drawn += _text(42, y + 4, f"{value:.0f}", "faint", "end")
    for count in counts:
        x, _ = place({"count": count, "token_us": 0})
        drawn += _text(x, bottom + 18, f"{count:,}", "faint", "middle")
    labels: list[float] = []
    for name, line in sorted(curves.items(), key=lambda item: -item[1][-1]["token_us"]):
        places = [place(point) for point in line]
        drawn += f'<g class="{name}"><polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>\n'
        drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
        y = max([places[-1][1], *(other + 14 for other in labels[-1:])])  # names do not lie on each other
        labels.append(y)
        drawn += _text(places[-1][0] + 8, y + 4, _name(name), "name") + "</g>\n"
    return drawn, TOP + CHART_HEIGHT + 24
