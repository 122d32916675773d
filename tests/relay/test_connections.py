"""Connections to upstreams: whom they trust, when they are used again, and that a call arrives as requests sends it."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import msgspec
import pytest
import requests

from streaming.relay.body import read_short
from streaming.relay.connections import target_of
from streaming.relay.upstream import Opened, Session
from streaming.wire.dialects import Request
from streaming.wire.errors import Failure
from tests.answering import answering
from tests.live import Call, scripted, wait_until
from tests.relay.support import LIMITS, kept_session

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificate, which the operator has told to trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000",
        "http://localhost:80/v1",
        "https://example.org:443/v1?api-version=1&b=c",
        "https://example.org:8443/a b/é?q=ü",
        "http://[::1]:11434/v1",
        "https://EXAMPLE.org/v1/../x",
        "https://bücher.example/v1",
    ],
)
def test_a_url_is_understood_as_requests_does(url: str) -> None:
    prepared = requests.Request("GET", url).prepare()
    target = target_of(url)
    scheme = "https" if target.server.tls else "http"
    said = requests.Request("GET", f"{scheme}://{target.host}{target.path}").prepare()
    usual = f":{443 if target.server.tls else 80}/"
    assert said.url == (prepared.url or "").replace(usual, "/")


@pytest.mark.parametrize("url", ["localhost/v1", "http://", "http://*.example/", "ftp://x/"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(Failure) as caught:
        kept_session().open(Request(url=url, headers={}), LIMITS)
    assert caught.value.code == "upstream_invalid"


@contextlib.contextmanager
def asking(url: str, session: Session, **request: object) -> Iterator[Opened]:
    opened = session.open(Request(url=url, headers={}, **request), LIMITS)  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        opened.close()


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with answering([ANSWER], certificate, closes=False) as (url, _), pytest.raises(Failure) as caught:
        kept_session().open(Request(url=url, headers={}), LIMITS)
    assert caught.value.code == "upstream_unreachable"


def test_a_certificate_of_another_name_is_refused(trusted: Path) -> None:
    session = Session()
    with answering([ANSWER], trusted, closes=False) as (url, _):
        with asking(url, session) as opened:
            assert read_short(opened) == b"ok"
        with pytest.raises(Failure) as caught:
            session.open(Request(url=url.replace("localhost", "127.0.0.1"), headers={}), LIMITS)
    assert caught.value.code == "upstream_unreachable"
    session.close()


def test_the_last_dot_of_a_name_is_for_dns_alone(trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes' usual way around its search list; neither certificates nor servers know it."""
    asked: list[str] = []
    resolve = gevent.socket.getaddrinfo

    def resolved(name: str, *rest: object) -> object:
        asked.append(name)
        return resolve("localhost", *rest)

    monkeypatch.setattr("gevent.socket.getaddrinfo", resolved)
    session = Session()
    with answering([ANSWER], trusted, closes=False) as (url, _):
        with asking(url.replace("localhost", "localhost."), session) as opened:
            assert read_short(opened) == b"ok"
    session.close()
    assert asked == ["localhost."]
    assert target_of("https://example.org.:8443/v1").host == "example.org:8443"


@pytest.mark.parametrize("stopped", [False, True])
def test_who_takes_a_connection_and_never_speaks_tls_is_left(stopped: bool) -> None:
    limits = msgspec.structs.replace(LIMITS, connect_seconds=5 if stopped else 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://localhost:{listener.getsockname()[1]}/"
        asked = gevent.spawn(kept_session().open, Request(url=url, headers={}), limits)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(4096)  # its greeting
            if stopped:
                asked.kill()
            assert connection.recv(4096) == b""
        asked.join(5)
        assert stopped or isinstance(asked.exception, Failure)


# -- kept ones ---------------------------------------------------------------------------------------------------------


def used(answer: bytes) -> int:
    """Return how many connections two calls take, one after the other, each read to its end."""
    session, peers = kept_session(), set()

    def script(call: Call) -> None:
        peers.add(call.connection.getpeername())
        call.send(answer)

    with scripted(script) as upstream:
        for _ in range(2):
            with asking(upstream.url, session) as opened:
                assert read_short(opened) == b"ok"
    return len(peers)


def test_a_connection_is_used_again_unless_the_answer_says_close() -> None:
    assert used(ANSWER) == 1
    assert used(ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) == 2
    assert used(ANSWER.replace(b"HTTP/1.1", b"HTTP/1.0")) == 2


def test_a_connection_on_which_something_came_that_nobody_asked_for_is_not_used_again() -> None:
    session = kept_session()
    with scripted(lambda call: call.send(ANSWER)) as upstream:
        for _ in range(2):
            with asking(upstream.url, session) as opened:
                assert opened.connect_ms is not None
                read_short(opened)
            upstream.next_call().send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_connection_on_which_more_came_with_an_answer_than_it_said_is_not_used_again(answer: bytes) -> None:
    """The rest of it would be read as the head of somebody else's answer."""
    session = kept_session()
    with scripted(lambda call: call.send(answer + b"HTTP/1.1 200 OK\r\nX: ")) as upstream:
        for _ in range(2):
            with asking(upstream.url, session) as opened:
                assert opened.connect_ms is not None
                assert read_short(opened) == (b"ok" if b"ok" in answer else b"")


def test_an_answer_that_is_left_in_the_middle_ends_its_connection() -> None:
    session = kept_session()
    with scripted(lambda call: call.send(ANSWER[:-1]) or call.closed.wait(10)) as upstream:
        with asking(upstream.url, session):
            pass
        call = upstream.next_call()
        assert call.connection.recv(1) == b""
        call.closed.set()


def test_a_kept_connection_that_its_server_has_ended_is_let_go_while_others_are_used() -> None:
    """What a busy hour leaves would stay half closed for ever: the one used last is taken first."""
    session = kept_session()
    with scripted(lambda call: call.send(ANSWER)) as upstream:
        with asking(upstream.url, session) as first, asking(upstream.url, session) as second:
            read_short(first)
            read_short(second)
        upstream.calls[0].connection.shutdown(socket.SHUT_WR)
        with asking(upstream.url, session) as third:
            assert third.connect_ms is None
            read_short(third)
        wait_until(lambda: first.socket.closed, "it is closed")


def test_a_closed_session_keeps_nothing() -> None:
    session = Session()
    with scripted(lambda call: call.send(ANSWER)) as upstream:
        with asking(upstream.url, session) as opened:
            session.close()
            read_short(opened)
            wait_until(lambda: opened.socket.closed, "it is closed")


# -- the call ----------------------------------------------------------------------------------------------------------


def test_a_body_larger_than_all_buffers_arrives_whole() -> None:
    body = bytes(range(256)) * 40_000
    with scripted(lambda call: call.send(ANSWER)) as upstream:
        with asking(upstream.url, kept_session(), body=body) as opened:
            assert read_short(opened) == b"ok"
        assert upstream.next_call().body == body


def test_a_post_without_a_body_says_so_and_a_get_says_nothing() -> None:
    with scripted(lambda call: call.send(ANSWER)) as upstream:
        for method in ("POST", "GET"):
            with asking(upstream.url, kept_session(), method=method):
                pass
        assert [call.headers.get("content-length") for call in upstream.calls] == ["0", None]


def test_who_hangs_up_on_a_long_body_may_have_said_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        asked = gevent.spawn(kept_session().open, Request(url=url, headers={}, body=bytes(32 << 20)), LIMITS)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)  # what is unread makes the close a reset
        with contextlib.closing(asked.get(timeout=10)) as opened:
            assert opened.head.status == 413
