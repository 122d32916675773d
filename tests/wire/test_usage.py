"""Token estimates, digests, and what counts as a known usage."""

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.dialects.openai import usage_of
from streaming.wire.usage import RunningDigest, estimate, estimate_tokens


@given(st.lists(st.tuples(st.booleans(), st.text()), max_size=8))
def test_the_running_digest_is_the_digest_of_the_whole_answer(pieces: list[tuple[bool, str]]) -> None:
    digest = RunningDigest()
    text = ""
    for replaces, piece in pieces:
        if replaces:
            digest.replace(piece)
            text = piece
        else:
            digest.add(piece)
            text += piece
    assert digest.value().bytes == len(text.encode())
    assert digest.value().crc32 == f"{zlib.crc32(text.encode()):08x}"


@pytest.mark.parametrize(
    ("text", "bytes_", "crc32"),
    [("", 0, "00000000"), ("123456789", 9, "cbf43926"), ("codeword 276", 12, "009e0827")],
)
def test_a_digest_is_eight_lower_case_hex_digits(text: str, bytes_: int, crc32: str) -> None:
    """The second is CRC-32's published check value; the third begins with zeros, which a client must find there."""
    digest = RunningDigest()
    digest.add(text)
    assert (digest.value().bytes, digest.value().crc32) == (bytes_, crc32)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        ("The quick brown fox jumps over the lazy dog. " * 10, 90, 130),
        ("今天北京晴，最高二十六度。" * 10, 65, 130),
        ("👨\u200d👩\u200d👧", 1, 12),
        ("\ud83d", 1, 1),
    ],
)
def test_an_estimate_is_of_the_right_order(text: str, least: int, most: int) -> None:
    assert least <= estimate_tokens(text) <= most


@given(st.text(), st.text())
def test_more_text_is_never_estimated_at_fewer_tokens(text: str, more: str) -> None:
    assert estimate_tokens(text + more) >= estimate_tokens(text)


def test_an_estimate_says_that_it_is_one_and_adds_up() -> None:
    usage = estimate("What is the weather?", "Sunny, 26 degrees, and no wind.")
    assert not usage.exact
    assert usage.details is None
    assert usage.prompt_tokens
    assert usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize(
    ("details", "counts"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, (9, 4, 13)),
        ({"prompt_tokens": 9, "completion_tokens": 4}, (9, 4, 13)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 20}, (9, 4, 20)),  # the upstream's word stands
        ({"total_tokens": 13}, (None, None, 13)),
        ({"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}, (9, 0, 9)),
        ({"prompt_tokens": 9, "completion_tokens": "4", "total_tokens": 13.0}, (9, None, None)),
        ({"prompt_tokens": True, "completion_tokens": -1, "total_tokens": 5}, (None, None, 5)),
    ],
)
def test_an_upstreams_usage_is_exact_and_its_details_stay_untouched(
    details: dict[str, Any], counts: tuple[int | None, int | None, int | None]
) -> None:
    usage = usage_of(details)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == counts
    assert usage.exact
    assert usage.details == details


@pytest.mark.parametrize(
    "details", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {"latency": 1.5}]
)
def test_a_usage_of_zeros_or_without_counts_is_unknown(details: dict[str, Any] | None) -> None:
    assert usage_of(details) is None
