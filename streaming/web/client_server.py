"""Accepts clients' connections."""

from typing import Any

from gevent.server import StreamServer

from streaming.web.connection import ClientSocket


class ClientServer(StreamServer):
    """gevent's server with ClientSockets: its own would have to be taken apart and made again for each connection."""

    def init_socket(self) -> None:
        """See StreamServer."""
        super().init_socket()  # type: ignore[no-untyped-call]  # gevent ships no types
        self._kind = self.socket.family, self.socket.type, self.socket.proto

    def do_read(self) -> tuple[ClientSocket, Any] | None:
        """Return a client's socket and address, None where there is none any more. See StreamServer."""
        try:
            fd, address = self.socket._accept()
        except BlockingIOError:
            return None
        return ClientSocket(*self._kind, fileno=fd), address
