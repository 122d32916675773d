"""A client's connection: since when it takes nothing, whether it is still there, and how to let go of it."""

import contextlib
import errno
import socket as plain
import struct
import time
from collections.abc import Callable
from typing import Any

from gevent import get_hub, socket
from gevent.socket import wait_write  # type: ignore[attr-defined]  # made at run time
from gunicorn.http.errors import LimitRequestHeaders

SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel holds for a client that reads slowly; it would grow to megabytes, times all that are stuck."""

HEAD_MAX_BYTES = 64 * 1024
"""Of a request's head. gunicorn would keep 100 lines of 8 KiB for everybody who never ends one."""

READABLE = 1  # libev's flag
_LOST = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}  # what the kernel says of a client that vanished


def prepare_listener(listener: plain.socket, user_timeout_seconds: float) -> None:
    """Bound what the kernel keeps for a client, and how long it goes on without a sign of it. Clients inherit it.

    Heartbeats never find a client that vanished without a FIN: they fit the kernel's buffer. TCP_USER_TIMEOUT does,
    and where nothing is sent in silence (text, json, a body that never comes) it needs TCP's own probes.
    """
    bound_send_buffer(listener)
    if listener.family == plain.AF_UNIX or not hasattr(plain, "TCP_USER_TIMEOUT"):
        return
    listener.setsockopt(plain.IPPROTO_TCP, plain.TCP_USER_TIMEOUT, int(user_timeout_seconds * 1000))
    probe_seconds = max(1, int(user_timeout_seconds / 2))
    listener.setsockopt(plain.IPPROTO_TCP, plain.TCP_KEEPINTVL, probe_seconds)
    listener.setsockopt(plain.IPPROTO_TCP, plain.TCP_KEEPIDLE, probe_seconds)
    listener.setsockopt(plain.SOL_SOCKET, plain.SO_KEEPALIVE, 1)


def bound_send_buffer(connection: plain.socket) -> None:
    """Let the kernel hold no more than SEND_BUFFER_BYTES of what is sent."""
    connection.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, SEND_BUFFER_BYTES)


class ClientSocket(socket.socket):  # type: ignore[misc,name-defined]  # gevent ships no types
    """gevent's socket, able to tell a stuck client from a slow one.

    `blocked_since` (monotonic) is set while a write waits and the client has taken nothing since; `serving` says that
    a request is being answered, `head_bytes` how much of the next one has come; `dropped` that it was we who ended the
    connection. `on_let_go` ends an idle connection in its own way, where it is no HTTP any more. `on_send_away` ends a
    stream that its client resumes elsewhere. `ends_by_close`: the client knows its answer's end by the connection's
    (HTTP/1.0), so that ending it from outside must be a reset.
    """

    blocked_since: float | None = None
    serving = False
    head_bytes = 0
    dropped = False
    ends_by_close = False
    on_let_go: Callable[[], None] | None = None
    on_send_away: Callable[[], None] | None = None

    def recv(self, *args: Any) -> Any:
        """Receive. Raises LimitRequestHeaders where a head has no end."""
        try:
            data = super().recv(*args)
        except OSError as error:
            raise _as_reset(error) from None
        if not self.serving:
            if self.dropped:
                # Shut for reading, it still brings what comes later: a head perhaps, whose body would then be missing
                # here and be read there, as the next request.
                return b""
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_MAX_BYTES:
                raise LimitRequestHeaders("the head is too large")
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send everything; wait only where the kernel takes no more."""
        view = memoryview(data)
        while True:
            try:
                view = view[self._sock.send(view, flags) :]
                self.blocked_since = None
            except BlockingIOError:
                pass
            except OSError as error:
                raise _as_reset(error) from None
            if not view:
                return
            if self.blocked_since is None:
                self.blocked_since = time.monotonic()
            wait_write(self.fileno())

    def send_now(self, data: bytes) -> int:
        """Send what the kernel takes at once; return how many bytes. What is wrong is told by the next `sendall`."""
        try:
            return int(self._sock.send(data))
        except OSError:
            return 0

    def drop(self, how: int = plain.SHUT_RDWR) -> None:
        """End the connection from outside. A waiting write then fails with EPIPE, which nobody logs as an error.

        On the plain socket inside: gevent's own shutdown would cancel the write with EBADF, which is logged.
        """
        self.dropped = True
        with contextlib.suppress(OSError):
            if self.ends_by_close and self.serving:
                self.reset_on_close()
            self._sock.shutdown(how)

    def reset_on_close(self) -> None:
        """Let the close be a reset, which no client takes for an end; what the kernel still has is not sent."""
        self.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, struct.pack("ii", 1, 0))

    def let_go(self) -> None:
        """End an idle connection: its reader sees an end of file, as if the client had closed."""
        if self.on_let_go is not None:
            self.on_let_go()
        else:
            self.drop(plain.SHUT_RD)

    def send_away(self) -> None:
        """Let the client go on with another worker, if it can."""
        if self.on_send_away is not None:
            self.on_send_away()

    def peek(self) -> bool:
        """Return whether the client is there (a client that has half-closed counts as gone)."""
        try:
            return bool(self._sock.recv(1, plain.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def take(self, size: int) -> bytes | None:
        """Return what has come, b"" where the client has gone, None where there is nothing."""
        try:
            return bytes(self._sock.recv(size))
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def discard(self) -> None:
        """Throw away what the client has sent."""
        with contextlib.suppress(OSError):
            self._sock.recv(64 * 1024)


def _as_reset(error: OSError) -> OSError:
    """Make a client that vanished one that reset its connection: the worker logs all else as an error of ours."""
    return ConnectionResetError(errno.ECONNRESET, "the client vanished") if error.errno in _LOST else error


class PeerWatch:
    """Calls `gone(by_us=…)` once when the connection ends, although nothing is being sent on it.

    `discard`: what the client goes on sending is thrown away (the connection ends with this answer anyway); otherwise
    the watch ends with the first byte of its next request. A bare io watcher: a greenlet for each silent stream would
    cost ten times the memory.
    """

    def __init__(self, client: ClientSocket, gone: Callable[..., None], *, discard: bool) -> None:
        self._client = client
        self._discard = discard
        self._gone = gone
        self._watcher = get_hub().loop.io(client.fileno(), READABLE)
        self._watcher.start(self._look)

    def _look(self) -> None:
        there = self._client.peek()
        if there and self._discard:
            self._client.discard()
            return
        self.close()  # readable for good: closed, or the next request, which nobody reads before this one's end
        if not there:
            self._gone(by_us=self.dropped)

    @property
    def dropped(self) -> bool:
        """Return whether it was we who ended the connection."""
        return self._client.dropped

    def close(self) -> None:
        """Stop watching; any number of times."""
        self._watcher.stop()
        self._watcher.close()


def watch_peer(environ: dict[str, Any], gone: Callable[..., None], *, discard: bool) -> PeerWatch | None:
    """Watch the client of a request whose body has been read; None where the server gives no socket to watch."""
    client = environ.get("gunicorn.socket")
    return PeerWatch(client, gone, discard=discard) if isinstance(client, ClientSocket) else None


def reset_on_close(environ: dict[str, Any]) -> None:
    """Let the close of this request's connection be a reset."""
    client = environ.get("gunicorn.socket")
    if isinstance(client, ClientSocket):
        client.reset_on_close()


def send_away_on_drain(environ: dict[str, Any], send_away: Callable[[], None]) -> None:
    """Call it when this worker drains and another one can serve the request's client."""
    client = environ.get("gunicorn.socket")
    if isinstance(client, ClientSocket):
        client.on_send_away = send_away
