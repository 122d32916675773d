"""Connections to upstreams: made, kept for the next call, and asked one call at a time.

Through requests, urllib3 and http.client a call and its answer of one token take 1.1 ms of the processor, and 0.28 here
(780 fewer calls of Python functions: no cookie jar, email message, hooks, or poll of the kept connection). What they
keep until the answer is read came to 19 of the 66 KB of an open stream. requests still reads URLs, each once.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests

from streaming.authorities import trusting
from streaming.wire import http1

POOL_MAX_CONNECTIONS = 512  # kept for reuse with each server; more may be open
READ_BYTES = 16 * 1024
"""At once: then the other streams have their turn. A whole TLS record: what is left of one makes no socket readable."""


class Server(msgspec.Struct, frozen=True):
    """Whom to connect to."""

    tls: bool
    name: str
    port: int

    @property
    def known_as(self) -> str:
        """Its name in certificates and to itself; a dot at the end is for DNS alone."""
        return self.name.rstrip(".")


class Target(msgspec.Struct, frozen=True):
    """What a URL says. `host` is the header of that name."""

    server: Server
    host: str
    path: str  # with the query


@lru_cache(maxsize=256)
def target_of(url: str) -> Target:
    """Return what a URL says, as requests understands it. Raises requests.RequestException."""
    prepared = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    parts = urlsplit(prepared.url or "")
    if parts.scheme not in {"http", "https"}:
        raise requests.exceptions.InvalidSchema
    tls = parts.scheme == "https"
    server = Server(tls, parts.hostname or "", parts.port or (443 if tls else 80))
    host = f"[{server.name}]" if ":" in server.name else server.known_as
    if server.port != (443 if tls else 80):
        host = f"{host}:{server.port}"
    return Target(server, host, prepared.path_url)


class ConnectionBroken(Exception):
    """It broke before the head of an answer was whole, or what came is no head."""

    def __init__(self, *, byte_came: bool) -> None:
        super().__init__()
        self.byte_came = byte_came


class Connection:
    """One connection. `connect_ms`: how long it took to make, None once it is used again."""

    __slots__ = ("connect_ms", "server", "socket")

    def __init__(self, server: Server, sock: Any, connect_ms: float) -> None:
        self.server = server
        self.socket = sock
        self.connect_ms: float | None = connect_ms

    def is_quiet(self) -> bool:
        """Return whether it is open as far as we know, and nothing has come that nobody asked for."""
        try:
            self.socket._sock.recv(1, socket.MSG_PEEK)  # gevent's own would wait; urllib3 polls, which is two switches
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def ask(self, message: bytes, body: bytes | Iterable[bytes], timeout_seconds: float) -> tuple[http1.Head, bytes]:
        """Send a call; return its answer's head when it has come, and what of the body came with it.

        Raises TimeoutError, ConnectionBroken.
        """
        self.socket.settimeout(timeout_seconds)
        data = b""
        try:
            self._send(message, body)
            while (split := http1.split_head(data)) is None:
                if not (piece := self.socket.recv(READ_BYTES)):
                    raise ConnectionBroken(byte_came=bool(data))
                data += piece
        except TimeoutError:
            raise
        except (OSError, http1.BadHead):
            raise ConnectionBroken(byte_came=bool(data)) from None
        return split

    def _send(self, message: bytes, body: bytes | Iterable[bytes]) -> None:
        """Send the head and a short body in one piece: each write costs the network's whole stack."""
        pieces = [message + body] if isinstance(body, bytes) else chain([message], body)
        with contextlib.suppress(BrokenPipeError):  # it may have said why before it hung up
            for piece in pieces:
                sent = self.socket.send(piece)
                if sent < len(piece):
                    self.socket.sendall(memoryview(piece)[sent:])

    def close(self) -> None:
        """End it."""
        self.socket.close()


class Connections:
    """Makes connections, and keeps those that can be used again."""

    def __init__(self) -> None:
        self._kept: dict[Server, list[Connection]] = {}
        self._closed = False

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return trusting()

    def kept(self, server: Server) -> Connection | None:
        """Take the one used last of those that are kept; None = none is left that looks alive."""
        there = self._kept.get(server)
        while there:
            connection = there.pop()
            if connection.is_quiet():
                connection.connect_ms = None
                return connection
            connection.close()
        return None

    def new(self, server: Server, connect_seconds: float) -> Connection:
        """Connect. Raises OSError: no such name, nobody listening, TimeoutError, a certificate that is not right."""
        begun = time.monotonic()
        sock: Any = socket.create_connection((server.name, server.port), connect_seconds)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server.tls:
                sock = self._tls.wrap_socket(sock, server_hostname=server.known_as, do_handshake_on_connect=False)
                sock.do_handshake()  # inside, nobody could close it when the run is stopped meanwhile
        except BaseException:
            sock.close()
            raise
        return Connection(server, sock, (time.monotonic() - begun) * 1000)

    def keep(self, connection: Connection) -> None:
        """Take back a connection on which nothing is left to read."""
        there = self._kept.setdefault(connection.server, [])
        if there and not there[0].is_quiet():  # unused for longest: its server has ended it, which nobody would notice
            there.pop(0).close()
        if self._closed or len(there) >= POOL_MAX_CONNECTIONS:
            connection.close()
        else:
            there.append(connection)

    def close(self) -> None:
        """Close what is kept, and what comes back."""
        self._closed = True
        for there in self._kept.values():
            for connection in there:
                connection.close()
        self._kept.clear()
