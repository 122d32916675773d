"""The order of things on a socket, seen from inside."""

import contextlib
import json
import socket
from types import SimpleNamespace

import gevent
from flask import Flask, g
from simple_websocket.errors import ConnectionClosed

from streaming.relay.caller import Caller
from streaming.relay.demo import DemoExchange, DemoUpstream
from streaming.relay.observing import nobody
from streaming.relay.upstream import Sink
from streaming.web.connection import ClientSocket
from streaming.web.ws_session import Session
from streaming.web.ws_socket import BoundedServer
from streaming.wire.ask import Ask, Context
from tests.relay.support import runs
from tests.web.ws_client import masked

HANDSHAKE = {
    "REQUEST_METHOD": "GET",
    "HTTP_HOST": "x",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_UPGRADE": "websocket",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class WatchingUpstream(DemoUpstream):
    """Notes what has reached the client at the moment of the call."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__("watching")
        self.seen: list[bytes] = []
        self._client = client

    def exchange(self, ask: Ask, context: Context, sink: Sink) -> DemoExchange:
        self.seen.append(self._client.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        return super().exchange(ask, context, sink)


def test_the_start_leaves_before_the_upstream_is_called() -> None:
    ours, client = socket.socketpair()
    served = ClientSocket(ours.family, ours.type, ours.proto, fileno=ours.detach())
    upstream = WatchingUpstream(client)
    with client, served, runs(upstreams=[upstream]) as all_runs:
        environ = {**HANDSHAKE, "gunicorn.socket": served}
        with Flask("test").app_context():
            g.request_id = "abc-1"
            opened = BoundedServer(environ, pong_seconds=20, ping_interval=20, max_message_size=1000)
        assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
        relay = SimpleNamespace(
            runs=all_runs, ws_idle_seconds=20, stream_settings=SimpleNamespace(flush_ms=0), observer=nobody
        )
        session = gevent.spawn(_served, Session(opened, relay, Caller()))
        client.sendall(masked(json.dumps({"type": "ask", "prompt": "hi"})))
        while b'"type":"token"' not in client.recv(65536):
            pass
        client.shutdown(socket.SHUT_WR)
        session.get(timeout=20)
    (seen,) = upstream.seen
    assert b'"type":"start"' in seen


def _served(session: Session) -> None:
    with contextlib.suppress(ConnectionClosed):
        session.serve()
