"""What `make bench` shows: figures as measured, and a picture that is one."""

from xml.etree import ElementTree as ET

from bench.plot import plot
from bench.report import curve_rows, medians, table


def a_round(token_us: float | None) -> dict[str, object]:
    loaded = {
        "total_us": 120.0,
        "token_us": token_us,
        "stream_ms": 3.5,
        "stream_kb": 50.0,
        "first_ms": {"p50": 6.0, "p99": 9.0},
        "delay_ms": {"p50": 0.5, "p99": 3.0},
    }
    return {"ready_seconds": 1.0, "answer": loaded, "long": loaded, "set_up": loaded}


ROUNDS = {
    "direct": [a_round(9.0)],
    "relay": [a_round(90.0), a_round(100.0), a_round(200.0)],
    "go": [a_round(40.0)],
    "nginx": [a_round(20.0)],
    "litellm": [a_round(1500.0)],
    "fastapi": [],  # no round of it counted
    "flask": [a_round(None)],  # the first stream had ended before the last one began
}
POINTS = {"relay": [{"count": count, "token_us": 60.0, "stream_kb": 40.0} for count in (10, 100)]}


def test_the_table_shows_medians_and_leaves_out_what_was_not_measured() -> None:
    found = medians(ROUNDS)
    assert found["relay"]["token_us"] == 100.0
    assert found["flask"]["token_us"] is None
    rows = table(found).splitlines()
    assert [row.split("|")[2].strip() for row in rows[2:]] == ["", "100", "40", "20", "1500", ""]
    assert len({row.count("|") for row in rows}) == 1
    assert curve_rows("streams", POINTS).splitlines()[0] == "| streams | 10 | 100 |"


def test_the_picture_is_svg_whatever_was_measured() -> None:
    everything = {"medians": medians(ROUNDS), "streams": POINTS, "subscribers": POINTS}
    for results in ({}, everything, {"medians": medians(ROUNDS)}, {"streams": POINTS}):
        picture = ET.fromstring(plot(results))
        bars = picture.findall(".//{*}rect")
        assert len(bars) == (4 if "medians" in results else 0)
        assert len(picture.findall(".//{*}polyline")) == len(results.keys() & {"streams", "subscribers"})
        assert all(0 < float(bar.attrib["width"]) <= 720 for bar in bars)
