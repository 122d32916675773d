"""See streaming/web/accepting.py."""

import pytest

from streaming.web.accepting import preferred
from streaming.web.streams import MEDIA_TYPES


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        ("", None),
        ("*/*", "text/event-stream"),
        ("text/*", "text/event-stream"),
        ("text/event-stream", "text/event-stream"),
        ("application/json;q=0.5, text/plain", "text/plain"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/x-ndjson;q=0, */*;q=0.1", "text/event-stream"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/json;charset=UTF-8;q=0.1, text/plain ; q=0.2", "text/plain"),
        ("image/png", None),
        (";;;=,q=x", None),
    ],
)
def test_the_best_of_what_is_offered(accept: str, found: str | None) -> None:
    assert preferred(accept, tuple(MEDIA_TYPES)) == found
