"""A server's end of one WebSocket: simple-websocket's, with bounds.

The library reads ahead without limit in a thread of its own, agrees to deflate (100 KB a connection), and writes with
plain `send`, which cuts large frames and mixes those of several greenlets.
"""

import contextlib
import socket as plain
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import g
from gevent import get_hub
from gevent.lock import Semaphore
from simple_websocket.errors import ConnectionClosed
from simple_websocket.ws import Server
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import RemoteProtocolError

from streaming.relay.cursor import Sleeper
from streaming.web.connection import READABLE, ClientSocket
from streaming.web.guard import SUBPROTOCOL
from streaming.wire.errors import Refusal
from streaming.wire.formats.ws import PING

READ_BYTES = 1024  # at a time: what is in it, 170 pings or 30 questions, is handled before anybody else has a turn
CLOSE_SECONDS = 2.0  # how long a client may take to close after we did
DISCARD_MAX_BYTES = 16 * 1024 * 1024  # what it may still send meanwhile
NO_PONG = 3008  # registered as "timeout"
TOO_MANY_FRAMES = 4429  # a private code, after the HTTP status
# Each frame costs the parser some 60 µs, however little is in it: 1 MiB in frames of one byte is a minute of CPU.
FRAMES_PER_SECOND = 200
FRAMES_AT_ONCE = 1000


class NoThread:
    """Stands where simple-websocket starts its reading thread: here, whoever calls `receive` reads."""

    name = ""

    def __init__(self, target: Callable[[], None]) -> None:
        """Take no note of what the thread would do."""

    def start(self) -> None:
        """Start nothing."""


class BoundedServer(Server):
    """One greenlet receives, any number write. Nothing is read before it is wanted, nothing is queued for writing:
    who writes to a client that does not read waits, and the worker drops such a client.

    `ping_interval`: after so many seconds in which nothing was sent, the client is pinged. `pong_seconds`: so long it
    may then be silent. `max_message_size`: bytes of a whole message. Raises Refusal where the handshake is none.
    """

    sock: ClientSocket
    ping_interval: float
    max_message_size: int
    input_buffer: list[bytes]

    def __init__(self, environ: dict[str, Any], *, pong_seconds: float, **options: Any) -> None:
        self._pong_seconds = pong_seconds
        self._sent_at = time.monotonic()
        self._unanswered_since: float | None = None  # a ping
        self._message = bytearray()  # what has come of an unfinished one
        self._spare_frames = float(FRAMES_AT_ONCE)  # how many may come now
        self._counted_at = self._sent_at
        self._writing = Semaphore()
        self._sleeper = Sleeper()
        super().__init__(environ, thread_class=NoThread, **options)

    def handshake(self) -> None:
        """Accept the connection. Raises Refusal, which is answered as plain HTTP."""
        try:
            if self.environ["REQUEST_METHOD"] != "GET":
                raise RemoteProtocolError("simple-websocket takes every method for a GET")
            super().handshake()
        except ConnectionClosed:  # the client has left meanwhile: the first `receive` finds that out
            self.connected = True
        except (RemoteProtocolError, UnicodeError):  # the latter for what cannot be a host's name
            raise Refusal("bad_request", "This is no WebSocket handshake of version 13.") from None

    # -- reading ---------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None) -> bytes | None:
        """Return the next message, UTF-8. None: nothing came for `timeout` seconds, or somebody called `wake`, or it is
        just time to call again. Raises ConnectionClosed.
        """
        while not self.input_buffer:
            seconds = self._beat()
            if not self.connected:
                raise ConnectionClosed(self.close_reason, self.close_message)
            data = self._read(seconds if timeout is None else min(seconds, timeout))
            if data is None:
                return None
            self.connected = bool(data) and self._feed(data)
        return self.input_buffer.pop(0)

    def wake(self) -> None:
        """Let `receive` return."""
        self._sleeper.wake()

    def _beat(self) -> float:
        """Ping a client in silence, give up on one that answers none; return in how many seconds to look again."""
        now = time.monotonic()
        silent_until = self._sent_at + self.ping_interval
        if now >= silent_until:
            self._unanswered_since = self._unanswered_since or now
            self.write(PING)
            silent_until = self._sent_at + self.ping_interval
        if self._unanswered_since is None:
            return silent_until - now
        gives_up_at = self._unanswered_since + self._pong_seconds
        if now >= gives_up_at:
            self.close(NO_PONG, "No pong came.")
        return min(silent_until, gives_up_at) - now

    def _read(self, seconds: float) -> bytes | None:
        """Return what the client sends within so many seconds; b"" = it has gone, None = nothing, or `wake`."""
        watcher = get_hub().loop.io(self.sock.fileno(), READABLE)
        watcher.start(self._sleeper.wake)
        try:
            self._sleeper.sleep(max(0.0, seconds))
        finally:
            watcher.stop()
            watcher.close()
        return self.sock.take(READ_BYTES)

    def _feed(self, data: bytes) -> bool:
        self._unanswered_since = None
        self.ws.receive_data(data)
        return self._handle_events()

    def _handle_events(self) -> bool:
        """Take what has come; return whether the connection goes on."""
        replies, left, fault = bytearray(), False, None
        for event in self._counted_events():
            if isinstance(event, Request):
                headers = [(b"X-Request-Id", g.request_id.encode())]
                # Browsers take no answer that chooses none of those that they offered; a key among them is not echoed.
                chosen = SUBPROTOCOL if SUBPROTOCOL in event.subprotocols else None
                replies += self.ws.send(AcceptConnection(subprotocol=chosen, extra_headers=headers))
            elif isinstance(event, Ping):
                replies += self.ws.send(event.response())
            elif isinstance(event, TextMessage | BytesMessage):
                fault = self._take(event)
            elif isinstance(event, CloseConnection) and self.ws.state is ConnectionState.REMOTE_CLOSING:
                replies += self.ws.send(event.response())
                left = True
            elif isinstance(event, CloseConnection):
                fault = event  # bytes that are not the protocol; wsproto has chosen the code
            if left or fault:
                break
        if replies:
            with self._writing:
                self._send(replies)
        fault = fault or self._flood()
        if fault:
            self.close(fault.code, fault.reason)
        return not left and not fault

    def _counted_events(self) -> Iterator[Event]:
        for event in self.ws.events():
            # What has come of a long frame is an event too.
            self._spare_frames -= getattr(event, "frame_finished", True)
            yield event

    def _flood(self) -> CloseConnection | None:
        """Return the close that frames call for which come faster than they may."""
        now = time.monotonic()
        earned = (now - self._counted_at) * FRAMES_PER_SECOND
        self._spare_frames, self._counted_at = min(FRAMES_AT_ONCE, self._spare_frames + earned), now
        if self._spare_frames >= 0:
            return None
        return CloseConnection(TOO_MANY_FRAMES, f"Send at most {FRAMES_PER_SECOND} frames a second.")

    def _take(self, event: TextMessage | BytesMessage) -> CloseConnection | None:
        """Add a piece to the unfinished message; return the close that it calls for."""
        if isinstance(event, BytesMessage):
            return CloseConnection(CloseReason.UNSUPPORTED_DATA, "Messages are text.")
        self._message += event.data.encode()
        if len(self._message) > self.max_message_size:
            reason = f"A message has at most {self.max_message_size} bytes (MAX_BODY_BYTES)."
            return CloseConnection(CloseReason.MESSAGE_TOO_BIG, reason)
        if event.message_finished:
            self.input_buffer.append(bytes(self._message))
            self._message.clear()
        return None

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        """Write whole frames; wait while the client takes none. Raises ConnectionClosed."""
        with self._writing:
            if not self.connected:
                raise ConnectionClosed(self.close_reason, self.close_message)
            self._send(frames)

    def _send(self, data: bytes | bytearray) -> None:
        try:
            self.sock.sendall(data)
        except OSError:
            self.connected = False
            raise ConnectionClosed(CloseReason.ABNORMAL_CLOSURE) from None
        self._sent_at = time.monotonic()

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        """Say why and send nothing more; any number of times. Whoever receives then calls `await_close`."""
        with self._writing:
            if not self.connected:
                return
            self.connected = False
            self.input_buffer.clear()  # what was said behind it is not heard
            with contextlib.suppress(OSError):
                self.sock.sendall(self.ws.send(CloseConnection(reason or CloseReason.NORMAL_CLOSURE, message)))
            self.sock.drop(plain.SHUT_WR)
        self.wake()

    def await_close(self) -> None:
        """Wait until the client has closed too.

        A connection that is closed with the client's bytes unread is reset, and its last frames may be lost with it.
        """
        until, left_bytes = time.monotonic() + CLOSE_SECONDS, DISCARD_MAX_BYTES
        while left_bytes > 0 and (seconds := until - time.monotonic()) > 0:
            data = self._read(seconds)
            if data == b"":
                return
            left_bytes -= len(data or b"")
