"""Settings' values: text in, typed values out, with sentences that say what is allowed."""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

_SIZE = re.compile(r"([0-9]{1,15})\s*(|KiB|MiB|GiB)", re.IGNORECASE)
_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SHOWN_CHARACTERS = 64
_SECRET = {"api_key", "api_keys", "jwt_secret", "jwt_public_key", "secret_key"}


def read(
    table: Mapping[str, Any], hints: Mapping[str, Any], names: Mapping[str, str], problems: list[str], *, strict: bool
) -> dict[str, Any]:
    """Return the table's values in the types of `hints`. What is wrong is appended to `problems` and left out.

    `names` tells how messages call a field. Strict: nothing is made of text, a number has to be one already.
    """
    values = {}
    for name, value in table.items():
        try:
            values[name] = msgspec.convert(_parts(name, value, hints[name]), hints[name], strict=strict)
            if name == "url":
                _check_url(values[name])
        except ValueError:  # msgspec.ValidationError is one
            values.pop(name, None)
            problems.append(f"{names[name]} {_shown(name, value)}: allowed is {allowed(name, hints[name])}")
    return values


def allowed(name: str, hint: Any) -> str:
    """Return what a field takes, in words."""
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            return "one of " + ", ".join(get_args(part))
        for meta in getattr(part, "__metadata__", ()):
            return meta.description or _range(name, get_args(part)[0], meta)
    return "true or false" if hint is bool else "text"


def _range(name: str, kind: type, meta: msgspec.Meta) -> str:
    what = "a whole number" if kind is int else "a number"
    if name.endswith("_bytes"):
        what = "a size such as 65536, 64KiB, 4MiB or 1GiB,"
    bounds = {"above": meta.gt, "at least": meta.ge, "at most": meta.le}
    return f"{what} " + " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


def _parts(name: str, value: Any, hint: Any) -> Any:
    """Return what is written in the value: a number of bytes, the items of a list, or the value itself."""
    if name.endswith("_bytes"):
        return _size(value)
    if get_origin(hint) is tuple and isinstance(value, str):
        return value.replace(",", " ").split()
    return value


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a size")
    return int(match[1]) * _UNITS[match[2].lower()]


def _check_url(text: str) -> None:
    parts = urlsplit(text)  # it and .port raise ValueError too
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("not an HTTP URL")
    if "@" in parts.netloc or "#" in text or any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError("a part that is not allowed")


def _shown(name: str, value: Any) -> str:
    """Quote a value, but none that is secret or may hold a secret: a URL's user part, query or fragment."""
    text = str(value)
    if name in _SECRET or (name.endswith("url") and any(mark in text for mark in "@?#")):
        return "(not shown)"
    return f"is {value if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '…'!r}"
