"""Connections that are held: idle ones, slow heads, slow bodies, heads without end."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import gevent

from tests.abuse.scene import scene

IDLE = 5000
SLOW = 1000
BOMBS = 200
SECONDS = 12.0  # longer than a head may take, and than a round of bodies
START = b"POST /runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def _held(count: int, hold: Callable[[socket.socket], None]) -> str:
    with scene() as played, ExitStack() as stack:
        memory, cpu, most = played.resident_mb(), sum(played.cpu_seconds()), 0.0
        with played.watched():
            connections = []
            for number in range(count):
                address = ("127.0.0.1", played.server.port)
                connections.append(stack.enter_context(socket.create_connection(address, timeout=60)))
                if number % 50 == 0:
                    gevent.sleep(0)
            holders = [gevent.spawn(hold, connection) for connection in connections]
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                most = max(most, played.resident_mb())
                gevent.sleep(0.1)
            gevent.killall(holders)
        used = sum(played.cpu_seconds()) - cpu
        return f"{used:.1f} s CPU in {SECONDS:.0f} s, {most - memory:.0f} MB more at most; {played.told()}"


def idle(connection: socket.socket) -> None:
    """Say nothing."""


def slow_head(connection: socket.socket) -> None:
    """Send a head that never ends, a line a second."""
    with suppress(OSError):
        connection.sendall(START)
        while True:
            connection.sendall(b"X: y\r\n")
            gevent.sleep(1)


def slow_body(connection: socket.socket) -> None:
    """Send a body that never ends, a byte a second."""
    with suppress(OSError):
        connection.sendall(START + b"Content-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            gevent.sleep(1)


def bomb(connection: socket.socket) -> None:
    """Send a head of 4 MiB."""
    with suppress(OSError):
        connection.sendall(START + (b"X: " + b"y" * 8000 + b"\r\n") * 520)


SCENES: dict[str, Callable[[], str]] = {
    f"{IDLE} idle sockets": lambda: _held(IDLE, idle),
    f"{SLOW} slow heads": lambda: _held(SLOW, slow_head),
    f"{SLOW} slow bodies": lambda: _held(SLOW, slow_body),
    f"{BOMBS} heads of 4 MiB": lambda: _held(BOMBS, bomb),
}
