"""Refusals leave a few at a time: whoever floods the relay with them keeps nobody else waiting."""

import socket
import time

import gevent
import pytest

from streaming.web import turnstile
from streaming.web.turnstile import AT_ONCE, LONGEST_SLOTS, SLOT_SECONDS, Turnstile
from tests.live import WAIT_SECONDS, Relay

PIPELINED = 200
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


def test_others_run_between() -> None:
    gate, ran = Turnstile(), []

    def flood() -> None:
        for _ in range(3 * AT_ONCE):
            gate.wait()
            ran.append("refused")

    flooding = gevent.spawn(flood)
    gevent.spawn(ran.append, "good")
    flooding.join()
    assert ran.index("good") <= AT_ONCE


def test_the_requests_of_one_write_are_refused_one_group_after_the_other(server: Relay) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as flood:
        begun, answers = time.monotonic(), b""
        flood.sendall(REFUSED * PIPELINED)
        while answers.count(b"HTTP/1.1 404") < PIPELINED:
            answers += flood.recv(65536)
        took_seconds = time.monotonic() - begun
    assert took_seconds > (PIPELINED / AT_ONCE - 2) * SLOT_SECONDS
