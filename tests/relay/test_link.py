"""The connection to Redis: each kind of URL, and what is said when it is not there."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.relay.stores.link import Down, Link
from streaming.wire.errors import Refusal
from tests.live import free_port
from tests.redis_server import Sentinel, redis_server


@pytest.fixture
def links() -> Iterator[list[Link]]:
    opened: list[Link] = []
    yield opened
    for link in opened:
        link.close()


def answers(links: list[Link], url: str, **options: bool) -> bool:
    link = Link(url, **options)
    links.append(link)
    try:
        return bool(link.ask(("SET", "k", b"v"), ("GET", "k"))[1] == b"v")
    except Refusal as refusal:
        return refusal.code != "store_unavailable" or "secret" in str(refusal)


def test_a_password_is_needed_where_it_is_set(links: list[Link], caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as server:
        server.command("CONFIG", "SET", "requirepass", "pass-secret")
        host = f"127.0.0.1:{server.port}"
        assert answers(links, f"redis://:pass-secret@{host}/0")
        assert answers(links, f"redis://default:pass-secret@{host}/1")
        assert not answers(links, f"redis://{host}/0")
        assert not answers(links, f"redis://:wrong-secret@{host}/0")
        assert "secret" not in caplog.text


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run([*command, *files, *subject], check=True, capture_output=True)
    return str(key), str(certificate)


def test_a_certificate_nobody_vouches_for_is_taken_only_when_told_so(
    links: list[Link], certificate: tuple[str, str]
) -> None:
    port, (key, file) = free_port(), certificate
    tls = ("--tls-port", str(port), "--tls-key-file", key, "--tls-cert-file", file, "--tls-auth-clients", "no")
    with redis_server(*tls):
        url = f"rediss://localhost:{port}/0"
        assert not answers(links, url)
        assert answers(links, url, tls_insecure=True)


def test_sentinel_is_asked_where_the_master_is(links: list[Link]) -> None:
    with redis_server() as server:
        sentinel = Sentinel(server)
        try:
            assert answers(links, f"redis+sentinel://127.0.0.1:9,127.0.0.1:{sentinel.port}/main/2")
            assert server.command("CONFIG", "GET", "port")
        finally:
            sentinel.close()


def test_a_break_is_counted_and_the_next_command_finds_the_server_again(links: list[Link]) -> None:
    with redis_server() as server:
        link = Link(server.url)
        links.append(link)
        link.send(("PING",))
        assert link.unbroken_seconds > 0
        server.kill()
        with pytest.raises(Down):
            link.send(("PING",))
        with pytest.raises(Refusal, match="store_unavailable"):
            link.ask(("PING",))
        assert (link.breaks, link.unbroken_seconds) == (1, 0.0)
        server.start()
        link.send(("PING",))
        assert link.unbroken_seconds > 0


def test_an_error_reply_stands_in_its_place(links: list[Link]) -> None:
    with redis_server() as server:
        link = Link(server.url)
        links.append(link)
        replies = link.send(("SET", "k", b"v"), ("LPUSH", "k", b"x"), ("GET", "k"))
        assert isinstance(replies[1], Exception)
        assert (bool(replies[0]), replies[2]) == (True, b"v")
        with pytest.raises(Refusal, match="store_unavailable"):
            link.ask(("LPUSH", "k", b"x"))
