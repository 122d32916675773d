"""A configured upstream, and the HTTP side of calling it: one session, connections kept, failures named.

An Exchange (exchange.py) is one call; this file knows everything that calls share.
"""

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Protocol

import gevent
import msgspec
import requests
import urllib3
from gevent.local import local
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from streaming.wire.ask import Ask, Context
from streaming.wire.dialects import Request, Verdict
from streaming.wire.errors import Failure
from streaming.wire.events import Event

POOL_MAX_CONNECTIONS = 512  # kept for reuse; more may be open
DEAD_CONNECTION_SECONDS = 1.0
REFUSAL_MAX_BYTES = 64 * 1024  # an error page longer than this tells nothing more
REFUSAL_READ_SECONDS = 2.0  # llama.cpp says `Connection: close` on errors and stays open


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


_connected = local()  # .milliseconds of the connect made by the current greenlet; absent = a kept connection was used


class _Timed:
    """Measures connecting, and so tells a new connection from a kept one; notes when the answer's first byte comes."""

    def connect(self) -> None:
        begun = time.monotonic()
        super().connect()  # type: ignore[misc]
        _connected.milliseconds = (time.monotonic() - begun) * 1000

    def getresponse(self) -> Any:
        sock = self.sock  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):  # what is wrong is told by the reading itself
            _connected.byte_came = isinstance(sock, ssl.SSLSocket) or bool(sock.recv(1, socket.MSG_PEEK))
        return super().getresponse()  # type: ignore[misc]


class _TimedHTTPConnection(_Timed, HTTPConnection):
    pass


class _TimedHTTPSConnection(_Timed, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _TimedHTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _TimedHTTPSConnection


class Opened(msgspec.Struct):
    """An answer whose headers have come. `connect_ms` None: on a kept connection."""

    response: requests.Response
    connect_ms: float | None


class Session:
    """The one HTTP client of the process."""

    def __init__(self) -> None:
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings quote URLs, and their queries hold keys
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, netrc or CA variable may redirect prompts and keys by surprise
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = HTTPAdapter(pool_connections=32, pool_maxsize=POOL_MAX_CONNECTIONS, max_retries=0)
        adapter.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def open(self, request: Request, limits: Limits) -> Opened:
        """Send the request and return when the headers have come. Raises Failure.

        A kept connection may have died unnoticed: if it breaks before one byte has come, the call is made once more
        on a new one, as llama.cpp needs (it promises keep-alive and closes). Nothing else is retried here.
        """
        begun = time.monotonic()
        try:
            return self._send(request, limits)
        except _DeadConnection:
            # It shows at once; one that lived for a while had the request, and may have begun.
            if time.monotonic() - begun > DEAD_CONNECTION_SECONDS:
                raise Failure("upstream_truncated") from None
            return self._send(request, limits)

    def _send(self, request: Request, limits: Limits) -> Opened:
        _connected.__dict__.clear()
        try:
            response = self._session.request(
                request.method,
                request.url,
                data=request.body,
                headers={"Accept-Encoding": "identity", "User-Agent": "sluice", **request.headers},
                stream=True,
                timeout=(limits.connect_seconds, limits.idle_seconds),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._failure(error) from None
        connect_ms = getattr(_connected, "milliseconds", None)
        return Opened(response, connect_ms)

    def _failure(self, error: requests.RequestException) -> Exception:
        if isinstance(error, requests.ConnectTimeout):
            return Failure("upstream_unreachable", remedy="retry")
        if isinstance(error, requests.ReadTimeout):
            return Failure("upstream_timeout")
        cause = error.args[0] if error.args else None
        if isinstance(cause, urllib3.exceptions.ProtocolError):  # the connection was there and broke
            was_alive = hasattr(_connected, "milliseconds") or getattr(_connected, "byte_came", False)
            return Failure("upstream_truncated") if was_alive else _DeadConnection()
        if isinstance(error, requests.ConnectionError):
            return Failure("upstream_unreachable", remedy="retry")
        return Failure("upstream_invalid")  # a URL or an answer that is no HTTP

    def close(self) -> None:
        """Close the kept connections."""
        self._session.close()


class _DeadConnection(Exception):
    """A kept connection broke before one byte came."""


def read_refusal(response: requests.Response, max_bytes: int = REFUSAL_MAX_BYTES) -> bytes:
    """Return a short answer's body, an error's above all, bounded in size and time; let the connection go."""
    body = b""
    try:
        with gevent.Timeout(REFUSAL_READ_SECONDS, False):
            while len(body) < max_bytes and (piece := response.raw.read1(8192, decode_content=True)):
                body += piece
    except (urllib3.exceptions.HTTPError, OSError):
        pass  # the status alone says enough
    finally:
        response.close()
    return body
