"""A client's connection: since when it takes nothing, whether it is still there, and how to let go of it."""

import contextlib
import socket as plain
import time
from collections.abc import Callable
from typing import Any

from gevent import get_hub, socket
from gevent.socket import wait_write  # type: ignore[attr-defined]  # made at run time

SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel holds for a client that reads slowly; it would grow to megabytes, times all that are stuck."""

_READ = 1  # libev's flag


class ClientSocket(socket.socket):  # type: ignore[misc,name-defined]  # gevent ships no types
    """gevent's socket, able to tell a stuck client from a slow one.

    `blocked_since` (monotonic) is set while a write waits and the client has taken nothing since; `serving` says that
    a request is being answered.
    """

    blocked_since: float | None = None
    serving = False

    def prepare(self, user_timeout_seconds: float) -> None:
        """Bound what the kernel keeps for the client, and how long it goes on without a sign of it.

        Heartbeats never find a client that vanished without a FIN: they fit the kernel's buffer. TCP_USER_TIMEOUT does.
        """
        self.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, SEND_BUFFER_BYTES)
        if self.family != plain.AF_UNIX and hasattr(plain, "TCP_USER_TIMEOUT"):
            self.setsockopt(plain.IPPROTO_TCP, plain.TCP_USER_TIMEOUT, int(user_timeout_seconds * 1000))

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send everything; wait only where the kernel takes no more."""
        view = memoryview(data)
        while True:
            with contextlib.suppress(BlockingIOError):
                view = view[self._sock.send(view, flags) :]
                self.blocked_since = None
            if not view:
                return
            if self.blocked_since is None:
                self.blocked_since = time.monotonic()
            wait_write(self.fileno())

    def drop(self, how: int = plain.SHUT_RDWR) -> None:
        """End the connection from outside. A waiting write then fails with EPIPE, which nobody logs as an error.

        It is done on a duplicate of the descriptor: gevent's own shutdown would cancel the write with EBADF.
        """
        with contextlib.suppress(OSError), plain.fromfd(self.fileno(), self.family, plain.SOCK_STREAM) as duplicate:
            duplicate.shutdown(how)

    def let_go(self) -> None:
        """End an idle connection: its reader sees an end of file, as if the client had closed."""
        self.drop(plain.SHUT_RD)

    def peek(self) -> bool:
        """Return whether the client is there (a client that has half-closed counts as gone)."""
        try:
            return bool(self._sock.recv(1, plain.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False


class PeerWatch:
    """Calls `gone` once when the client closes, although nothing is being sent to it.

    A bare io watcher: a greenlet for each silent stream would cost ten times the memory.
    """

    def __init__(self, client: ClientSocket, gone: Callable[[], None]) -> None:
        self._client = client
        self._gone = gone
        self._watcher = get_hub().loop.io(client.fileno(), _READ)
        self._watcher.start(self._look)

    def _look(self) -> None:
        # Readable for good: closed, or the next request is there already, which nobody reads before this one's end.
        there = self._client.peek()
        self.close()
        if not there:
            self._gone()

    def close(self) -> None:
        """Stop watching; any number of times."""
        self._watcher.stop()
        self._watcher.close()


def watch_peer(environ: dict[str, Any], gone: Callable[[], None]) -> PeerWatch | None:
    """Watch the client of a request; None where the server gives no socket to watch (tests without a server)."""
    client = environ.get("gunicorn.socket")
    return PeerWatch(client, gone) if isinstance(client, ClientSocket) else None
