"""What relays must not have printed by the end of the tests: keys, prompts, and query strings.

Every relay that the tests start is listened to, and every call that reaches a scripted upstream tells what is secret:
exactly the keys and the words that were in the relay's hands.
"""

import re
from typing import Any

import msgspec

SHORTEST = 8  # a shorter text ("hi") is found in any other
MOST = 5000  # secrets kept
_SECRET_SETTING = re.compile(r"KEY|SECRET|PASSWORD|TOKEN")
_QUERY = re.compile(r"[?&](prompt|query|last_event_id|after|api-version|key|user|inputs)=")
_PUBLIC = {"role", "model", "type", "response_mode", "user", "trace_id"}  # of an upstream's request

_WORD = re.compile("[a-z]*")  # one plain word, such as a logger's name, is in many a line by right

_secrets: set[str] = set()
_logs: list[list[str]] = []


def collected(settings: dict[str, str]) -> list[str]:
    """Return the list to put a new relay's lines in; its settings tell keys."""
    for name, value in settings.items():
        if _SECRET_SETTING.search(name) and "\n" not in value:
            _keep(value)
    _logs.append([])
    return _logs[-1]


def overhear(head: bytes, body: bytes) -> None:
    """Take note of the key and the texts of a call to an upstream."""
    for key in re.findall(r"(?:authorization|api-key): *(?:bearer )?([^\r\n]+)", head.decode("latin-1"), re.IGNORECASE):
        _keep(key)
    if len(_secrets) < MOST and len(body) < 100_000:
        try:
            _keep_texts(msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeError):  # an upload
            return


def _keep_texts(value: Any) -> None:
    if isinstance(value, str):
        _keep(value)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in _PUBLIC:
                _keep_texts(item)
    elif isinstance(value, list):
        for item in value:
            _keep_texts(item)


def _keep(text: str) -> None:
    if len(text) >= SHORTEST and not _WORD.fullmatch(text) and len(_secrets) < MOST:
        _secrets.add(text[:200])


def leaks() -> list[str]:
    """Return what was printed and must not have been, and the lines that hold it."""
    lines = [line for log in _logs for line in log]
    text = "".join(lines)
    found = {secret.partition("\n")[0] for secret in _secrets if secret in text}
    told = [f"{secret!r} in {line}" for line in lines for secret in found if secret in line]
    return told + [line for line in lines if _QUERY.search(line)]
