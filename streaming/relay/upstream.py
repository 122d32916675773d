"""A configured upstream, and the HTTP side of calling it: one session, connections kept, failures named.

An Exchange (exchange.py) is one call; this file knows everything that calls share.
"""

import time
from collections.abc import Callable
from typing import Protocol

import msgspec
import requests

from streaming.relay.connections import Connection, ConnectionBroken, Connections, Target, target_of
from streaming.wire import http1
from streaming.wire.ask import Ask, Context
from streaming.wire.dialects import Request, Verdict
from streaming.wire.errors import Failure
from streaming.wire.events import Event

DEAD_CONNECTION_SECONDS = 1.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long an upstream may take, in seconds."""

    connect_seconds: float
    idle_seconds: float  # without a byte
    progress_seconds: float  # without an event: keep-alives do not count


class Sink(msgspec.Struct, frozen=True):
    """Where an exchange puts what it gets.

    `accepted(connect_ms)`: the upstream has taken the call. `append(event)` may raise
    Failure("run_too_large").
    """

    accepted: Callable[[float | None], None]
    append: Callable[[Event], None]


class Exchange(Protocol):
    """One call to one upstream."""

    @property
    def upstream_stop(self) -> str | None:
        """Return what `end.upstream_stop` tells."""

    @property
    def conversation_id(self) -> str | None:
        """Return the upstream's own conversation id."""

    def run(self) -> Verdict:
        """Make the call and feed the sink until the upstream's last word. Raises Failure, or Interrupted after stop."""

    def stop(self, within_seconds: float) -> None:
        """Stop the upstream. Returns at once; `run` then returns or raises within that time. Again: a shorter time."""

    def close(self) -> None:
        """Give the connection back or close it. Called after the run's end, so it delays nobody."""


class Upstream(Protocol):
    """A configured LLM API."""

    @property
    def name(self) -> str:
        """Return the name it is asked by."""

    @property
    def dialect_name(self) -> str:
        """Return openai, dify or demo."""

    @property
    def model(self) -> str | None:
        """See Dialect."""

    @property
    def models(self) -> tuple[str, ...]:
        """See Dialect."""

    @property
    def history(self) -> str:
        """See Dialect."""

    def check(self, ask: Ask) -> None:
        """Raise AskError where the ask needs something this upstream does not have."""

    def exchange(self, ask: Ask, context: Context, sink: Sink) -> Exchange:
        """Return a call that has not begun."""


class Opened:
    """An answer whose head has come. `rest`: what has come of its body. `connect_ms` None: on a kept connection.

    `close` it.
    """

    __slots__ = ("_connection", "_connections", "connect_ms", "head", "rest", "socket")

    def __init__(self, head: http1.Head, rest: bytes, connection: Connection, connections: Connections) -> None:
        self.head = head
        self.rest = rest
        self.socket = connection.socket
        self.connect_ms = connection.connect_ms
        self._connection: Connection | None = connection
        self._connections = connections

    def close(self, *, reusable: bool = False) -> None:
        """Let go of the connection, any number of times; it is kept if the body leaves it `reusable`."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if reusable and not self.head.closes:
            self._connections.keep(connection)
        else:
            connection.close()


class Session:
    """The one HTTP client of the process.

    It knows no proxy, netrc, cookie or redirect: nothing in the environment, and no upstream, can send prompts and
    keys elsewhere.
    """

    def __init__(self) -> None:
        self._connections = Connections()

    def open(self, request: Request, limits: Limits) -> Opened:
        """Send the request and return when the answer's head has come. Raises Failure.

        A kept connection may have died unnoticed: if it breaks before one byte has come, the call is made once more
        on a new one, as llama.cpp needs (it promises keep-alive and closes). Nothing else is retried here.
        """
        try:
            target = target_of(request.url)
            message = _message(request, target)
        except (requests.RequestException, http1.BadHead):
            raise Failure("upstream_invalid") from None
        begun = time.monotonic()
        if (connection := self._connections.kept(target.server)) is not None:
            try:
                return self._ask(connection, message, request, limits)
            except _DeadConnection:
                # It shows at once; one that lived for a while had the request, and may have begun.
                if time.monotonic() - begun > DEAD_CONNECTION_SECONDS:
                    raise Failure("upstream_truncated") from None
        try:
            connection = self._connections.new(target.server, limits.connect_seconds)
        except OSError:
            raise Failure("upstream_unreachable", remedy="retry") from None
        except UnicodeError:  # no name that could exist
            raise Failure("upstream_invalid") from None
        return self._ask(connection, message, request, limits)

    def _ask(self, connection: Connection, message: bytes, request: Request, limits: Limits) -> Opened:
        try:
            head, rest = connection.ask(message, request.body, limits.idle_seconds)
        except TimeoutError:
            connection.close()
            raise Failure("upstream_timeout") from None
        except ConnectionBroken as broken:
            connection.close()
            was_alive = broken.byte_came or connection.connect_ms is not None
            raise (Failure("upstream_truncated") if was_alive else _DeadConnection()) from None
        except BaseException:  # the run is stopped, or its time is over
            connection.close()
            raise
        return Opened(head, rest, connection, self._connections)

    def close(self) -> None:
        """Close the kept connections."""
        self._connections.close()


class _DeadConnection(Exception):
    """A kept connection broke before one byte came."""


def _message(request: Request, target: Target) -> bytes:
    headers = {"Host": target.host, "User-Agent": "sluice", "Accept": "*/*", "Accept-Encoding": "identity"}
    if request.body or request.method == "POST":
        headers["Content-Length"] = str(len(request.body))
    return http1.request_head(request.method, target.path, headers | request.headers)
