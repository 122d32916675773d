"""Refusals leave a few at a time: whoever floods the relay with them keeps nobody else waiting."""

import socket

import pytest
import requests

from streaming.web import turnstile
from streaming.web.turnstile import AT_ONCE, LONGEST_SLOTS, SLOT_SECONDS, Turnstile
from tests.live import WAIT_SECONDS, Relay

PIPELINED = 200  # their answers fit the kernel's buffers: the relay never has to wait for this client
REFUSED = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"


def test_so_many_at_once_the_others_in_the_slots_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(turnstile.gevent, "sleep", slept.append)
    monkeypatch.setattr(turnstile.time, "monotonic", lambda: 100.0)
    gate = Turnstile()
    for _ in range(3 * AT_ONCE):
        gate.wait()
    assert slept == pytest.approx([SLOT_SECONDS] * AT_ONCE + [2 * SLOT_SECONDS] * AT_ONCE)
    monkeypatch.setattr(turnstile.time, "monotonic", lambda: 101.0)
    gate.wait()
    assert len(slept) == 2 * AT_ONCE


def test_nobody_waits_longer_than_what_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(turnstile.gevent, "sleep", slept.append)
    monkeypatch.setattr(turnstile.time, "monotonic", lambda: 100.0)
    gate = Turnstile()
    for _ in range(2 * AT_ONCE * LONGEST_SLOTS):
        gate.wait()
    assert max(slept) == pytest.approx(LONGEST_SLOTS * SLOT_SECONDS)


def test_others_are_served_between_the_requests_of_one_write(server: Relay) -> None:
    flood = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS)
    with flood, requests.Session() as session:
        session.get(f"{server.url}/healthz", timeout=WAIT_SECONDS)  # connected
        flood.sendall(REFUSED * PIPELINED)
        seen = flood.recv(1)  # it is being served
        session.get(f"{server.url}/healthz", timeout=WAIT_SECONDS)
        flood.settimeout(0)
        while True:
            try:
                seen += flood.recv(65536)
            except BlockingIOError:
                break
        answered = seen.count(b"HTTP/1.1 404")
        flood.settimeout(WAIT_SECONDS)
        while seen.count(b"HTTP/1.1 404") < PIPELINED:
            seen += flood.recv(65536)
    assert answered < PIPELINED
