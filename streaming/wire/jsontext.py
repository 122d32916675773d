"""JSON at the edges: what a fast decoder refuses, and characters cut over two events.

Some servers cut an emoji into a lone `\\ud83d` in one event and `\\udca7` in the next. msgspec refuses lone surrogates,
in decoding and in encoding; the standard library's decoder lets them through.
"""

import json
import re
from typing import Any

import msgspec

MAX_DEPTH = 200
"""Of JSON that strangers wrote and every subscriber gets: a decoder's own limit depends on how high its stack is, so
the same text would be JSON for one and none for another."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGH_SURROGATES = range(0xD800, 0xDC00)


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # behind an even number of backslashes


class NotJSON(ValueError):
    """The text is not JSON to any decoder, or not the kind that is taken from strangers."""


def loads(text: str) -> Any:
    """Decode JSON, lone surrogates included. Raises NotJSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from None


def strict(data: bytes) -> Any:
    """Decode what a client sends. Raises NotJSON, whose message goes on after a subject: "is not UTF-8 (byte 3)".

    What is nested more deeply than MAX_DEPTH might not be encoded again where the stack is higher; and NUL is what
    databases behind an upstream fail on.
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise NotJSON(f"is not UTF-8 (byte {error.start})") from None
    if too_deep(data):
        raise NotJSON(f"is JSON nested more deeply than {MAX_DEPTH} levels")
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NotJSON(f"is not valid JSON: {error}") from None
    if b"\\u0000" in data and _NUL.search(data):
        raise NotJSON("holds a NUL character (\\u0000)")
    return value


def dumps(value: Any) -> bytes:
    """Encode to compact UTF-8 JSON; a lone surrogate anywhere becomes U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_scrub(msgspec.to_builtins(value)))


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_scrub(key): _scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrub(item) for item in value]
    return value


def too_deep(data: bytes) -> bool:
    """Return whether a JSON text is nested deeper than MAX_DEPTH."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", _STRING.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


class SurrogateJoiner:
    """Joins the halves of characters that were cut over two events, for each channel (answer, reasoning…) apart.

    `held` are the high surrogates that wait for their low half, by channel.
    """

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def push(self, channel: str, text: str) -> str:
        """Return what may be shown now: whole characters only; an orphaned half becomes U+FFFD."""
        if self.held:
            text = self.held.pop(channel, "") + text
        if text and ord(text[-1]) in _HIGH_SURROGATES:
            self.held[channel] = text[-1]
            text = text[:-1]
        if not _LONE_SURROGATE.search(text):
            return text
        # utf-16 pairs up neighbouring halves; what stays alone is replaced.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def flush(self, channel: str) -> str:
        """Return U+FFFD if the channel ended inside a character, else the empty string."""
        return "\ufffd" if self.held.pop(channel, "") else ""
