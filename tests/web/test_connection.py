"""A client's socket, below what a live relay shows."""

import socket

from gevent.socket import wait_read

from streaming.web.connection import ClientSocket


def test_who_was_let_go_is_not_heard_any_more() -> None:
    """On Linux what comes behind a shutdown for reading can still be read."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as theirs:
        accepted, _ = listener.accept()
        with ClientSocket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=accepted.detach()) as client:
            client.let_go()
            theirs.sendall(b"POST / HTTP/1.1")
            wait_read(client.fileno())
            assert client.recv(100) == b""
