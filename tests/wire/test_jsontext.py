"""JSON at the edges: lone surrogates in and out, and characters cut over two events."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.events import Token
from streaming.wire.jsontext import MAX_DEPTH, NotJSON, SurrogateJoiner, dumps, loads, too_deep

HIGH, LOW = "\ud83d", "\udca7"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"\\ud83d"', HIGH),
        ('{"\\udca7":["\\ud83d\\udca7"]}', {LOW: ["💧"]}),
        (" \n\t1e3 ", 1000.0),
        ('"\u2028"', "\u2028"),
        ("123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_json_that_fast_decoders_refuse_is_read(text: str, value: Any) -> None:
    assert loads(text) == value


@pytest.mark.parametrize(
    "text", ["", "{", "{'a':1}", "[1,]", "nul", "\ufeff{}", "1" * 10_000, "[" * 100_000, '{"a":' * 100_000]
)
def test_what_is_no_json_is_told_so_and_breaks_nothing(text: str) -> None:
    with pytest.raises(NotJSON):
        loads(text)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"a": "b"}, b'{"a":"b"}'),
        ({"a": "é\u2028😀"}, '{"a":"é\u2028😀"}'.encode()),
        (HIGH, '"\ufffd"'.encode()),
        ({LOW: [HIGH, ("x" + HIGH,), None, 1.5]}, '{"\ufffd":["\ufffd",["x\ufffd"],null,1.5]}'.encode()),
        (Token(text="a" + HIGH), '{"text":"a\ufffd"}'.encode()),
        ([Token(text=LOW), {"k": Token(text="b")}], '[{"text":"\ufffd"},{"k":{"text":"b"}}]'.encode()),
        ({"n": 10**30}, b'{"n":1000000000000000000000000000000}'),
        ({"n": float("nan")}, b'{"n":null}'),
        ({"t": "a\r\nb\0"}, b'{"t":"a\\r\\nb\\u0000"}'),
    ],
)
def test_json_is_compact_utf8_without_lone_surrogates(value: Any, encoded: bytes) -> None:
    assert dumps(value) == encoded


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_whatever_upstream_json_holds_can_be_written_again_on_one_line(value: Any) -> None:
    """The log's entries must hold no raw CR or LF: the formats splice them in as they are."""
    encoded = dumps(loads(json.dumps(value)))
    assert b"\n" not in encoded
    assert b"\r" not in encoded
    assert json.loads(encoded) == json.loads(json.dumps(value))


def utf16_halves(text: str) -> list[str]:
    """Split into UTF-16 code units, as a server that cuts by them does."""
    data = text.encode("utf-16-le", "surrogatepass")
    return [chr(int.from_bytes(data[at : at + 2], "little")) for at in range(0, len(data), 2)]


def cut(units: list[str], borders: list[int]) -> list[str]:
    borders = sorted({border % (len(units) + 1) for border in borders} | {0, len(units)})
    return ["".join(units[start:end]) for start, end in itertools.pairwise(borders)]


@given(st.text(st.sampled_from("a😀👨\u200d€") | st.characters(codec="utf-8")), st.lists(st.integers(0, 500)))
def test_any_text_cut_between_its_utf16_halves_is_joined_exactly(text: str, borders: list[int]) -> None:
    joiner = SurrogateJoiner()
    shown = [joiner.push("answer", piece) for piece in cut(utf16_halves(text), borders)]
    assert "".join(shown) == text
    assert joiner.flush("answer") == ""


@given(st.text(st.sampled_from([HIGH, LOW, "a", "\ude00", "\ud83e"])), st.lists(st.integers(0, 500)))
def test_orphaned_halves_become_replacement_characters_wherever_the_cuts_are(text: str, borders: list[int]) -> None:
    """The same as if the text had come in one piece, and always fit for UTF-8."""
    joiner = SurrogateJoiner()
    shown = [joiner.push("answer", piece) for piece in cut(list(text), borders)] + [joiner.flush("answer")]
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert "".join(shown) == whole
    for piece in shown:
        piece.encode()


def test_text_is_held_back_only_while_a_half_waits() -> None:
    joiner = SurrogateJoiner()
    assert joiner.push("answer", "drink " + HIGH) == "drink "
    assert joiner.push("answer", "") == ""
    assert joiner.push("answer", LOW) == "💧"
    assert joiner.push("answer", "now") == "now"


def test_channels_wait_apart() -> None:
    joiner = SurrogateJoiner()
    joiner.push("answer", HIGH)
    assert joiner.push("reasoning", LOW) == "\ufffd"
    assert joiner.flush("reasoning") == ""
    assert joiner.flush("answer") == "\ufffd"
    assert joiner.flush("answer") == ""


def test_our_events_are_refused_by_the_plain_encoder_where_dumps_is_needed() -> None:
    """Should msgspec learn to write lone surrogates, the log would no longer be UTF-8: this test says so."""
    with pytest.raises(UnicodeEncodeError):
        msgspec.json.encode(Token(text=HIGH))


@pytest.mark.parametrize("wrap", [lambda text: f"[{text}]", lambda text: f'{{"a":{text}}}'])
def test_depth_is_counted_exactly(wrap: Callable[[str], str]) -> None:
    text = "1"
    for depth in range(1, MAX_DEPTH + 2):
        text = wrap(text)
        assert too_deep(text.encode()) == (depth > MAX_DEPTH)


def test_brackets_in_texts_and_side_by_side_are_no_depth() -> None:
    text = json.dumps({'"[\\': "[" * 1000, "\\": ["{[\\" * 1000], "b": [[]] * 1000, "c": '\\"[' * 1000})
    assert not too_deep(text.encode())
    assert too_deep(("[" * 1000).encode())  # broken off
