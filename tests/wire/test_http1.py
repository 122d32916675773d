"""The heads of HTTP/1.1 messages: read like http.client, wherever they are cut; written so that nothing breaks out."""

import http.client
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.wire.http1 import HEAD_MAX_BYTES, BadHead, Head, request_head, split_head

OK = b"HTTP/1.1 200 OK\r\n"


def as_the_library_reads(data: bytes) -> Head:
    """What http.client makes of it."""

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(data)

    sock: Any = Socket()
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    names = {name.lower() for name in answer.headers}
    headers = {name: ", ".join(each.strip() for each in answer.headers.get_all(name, [])) for name in names}
    chunked = bool(answer.chunked) and answer.length != 0  # 0: a 204 or 304, whose body it would wait for
    return Head(answer.status, headers, chunked, answer.length, bool(answer.will_close))


def read(data: bytes) -> Head:
    split = split_head(data)
    assert split is not None
    return split[0]


FIELDS = st.sampled_from(
    [
        "Content-Type: text/event-stream; charset=utf-8",
        "content-type:application/json",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding: gzip",
        "Content-Length: 0",
        "Content-Length: 17 ",
        "Connection: close",
        "Connection: keep-alive",
        "connection: Keep-Alive",
        "Keep-Alive: timeout=5",
        "Set-Cookie: a=b; Path=/",
        "Set-Cookie: c=d",
        "X-Empty:",
        "X-Colons: a:b:c",
        "X-Latin: \xe9",
    ]
)


@given(
    st.sampled_from(["1.1", "1.0"]),
    st.sampled_from(["200 OK", "200", "404 Not  Found", "204 No Content", "304 ", "503 Unavailable"]),
    st.lists(FIELDS, max_size=6, unique_by=lambda field: field.partition(":")[0].lower() + field * ("Set-C" in field)),
    st.sampled_from(["\r\n", "\n"]),
    st.binary(max_size=20),
)
def test_it_reads_like_the_library(version: str, status: str, fields: list[str], end: str, rest: bytes) -> None:
    head = (end.join([f"HTTP/{version} {status}", *fields]) + end + end).encode("latin-1")
    assert split_head(head + rest) == (as_the_library_reads(head), rest)
    assert all(split_head(head[:cut]) is None for cut in range(len(head)))


def test_interim_answers_are_passed_over() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert split_head(early) is None
    assert split_head(early + OK + b"A: b\r\n\r\nrest") == (Head(200, {"a": "b"}, False, None, True), b"rest")


def test_interim_answers_without_end_are_refused() -> None:
    """Each piece that comes is looked through from the beginning: a megabyte of them took minutes."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with pytest.raises(BadHead):
        split_head(interim * (HEAD_MAX_BYTES // len(interim) + 1))
    assert split_head(interim * 100 + OK + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000) is not None


def test_a_coding_that_is_told_twice_is_meant_once() -> None:
    """A proxy that adds its own line; http.client takes the first."""
    twice = b"Transfer-Encoding: chunked\r\n" * 2
    assert as_the_library_reads(OK + twice + b"\r\n").chunked
    assert read(OK + twice + b"\r\n").chunked
    assert not read(OK + b"Transfer-Encoding: gzip,chunked\r\n\r\n").chunked


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_what_has_no_body_has_none_whatever_its_head_says(status: bytes) -> None:
    """RFC 9112 §6.3. Waiting for its first chunk would last until the upstream counts as silent."""
    head = read(b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (head.chunked, head.length, head.closes) == (False, 0, False)


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        (b"A: b\r\n c\r\n\td\r\n", {"a": "b c d"}),
        (b"A : b\r\n", {"a": "b"}),
        (b"no field\r\nA: b\r\n", {"a": "b"}),
        (b" first\r\nA: b\r\n", {"a": "b"}),
        (b"A: 1\r\na: 2\r\n", {"a": "1, 2"}),
    ],
)
def test_odd_fields_are_taken_as_they_are_meant(fields: bytes, headers: dict[str, str]) -> None:
    assert read(OK + fields + b"\r\n").headers == headers


def test_a_length_that_is_told_twice_is_one_if_both_agree() -> None:
    assert read(OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n").length == 5
    assert read(OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").length is None


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 1_0\r\n\r\n",
        OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",  # more digits than Python reads
        OK + "Content-Length: ²\r\n\r\n".encode("latin-1"),
        OK + b"A: " + b"x" * HEAD_MAX_BYTES,
        OK + b"A: " + b"x" * HEAD_MAX_BYTES + b"\r\n\r\n",
        b"x" * (HEAD_MAX_BYTES + 1),
    ],
)
def test_what_is_no_head_is_refused(data: bytes) -> None:
    with pytest.raises(BadHead):
        split_head(data)


def test_a_request_is_written() -> None:
    assert request_head("POST", "/v1?a=b", {"Host": "x", "K": "\xe9"}) == (
        b"POST /v1?a=b HTTP/1.1\r\nHost: x\r\nK: \xe9\r\n\r\n"
    )


@pytest.mark.parametrize("evil", ["a\r\nX: y", "a\nX: y", "a\rb", "a\0", "€"])
def test_no_field_breaks_out_of_its_line(evil: str) -> None:
    for target, headers in (("/", {"A": evil}), ("/", {evil: "a"}), (f"/{evil}", {"A": "b"})):
        with pytest.raises(BadHead):
            request_head("POST", target, headers)
