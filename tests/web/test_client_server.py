"""Clients are accepted with their bounds, one greenlet each, and only while there is room."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.socket import socket as gevent_socket

from streaming.web.client_server import ClientServer
from streaming.web.connection import SEND_BUFFER_BYTES, ClientSocket
from tests.live import WAIT_SECONDS, wait_until

LISTENERS = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0), socket.AF_UNIX: "s"}


class Door:
    """A server that lets clients in until `full`, and keeps them until `leave`."""

    def __init__(self, family: int, address: Any) -> None:
        listener = gevent_socket(family, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen()
        self.address = listener.getsockname()
        self.family = family
        self.full = False
        self.clients: list[ClientSocket] = []
        self.leave = Event()
        self.server = ClientServer(listener, self._handle, lambda: self.full, 30)
        self.server.start()

    def _handle(self, client: ClientSocket, address: object) -> None:
        with client:
            self.clients.append(client)
            self.leave.wait(WAIT_SECONDS)

    def knock(self) -> socket.socket:
        """Connect a client."""
        client = socket.socket(self.family, socket.SOCK_STREAM)
        client.settimeout(WAIT_SECONDS)
        client.connect(self.address)
        return client


@pytest.fixture
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    family = getattr(request, "param", socket.AF_INET)
    address = LISTENERS[family]
    door = Door(family, str(tmp_path / address) if isinstance(address, str) else address)
    yield door
    door.leave.set()
    door.server.close()
    wait_until(lambda: all(client.closed for client in door.clients), "all have left")


@pytest.mark.parametrize("door", LISTENERS, indirect=True)
def test_what_the_kernel_keeps_is_bounded_and_vanished_clients_are_found(door: Door) -> None:
    with door.knock():
        wait_until(lambda: door.clients, "it is let in")
        (client,) = door.clients
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BUFFER_BYTES  # Linux doubles it
        if door.family != socket.AF_UNIX and sys.platform == "linux":
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
            assert [client.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [30_000, 15, 15]


def test_while_there_is_no_room_clients_wait_outside(door: Door) -> None:
    with door.knock(), door.knock():
        wait_until(lambda: len(door.clients) == 2, "both are let in")
        door.full = True
        with door.knock():
            gevent.sleep(0.05)  # that nothing happens has no event
            assert len(door.clients) == 2
            door.full = False
            door.server.resume_accepting()
            wait_until(lambda: len(door.clients) == 3, "the third is let in")


def test_a_server_that_is_closed_accepts_nobody_any_more(door: Door) -> None:
    door.server.close()
    door.server.resume_accepting()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(door.address)
