"""What an address can ask of the page's look, and the words it is shown in."""

import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from streaming.web.look import Look, look_of
from streaming.web.texts import TEXTS
from streaming.wire.errors import FAILURES, REFUSALS


def look(query: str = "", accept_language: str = "") -> Look:
    return look_of(
        Request(EnvironBuilder(query_string=query, headers={"Accept-Language": accept_language}).get_environ())
    )


@pytest.mark.parametrize(
    ("query", "accept_language", "language"),
    [
        ("", "", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "zh-TW", "zh"),
        ("", "de, zh;q=0.5", "zh"),
        ("", "fr", "en"),
        ("lang=en", "zh-CN", "en"),
        ("lang=ZH-hans", "en", "zh"),
        ("lang=", "zh", "zh"),
        ("lang=tlh", "zh", "zh"),
    ],
)
def test_the_language_is_asked_for_or_the_browsers(query: str, accept_language: str, language: str) -> None:
    assert look(query, accept_language).language == language


@pytest.mark.parametrize(
    ("query", "accent"),
    [
        ("accent=%230b63bd", "0b63bd"),
        ("accent=0B63BD", "0b63bd"),
        ("accent=fA0", "ffaa00"),
        ("accent=red", ""),
        ("accent=12345g", ""),
        ("accent=%230b63bd%0A", ""),
        ("accent=0b63bd;}", ""),
    ],
)
def test_an_accent_is_a_hex_colour(query: str, accent: str) -> None:
    assert look(query).accent == accent


def test_links_of_the_page_ask_for_the_same_look_and_for_nothing_else() -> None:
    asked = look("theme=dark&prompt=secret&lang=zh&title=a%26b&embedded=1").asked
    assert asked == "?lang=zh&theme=dark&title=a%26b&embedded=1"
    assert look(asked[1:]) == look("lang=zh&theme=dark&title=a%26b&embedded=1")
    assert look("prompt=x").asked == ""


def test_both_languages_have_the_same_words() -> None:
    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert english.keys() == chinese.keys()
    assert english["failures"].keys() <= chinese["failures"].keys()


def test_chinese_has_words_for_whatever_goes_wrong_on_the_page() -> None:
    of_asking = {"bad_request", "body_too_large", "conversation_busy", "draining", "run_expired", "too_many_runs"}
    assert FAILURES.keys() | (of_asking & REFUSALS.keys()) <= TEXTS["zh"]["failures"].keys()
    assert look("lang=zh").failure("upstream_busy", "The upstream is busy.") == "模型服务正忙，请稍后再试。"
    assert look("lang=en").failure("upstream_busy", "The upstream is busy.") == "The upstream is busy."
