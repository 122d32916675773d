"""A server that answers each request with given pieces, each in a write of its own, over TLS where it is told to."""

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import gevent
import gevent.pool
from gevent import socket


@contextlib.contextmanager
def answering(pieces: list[bytes], certificate: Path | None, *, closes: bool) -> Iterator[tuple[str, list[object]]]:
    """Answer each request with the pieces, each in a write of its own. Yield the URL, and who has connected."""
    connections: list[object] = []
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        wire = connection
        if context is not None:
            wire = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with wire, contextlib.suppress(ssl.SSLError):  # of who does not believe the certificate
            while wire.recv(65536):
                for piece in pieces:
                    wire.sendall(piece)
                    gevent.sleep(0)
                if closes:
                    return

    def accept() -> None:
        while True:
            connection, peer = listener.accept()
            connections.append(peer)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            served.spawn(serve, connection)

    served = gevent.pool.Group()
    served.spawn(accept)
    try:
        yield f"http{'s' if context else ''}://localhost:{listener.getsockname()[1]}/", connections
    finally:
        served.kill()
        listener.close()
