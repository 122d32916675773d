"""How a page looks: its language, theme, colour and words, all told by the query string, as a frame can.

What a look cannot be is passed over: a page with its usual look serves its reader better than an error.
"""

import re
from typing import Any
from urllib.parse import urlencode

import msgspec
from flask import Request

from streaming.web.asking import query
from streaming.web.texts import TEXTS

TITLE_CHARACTERS = 80  # these are shown as given: a link could fill the page with words that are not ours
GREETING_CHARACTERS = 500
THEMES = ("light", "dark")  # else the system's
_COLOUR = re.compile(r"#?([0-9a-fA-F]{6}|[0-9a-fA-F]{3})\Z")


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """`language` is a key of TEXTS, `theme` "" = the system's, `accent` six hex digits or "" = ours."""

    language: str
    theme: str = ""
    accent: str = ""
    title: str = ""
    greeting: str = ""
    embedded: bool = False
    asked: str = ""  # the part of the query string that asked for it, from the "?" on, for the links of the page

    @property
    def html_lang(self) -> str:
        """Return the language tag."""
        return "zh-CN" if self.language == "zh" else self.language

    @property
    def texts(self) -> dict[str, Any]:
        """Return the words of this language."""
        return TEXTS[self.language]

    def failure(self, code: str, message: str) -> str:
        """Return what to say of an error, `message` where this language has nothing of its own."""
        failures: dict[str, str] = self.texts["failures"]
        return failures.get(code, message)


def look_of(request: Request) -> Look:
    """Return the look that the query string asks for; the language else by the browser's own."""
    given = query(request)
    asked = {
        name: given[name] for name in ("lang", "theme", "accent", "title", "greeting", "embedded") if given.get(name)
    }
    language = asked.get("lang", "").lower().partition("-")[0]
    if language not in TEXTS:
        language = request.accept_languages.best_match(list(TEXTS)) or "en"
    accent = _COLOUR.match(asked.get("accent", ""))
    return Look(
        language=language,
        theme=asked["theme"] if asked.get("theme") in THEMES else "",
        accent=_six_digits(accent[1]) if accent else "",
        title=asked.get("title", "")[:TITLE_CHARACTERS],
        greeting=asked.get("greeting", "")[:GREETING_CHARACTERS],
        embedded=asked.get("embedded") == "1",
        asked=f"?{urlencode(asked)}" if asked else "",
    )


def _six_digits(digits: str) -> str:
    return digits.lower() if len(digits) == 6 else "".join(digit * 2 for digit in digits.lower())
