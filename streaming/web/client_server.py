"""Accepts clients' connections, at as little cost as may be: a flood pays for nothing else so often."""

import socket
from collections.abc import Callable
from typing import Any

from gevent import spawn_raw
from gevent.server import StreamServer

from streaming.web.connection import ClientSocket, bound_send_buffer, prepare_listener

ACCEPTED_AT_ONCE = 4  # new connections, before the open ones get their turn; gevent's 100 take a tenth of a second


class ClientServer(StreamServer):
    """gevent's server with ClientSockets: its own would have to be taken apart and made again for each connection.

    `handle(client, address)` runs in a greenlet of its own, closes the client and lets nothing be raised. While
    `full()` returns True, new connections stay in the backlog: call `resume_accepting` when one of the others has
    gone. `user_timeout_seconds`: see prepare_listener.
    """

    max_accept = ACCEPTED_AT_ONCE

    def __init__(
        self,
        listener: Any,
        handle: Callable[[ClientSocket, Any], None],
        full: Callable[[], bool],
        user_timeout_seconds: float,
    ) -> None:
        super().__init__(listener, handle=handle)  # type: ignore[no-untyped-call]  # gevent ships no types
        self.full = full  # type: ignore[method-assign]  # as a Pool's would be
        self._user_timeout_seconds = user_timeout_seconds

    def init_socket(self) -> None:
        """See StreamServer."""
        super().init_socket()  # type: ignore[no-untyped-call]  # gevent ships no types
        self._kind = self.socket.family, self.socket.type, self.socket.proto
        prepare_listener(self.socket, self._user_timeout_seconds)

    def do_read(self) -> tuple[ClientSocket, Any] | None:
        """Return a client's socket and address, None where there is none any more. See StreamServer."""
        try:
            fd, address = self.socket._accept()
        except BlockingIOError:
            return None
        client = ClientSocket(*self._kind, fileno=fd)
        if self._kind[0] == socket.AF_UNIX:  # only the others inherit
            bound_send_buffer(client)
        return client, address

    def do_handle(self, client: ClientSocket, address: Any) -> None:
        """See StreamServer. A raw greenlet: a Pool takes some ten calls to count it, and the worker counts anyway.

        It counts who has begun, so ACCEPTED_AT_ONCE - 1 more than `full` says may be let in.
        """
        spawn_raw(self._handle, client, address)

    def resume_accepting(self) -> None:
        """Accept again, if it was full."""
        self._start_accepting_if_started()  # type: ignore[no-untyped-call]
