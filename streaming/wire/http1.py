"""The heads of HTTP/1.1 messages (RFC 9112): a request's to be written, an upstream's answer's to be read.

http.client and urllib3 read one into an email message: see relay/connections.py for what that costs. The rules are
http.client's; tests hold the two together.
"""

import re
from collections.abc import Mapping

import msgspec

HEAD_MAX_BYTES = 64 * 1024  # of an answer, with the interim ones before it: against a head that never ends

_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.(\d) +(\d{3})(?: .*)?")
_INTERIM = re.compile(rb"HTTP/1\.\d +1(?!01)\d\d(?!\d)")
_LONGEST_LENGTH = 18  # digits: more are no length, and int() takes no more than 4300
_BREAKS_OUT = re.compile(r"[\r\n\0]")  # of its line: the rest would be a header of its own, or a second request
_NO_BODY = {204, 304}


class BadHead(ValueError):
    """The bytes are no head of an HTTP/1 answer, or a field cannot be written."""


class Head(msgspec.Struct, frozen=True):
    """An answer's head. Names of `headers` are in lower case; what came twice is joined with commas.

    `length` is the body's, in bytes; None = it is chunked, or goes on until the connection ends. `closes`: the
    connection cannot be used again.
    """

    status: int
    headers: dict[str, str]
    chunked: bool
    length: int | None
    closes: bool


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Return a request's head. Raises BadHead where a field would break out of its line, or is not Latin-1."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any(map(_BREAKS_OUT.search, lines)):
        raise BadHead("a line break in a field")
    try:
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    except UnicodeEncodeError:
        raise BadHead("a field is not Latin-1") from None


def split_head(data: bytes) -> tuple[Head, bytes] | None:
    """Return an answer's head and what has come behind it, None where more of it is to come. Raises BadHead.

    Interim answers (100 Continue, 103 Early Hints) before it are dropped.
    """
    start = 0
    while (end := _END.search(data, start)) is not None and end.end() <= HEAD_MAX_BYTES:
        if _INTERIM.match(data, start) is None:
            return _read(data[start : end.start()].decode("latin-1")), data[end.end() :]
        start = end.end()
    if len(data) > HEAD_MAX_BYTES:
        raise BadHead("the head is too long")
    return None


def _read(text: str) -> Head:
    first, *lines = text.split("\n")
    status_line = _STATUS_LINE.fullmatch(first.rstrip())
    if status_line is None:
        raise BadHead("no status line")
    status, headers = int(status_line[2]), _fields(lines)
    codings = headers.get("transfer-encoding", "").lower().split(",")
    # Told twice it is meant once. What has no body has none, whatever its head says: RFC 9112 §6.3.
    chunked = status not in _NO_BODY and all(coding.strip() == "chunked" for coding in codings)
    length = 0 if status in _NO_BODY else None if chunked else _length(headers.get("content-length"))
    options = headers.get("connection", "").lower()
    kept = "close" not in options if status_line[1] != "0" else "keep-alive" in options or "keep-alive" in headers
    return Head(status, headers, chunked, length, closes=not kept or (length is None and not chunked))


def _fields(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in {" ", "\t"} and name:  # a value that goes on
            headers[name] = f"{headers[name]} {line.strip()}"
            continue
        key, colon, value = line.partition(":")
        if colon:  # what is no field is passed over
            name, value = key.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _length(text: str | None) -> int | None:
    """Return the body's length, None where none is told. Several are one if they agree."""
    if text is None:
        return None
    told = {each.strip() for each in text.split(",")}
    digits = told.pop()
    if told or not digits.isascii() or not digits.isdigit() or len(digits) > _LONGEST_LENGTH:
        raise BadHead("the length cannot be told")
    return int(digits)
