"""Refusals leave one at a time: whoever floods the relay with them keeps nobody else waiting."""

import socket
import threading
import time
from collections import Counter

import gevent
import pytest
import requests
from gevent import get_hub
from gevent.socket import wait_read, wait_write

from streaming.web import turnstile
from streaming.web.turnstile import LATE_AT_ONCE, Turnstile
from tests.live import WAIT_SECONDS, Relay

FLOODS = 8
PIPELINED = 3000
REFUSED = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"


def test_what_is_ready_goes_first() -> None:
    gate, ran = Turnstile(), list[str]()

    def flood() -> None:
        for _ in range(20):
            gate.wait()
            ran.append("refused")

    def serve(asked: socket.socket) -> None:
        for _ in range(5):
            wait_read(asked.fileno())
            ran.append("good")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        gevent.joinall([*(gevent.spawn(flood) for _ in range(FLOODS)), gevent.spawn(serve, ours)])
    assert ran.count("refused") == 20 * FLOODS
    assert ran[:5] == ["good"] * 5


def test_one_in_each_turn_of_the_loop() -> None:
    gate, turns, at = Turnstile(), 0, list[int]()

    def count() -> None:
        nonlocal turns
        turns += 1

    def refuse() -> None:
        gate.wait()
        at.append(turns)

    counting = get_hub().loop.prepare()
    counting.start(count)
    gevent.joinall([gevent.spawn(refuse) for _ in range(FLOODS)])
    counting.stop()
    assert len(set(at)) == FLOODS


def test_who_waits_too_long_leaves_with_few_others_where_there_is_always_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turnstile, "LONGEST_SECONDS", 0.2)
    over, gate, turns, left = False, Turnstile(), 0, Counter[int]()

    def busy(writable: socket.socket) -> None:
        nonlocal turns
        while not over:
            wait_write(writable.fileno())  # at once, in each turn
            turns += 1

    def refuse() -> None:
        gate.wait()
        left[turns] += 1

    ours, theirs = socket.socketpair()
    with ours, theirs:
        working = gevent.spawn(busy, ours)
        gevent.sleep(0)  # it works
        begun = time.monotonic()
        gevent.joinall([gevent.spawn(refuse) for _ in range(5 * LATE_AT_ONCE)], timeout=WAIT_SECONDS)
        took_seconds = time.monotonic() - begun
        over = True
        working.join()
    assert 0.2 <= took_seconds < WAIT_SECONDS
    assert max(left.values()) <= LATE_AT_ONCE


def test_one_that_is_gone_keeps_nobody_waiting() -> None:
    gate = Turnstile()
    gone, other = gevent.spawn(gate.wait), gevent.spawn(gate.wait)
    gevent.sleep(0)
    gone.kill()
    other.join(WAIT_SECONDS)
    assert other.successful()


def test_a_flood_in_one_write_does_not_keep_others_waiting(server: Relay) -> None:
    refused, begun = 0, threading.Event()

    def read(flood: socket.socket) -> None:
        nonlocal refused
        while refused < PIPELINED and (piece := flood.recv(65536)):
            refused += piece.count(b"HTTP/1.1 404")
            begun.set()

    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as flood:
        reader = threading.Thread(target=read, args=(flood,))
        reader.start()
        sender = threading.Thread(target=flood.sendall, args=(REFUSED * PIPELINED,))
        sender.start()
        assert begun.wait(WAIT_SECONDS)
        assert requests.get(f"{server.url}/healthz", timeout=WAIT_SECONDS).status_code == 200
        meanwhile = refused
        sender.join()
        reader.join()
    assert refused == PIPELINED
    assert meanwhile < PIPELINED / 2  # without a turnstile all of them
