"""Requests whose length two servers could read differently: no second one comes out of them, with nginx or without."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests

from tests.faults.nginx import nginx, proxied
from tests.live import WAIT_SECONDS, Relay, ScriptedUpstream, relay, scripted
from tests.web.conftest import quick

BODY = b'{"prompt": "smuggled"}'
INNER = b"POST /runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)
CL, TE = b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n"


def post(headers: bytes, body: bytes, *, path: bytes = b"/chat", version: bytes = b"1.1") -> bytes:
    """Return a request with these headers, as they are."""
    return b"POST " + path + b" HTTP/" + version + b"\r\nHost: x\r\n" + headers + b"\r\n" + body


PAIRS = {
    "CL.TE": post(CL % len(b"0\r\n\r\n" + INNER) + TE, b"0\r\n\r\n" + INNER),
    "TE.CL": post(CL % 4 + TE, CHUNK),
    "TE.CL, TE first": post(TE + CL % 4, CHUNK),
    "CL 0 and TE": post(CL % 0 + TE, CHUNK),
    "two CL": post(CL % 0 + CL % len(INNER), INNER),
    "two CL, the other way": post(CL % len(INNER) + CL % 0, INNER),
    "a list of CL": post(b"Content-Length: 0, %d\r\n" % len(INNER), INNER),
    "CL with a sign": post(b"Content-Length: +0\r\n", INNER),
    "CL with an underscore": post(b"Content-Length: 0_0\r\n", INNER),
    "CL in hex": post(b"Content-Length: 0x0\r\n", INNER),
    "negative CL": post(b"Content-Length: -1\r\n", INNER),
    "a CL of another name": post(b"Content_Length: %d\r\n" % len(INNER), INNER),
    "CL, a space before the colon": post(b"Content-Length : 0\r\n", INNER),
    "folded CL": post(b"X: y\r\n Content-Length: 0\r\n", INNER),
    "CL on a folded line": post(b"Content-Length:\r\n 0\r\n", INNER),
    "TE, a space before the colon": post(CL % 0 + b"Transfer-Encoding : chunked\r\n", CHUNK),
    "TE, folded": post(CL % 0 + b"Transfer-Encoding:\r\n chunked\r\n", CHUNK),
    "TE, a tab": post(CL % 0 + b"Transfer-Encoding:\tchunked\r\n", CHUNK),
    "TE, a vertical tab": post(CL % 0 + b"Transfer-Encoding: \x0bchunked\r\n", CHUNK),
    "TE, a NUL": post(CL % 0 + b"Transfer-Encoding: chunked\0\r\n", CHUNK),
    "TE, a bare CR": post(CL % 0 + b"X: y\rTransfer-Encoding: chunked\r\n", CHUNK),
    "TE, a bare LF": post(CL % 0 + b"X: y\nTransfer-Encoding: chunked\r\n", CHUNK),
    "TE of another name": post(CL % 0 + b"Transfer_Encoding: chunked\r\n", CHUNK),
    "TE.TE, unknown last": post(TE + b"Transfer-Encoding: x\r\n", CHUNK),
    "TE.TE, unknown first": post(b"Transfer-Encoding: x\r\n" + TE, CHUNK),
    "TE.TE, identity": post(TE + b"Transfer-Encoding: identity\r\n" + CL % 4, CHUNK),
    "TE twice": post(b"Transfer-Encoding: chunked, chunked\r\n", CHUNK),
    "TE, almost": post(CL % 4 + b"Transfer-Encoding: xchunked\r\n", CHUNK),
    "TE quoted": post(CL % 4 + b'Transfer-Encoding: "chunked"\r\n', CHUNK),
    "TE in HTTP/1.0": post(TE, CHUNK, version=b"1.0"),
    "a chunk's size with a sign": post(TE, b"+0\r\n\r\n" + INNER),
    "a chunk's size in C": post(TE, b"0x0\r\n\r\n" + INNER),
    "a negative chunk": post(TE, b"-1\r\n\r\n" + INNER),
    "a chunk's size with an underscore": post(TE, b"0_0\r\n\r\n" + INNER),
    "a chunk's size, spaced": post(TE, b" 0\r\n\r\n" + INNER),
    "an immense chunk": post(TE, b"1" + b"0" * 16 + b"\r\n\r\n" + INNER),
    "an extension with a bare LF": post(TE, b"1;a\nb\r\nx\r\n0\r\n\r\n" + INNER),
    "a chunk ended by LF": post(TE, b"1\nx\n0\n\n" + INNER),
    "a chunk longer than it says": post(TE, b"1\r\nxx\r\n0\r\n\r\n" + INNER),
    "bare LF in the head": b"POST /chat HTTP/1.1\nHost: x\nContent-Length: 0\nTransfer-Encoding: chunked\n\n" + CHUNK,
    "two hosts": post(b"Host: y\r\n" + CL % 0 + TE, CHUNK),
    "a line in the target": post(CL % 4 + TE, CHUNK, path=b"/chat\rX:/"),
}


# What is no header of HTTP's is none to both servers, which agree: two requests came.
NO_HEADERS = {"a CL of another name", "TE of another name"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with scripted(quick) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Relay]:
    with relay(UPSTREAM="openai", UPSTREAM_URL=upstream.url, UPSTREAM_MODEL="m") as server:
        yield server


@pytest.fixture(scope="module")
def front(server: Relay) -> Iterator[int]:
    """An nginx that keeps connections to the relay. It lets nobody to /runs: who gets there was smuggled past it."""
    http, port = proxied(
        server.port,
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;',
        "proxy_buffering off; proxy_request_buffering off;",
        "location /runs { return 403; }",
        names=f"upstream relay {{ server 127.0.0.1:{server.port}; keepalive 4; }}",
    )
    http = http.replace(f"proxy_pass http://127.0.0.1:{server.port}", "proxy_pass http://relay")
    with nginx(http, port):
        yield port


def answers(port: int, data: bytes) -> list[int]:
    """Send the bytes, and nothing more; return the statuses of what comes back."""
    came = b""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as connection, suppress(ConnectionError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            came += piece
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", came)]


@pytest.mark.parametrize("pair", sorted(PAIRS.keys() - NO_HEADERS))
def test_what_is_ambiguous_is_refused_and_nothing_behind_it_is_read(
    pair: str, server: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.calls.clear()
    assert answers(server.port, PAIRS[pair]) in ([400], [415])
    assert upstream.calls == []


@pytest.mark.parametrize("pair", PAIRS)
def test_nothing_is_smuggled_past_nginx(pair: str, front: int, upstream: ScriptedUpstream) -> None:
    upstream.calls.clear()
    answers(front, PAIRS[pair])
    for number in range(6):  # more than there are kept connections: one that was poisoned would answer something else
        good = requests.get(f"http://127.0.0.1:{front}/upstreams", headers={"X-Request-Id": f"r{number}"}, timeout=20)
        assert (good.status_code, good.headers["X-Request-Id"]) == (200, f"r{number}")
    assert upstream.calls == []


def test_the_check_sees_a_run_behind_nginx_where_there_is_one(
    front: int, server: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.calls.clear()
    assert requests.post(f"http://127.0.0.1:{front}/runs", json={"prompt": "x"}, timeout=20).status_code == 403
    assert upstream.calls == []
    assert answers(server.port, INNER) == [201]
    upstream.next_call()
