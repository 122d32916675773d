"""Whatever colour an owner likes, its words can be read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.web.accent import CONTRAST, contrast, stylesheet
from tests.live import ROOT

VARIABLES = re.compile(r"--accent:#(\w{6});--on-accent:#(\w{6});--link:#(\w{6})")


def colour(digits: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def grounds() -> list[list[str]]:
    """Return --back and --soft of page.css, of the light theme and of the dark one."""
    css = (ROOT / "static" / "page.css").read_text(encoding="utf-8")
    themes = re.findall(r"--back: #(\w+);\s+--soft: #(\w+);", css)
    return [[digits * 2 if len(digits) == 3 else digits for digits in theme] for theme in themes[:2]]


@given(st.binary(min_size=3, max_size=3))
def test_every_colour_can_be_read(accent: bytes) -> None:
    light, dark, dark_again = VARIABLES.findall(stylesheet(accent.hex()))
    assert dark == dark_again
    for (fill, on_fill, link), theme in zip((light, dark), grounds(), strict=True):
        assert fill == accent.hex()
        assert contrast(colour(fill), colour(on_fill)) >= CONTRAST
        for ground in theme:
            assert contrast(colour(link), colour(ground)) >= CONTRAST


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [("000000", "ffffff", 21), ("ffffff", "ffffff", 1), ("777777", "ffffff", 4.48), ("0000ff", "ffffff", 8.59)],
)
def test_contrast_is_as_wcag_counts_it(one: str, other: str, ratio: float) -> None:
    assert contrast(colour(one), colour(other)) == pytest.approx(ratio, abs=0.005)
    assert contrast(colour(other), colour(one)) == contrast(colour(one), colour(other))


def test_a_colour_that_can_be_read_stays_as_it_is() -> None:
    (_, _, on_light), *_ = VARIABLES.findall(stylesheet("1d55d6"))
    assert on_light == "1d55d6"
