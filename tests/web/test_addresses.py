"""Where a request comes from, whatever it claims about itself."""

import socket

import pytest
from flask import Flask, request

from streaming.access_settings import PLATFORMS
from streaming.settings import Settings
from streaming.web.addresses import client_address, is_local, is_loopback
from tests.live import WAIT_SECONDS, relay
from tests.web.client import read_head

APP = Flask("test")
PEER = "10.0.0.7"


def address(proxies: str, headers: list[tuple[str, str]], peer: str = PEER) -> str:
    with APP.test_request_context(headers=headers, environ_base={"REMOTE_ADDR": peer}):
        return client_address(request, proxies)


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        ("auto", "192.0.2.1", PEER),  # nobody is believed
        ("0", "192.0.2.1", PEER),
        ("1", "192.0.2.1", "192.0.2.1"),
        ("1", "203.0.113.9, 192.0.2.1", "192.0.2.1"),  # the first is the client's own invention
        ("2", "203.0.113.9, 192.0.2.1, 10.1.1.1", "192.0.2.1"),
        ("2", "192.0.2.1", PEER),  # it came past one of them
        ("1", "192.0.2.1:5555", "192.0.2.1"),
        ("1", "[2001:db8:1:2::7]:443", "2001:db8:1:2::/64"),
        ("1", "2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("1", "::ffff:192.0.2.1", "192.0.2.1"),
        ("1", "fe80::1%eth0", "fe80::/64"),
        ("1", "unknown", PEER),
        ("1", "'; DROP TABLE\t", PEER),
        ("1", "", PEER),
    ],
)
def test_x_forwarded_for_is_believed_from_its_end_alone(proxies: str, forwarded: str, expected: str) -> None:
    assert address(proxies, [("X-Forwarded-For", forwarded)]) == expected


def test_several_header_lines_are_one_list() -> None:
    lines = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "192.0.2.1")]
    assert address("1", lines) == "192.0.2.1"
    assert address("2", lines) == "203.0.113.9"


def test_a_header_of_the_proxy_is_believed_where_it_is_named() -> None:
    headers = [("CF-Connecting-IP", "192.0.2.1"), ("X-Forwarded-For", "203.0.113.9")]
    assert address("CF-Connecting-IP", headers) == "192.0.2.1"
    assert address("Fly-Client-IP", headers) == PEER


def test_without_any_address_there_is_one_name_for_all() -> None:
    assert address("1", [], peer="") == "unknown"  # a Unix socket


def test_auto_knows_the_usual_platforms() -> None:
    assert Settings.from_env({}).trusted_proxies == "auto"
    for variable, told in PLATFORMS.items():
        assert Settings.from_env({variable: "x"}).trusted_proxies == told
        assert Settings.from_env({variable: "x", "TRUSTED_PROXIES": "3"}).trusted_proxies == "3"
    assert PLATFORMS["DYNO"] == "1"


def local(host: str = "127.0.0.1:8000", peer: str = "127.0.0.1", **headers: str) -> bool:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with APP.test_request_context(headers={"Host": host, **names}, environ_base={"REMOTE_ADDR": peer}):
        return is_local(request)


def test_local_is_who_asks_on_this_machine_and_through_nobody() -> None:
    assert all(local(host) for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "[::1]"))
    assert local(peer="::1")
    assert local(peer="127.3.2.1")


def test_neither_a_proxy_nor_a_rebound_name_is_local() -> None:
    assert not local(peer="10.0.0.7")
    assert not local(host="evil.example:8000")  # its page runs in a browser here, its name was pointed at 127.0.0.1
    assert not local(host="localhost.evil.example")
    for name in ("X_Forwarded_For", "Forwarded", "X_Real_IP", "Via"):
        assert not local(**{name: "127.0.0.1"})


def test_which_hosts_only_this_machine_reaches() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "example.com", ""))


def test_what_the_proxy_protocol_says_of_a_client_counts_for_its_whole_connection() -> None:
    settings = {"UPSTREAM": "demo", "ALLOW_ANONYMOUS": "1", "RATE_LIMIT": "1/day"}
    with relay(GUNICORN_CMD_ARGS="--proxy-protocol", **settings) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as connection:
            connection.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
            for status in (201, 429):
                connection.sendall(b"POST /runs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
                connection.sendall(b"Content-Type: application/x-www-form-urlencoded\r\n\r\nprompt=hi")
                answer = read_head(connection)
                assert answer.status == status
                answer.body()
