"""Lumps are told from a busy network, and a late clock from a late frame."""

import pytest

from tests.doctor.streams import STEADY, answer, stream

ALL_AT_ONCE = [2.0] * 20


@pytest.mark.parametrize(
    ("came", "held_back", "lumps"),
    [
        pytest.param(STEADY, False, 20, id="as they were sent"),
        pytest.param([at + 900 for at in STEADY], False, 20, id="a long way, or another clock"),
        pytest.param([at + (0.05 if n % 2 else 0) for n, at in enumerate(STEADY)], False, 20, id="jitter"),
        pytest.param([max(at, 0.9) if at < 0.9 and at > 0.5 else at for at in STEADY], False, 16, id="one stall"),
        pytest.param(ALL_AT_ONCE, True, 1, id="held to the end"),
        pytest.param([(n // 5 * 5 + 4) * 0.1 for n in range(20)], True, 4, id="five at a time"),
        pytest.param([0.0] + [2.0] * 19, True, 2, id="all but the first"),
        pytest.param([0.0], False, 1, id="one frame tells nothing"),
        pytest.param([], False, 0, id="none"),
    ],
)
def test_what_is_held_back(came: list[float], held_back: bool, lumps: int) -> None:
    measured = stream(came)
    assert (measured.held_back, measured.lumps) == (held_back, lumps)


def test_lateness_is_counted_from_the_frame_that_was_fastest() -> None:
    assert stream([7.0, 7.1, 7.5, 7.3]).lateness == pytest.approx([0.0, 0.0, 0.3, 0.0])


def test_a_stream_without_its_end_was_cut_and_a_refusal_was_not() -> None:
    assert [stream(ended=ended).cut for ended in (True, False)] == [False, True]
    assert not stream(answer=answer(502), ended=False).cut
