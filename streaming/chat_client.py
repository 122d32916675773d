"""The transport of `flask chat`: starts a run at a relay and follows it across cut connections, over HTTP alone.

It knows nothing of the relay's inside, so that it is a client like any other; the wire's vocabulary is all it shares.

    ClientError      what the user is told in one line
      NoRelay        nothing listens there
      GaveUp         too many failures in a row
      Refused        the relay (or something else at that address) said no
"""

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec
import requests
import sseclient
import urllib3

from streaming.wire.events import End, Event, File, Reasoning, Replace, Token
from streaming.wire.jsontext import loads

_T = TypeVar("_T")

MAX_FAILURES = 8
"""Consecutive ones, about half a minute with the waits between them; whatever moves the answer on resets the count."""
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 8.0

# Connect, and the longest silence: a relay sends a heartbeat at least every 25 s, a stop answers within 5 s.
_TIMEOUT_SECONDS = (5, 60)
_READ_BYTES = 64 * 1024
# What a router in between says while the relay restarts.
_GATEWAY_STATUSES = {502, 503, 504}
# Tokens have no name on the wire, which SSE reads as "message". What is not listed only moves the cursor.
_EVENT_TYPES: dict[str, type[Event]] = {
    "message": Token,
    **{cls.type: cls for cls in (Reasoning, Replace, File, End)},
}


class ClientError(Exception):
    """Root of what ends a question early; `exit_code` is the command's."""

    exit_code = 1


class NoRelay(ClientError):
    """Nothing listens at the address."""


class GaveUp(ClientError):
    """Too many failures in a row."""


class Refused(ClientError):
    """An HTTP answer that trying again does not better; `code` is the relay's, "" where something else answered."""

    exit_code = 2

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class _Cut(Exception):
    """The connection, or what a router says about it, ended too early."""


_CUTS = (_Cut, OSError, urllib3.exceptions.HTTPError, ValueError)
"""What a broken connection looks like from here. Every error of requests is an OSError; text that is no JSON, no UTF-8
or no event is a ValueError: damage on the way is cured by reading it again."""


class Started(msgspec.Struct):
    """A run that began. The URLs are absolute."""

    run_id: str
    events_url: str
    stop_url: str
    conversation_id: str | None = None


class Snapshot(msgspec.Struct):
    """The relay's own copy of an answer; `end` is None while the run goes on."""

    text: str
    end: End | None = None


class Backoff:
    """Counts consecutive failures and waits longer after each. `sleep` takes seconds."""

    def __init__(self, place: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._place = place
        self._sleep = sleep
        self._failures = 0

    def reset(self) -> None:
        """Something went on."""
        self._failures = 0

    def wait(self, cause: Exception) -> None:
        """Wait before the next try. Raises GaveUp."""
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            last = _reason(cause) or cause
            raise GaveUp(
                f"gave up on {self._place} after {MAX_FAILURES} failures in a row; the last: {last}"
            ) from cause
        delay_seconds = min(FIRST_DELAY_SECONDS * 2 ** (self._failures - 1), LONGEST_DELAY_SECONDS)
        # Jitter: after a restart not every client comes back in the same moment.
        self._sleep(delay_seconds * random.uniform(0.5, 1))  # noqa: S311 (no secret)


class Follow:
    """Yields a run's events, each once and in order, whatever is cut; its `End` is the last.

    Iterating again goes on after the last event. Without an `End` it stops only where the relay says that there is
    nothing left (204). Raises Refused and GaveUp.
    """

    def __init__(self, session: requests.Session, events_url: str) -> None:
        self._session = session
        self._url = events_url
        self._last_id = 0

    def __iter__(self) -> Iterator[Event]:
        backoff = Backoff(self._url)
        while True:
            try:
                with contextlib.closing(self._connection()) as events:
                    for event in events:
                        backoff.reset()
                        if event is not None:
                            yield event
                        if isinstance(event, End):
                            return
                return
            except _CUTS as cause:
                backoff.wait(cause)

    def _connection(self) -> Generator[Event | None]:
        """Yield what one connection brings, None for an event of no interest; returns only on a 204."""
        headers = {"Accept": "text/event-stream"}
        if self._last_id:
            headers["Last-Event-ID"] = str(self._last_id)
        with self._session.get(
            self._url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS, allow_redirects=False
        ) as response:
            if response.status_code == 204:
                return
            # Even where the body is the relay's own: a resume is never refused for being busy.
            if response.status_code in _GATEWAY_STATUSES:
                raise _Cut(f"HTTP {response.status_code}")
            _check(response)
            for sse in sseclient.SSEClient(_read(response)).events():
                if not sse.id:
                    raise _Cut("an event without an id")
                seq, kind = int(sse.id), _EVENT_TYPES.get(sse.event)
                event = msgspec.convert(loads(sse.data), kind) if kind else None
                if seq > self._last_id:  # whatever a relay repeats is not shown twice
                    self._last_id = seq
                    yield event


def _read(response: requests.Response) -> Iterator[bytes]:
    """Yield bytes as they arrive; iter_content would wait for a full block unless the body is chunked.

    Raises _Cut at the body's end: an `End` comes before it, and sseclient-py, if it saw the end, would dispatch the
    half event that the cut left.
    """
    while chunk := response.raw.read1(_READ_BYTES, decode_content=True):
        yield chunk
    raise _Cut("the stream broke off before its end")


class Relay:
    """A running relay at a base URL. Every call is tried again after a cut, so each must be safe to repeat."""

    def __init__(self, session: requests.Session, url: str, api_key: str | None = None) -> None:
        self._session = session
        self._url = url.rstrip("/")
        # No compression: some proxies hold a compressed stream back. A proxy from the environment would be asked for
        # its own loopback address.
        session.headers["Accept-Encoding"] = "identity"
        session.trust_env = urlsplit(url).hostname not in {"127.0.0.1", "localhost", "::1"}
        if api_key:
            session.headers["Authorization"] = f"Bearer {api_key.strip()}"

    def start(self, ask: dict[str, Any]) -> Started:
        """Begin a run. The idempotency key makes a repeated POST attach to the run of the first."""
        url = f"{self._url}/runs"
        run = self._call("POST", url, Started, json=ask, headers={"Idempotency-Key": str(uuid.uuid4())})
        run.events_url, run.stop_url = urljoin(url, run.events_url), urljoin(url, run.stop_url)
        return run

    def follow(self, run: Started) -> Follow:
        """Return the run's events from the first on."""
        return Follow(self._session, run.events_url)

    def stop(self, run: Started) -> None:
        """Ask for the end; it comes as an event."""
        self._call("POST", run.stop_url, dict)

    def snapshot(self, run: Started) -> Snapshot:
        """Return what the relay holds of the answer."""
        return self._call("GET", f"{self._url}/runs/{run.run_id}", Snapshot)

    def _call(self, method: str, url: str, shape: type[_T], **options: Any) -> _T:
        backoff, first = Backoff(self._url), True
        while True:
            try:
                # A followed redirect would turn the POST into a GET.
                response = self._session.request(
                    method, url, timeout=_TIMEOUT_SECONDS, allow_redirects=False, **options
                )
                _check(response)
                break
            except _CUTS as cause:
                # At the first try nothing was begun, and waiting would only hide that the address is wrong.
                if first and isinstance(_reason(cause), urllib3.exceptions.NewConnectionError):
                    raise NoRelay(f"no relay answers at {self._url}; start one with `make run`") from cause
                first = False
                backoff.wait(cause)
        try:
            return msgspec.convert(loads(response.content.decode()), shape)
        except ValueError as error:
            raise Refused(f"what answers at {url} is no relay that this client knows") from error


def _reason(cause: Exception) -> Any:
    """Return the error that requests and urllib3 wrapped (their own text is a paragraph), or None."""
    return getattr(cause.args[0], "reason", None) if cause.args else None


def _check(response: requests.Response) -> None:
    """Raise Refused, or _Cut where a router between us and the relay says so."""
    status = response.status_code
    if status < 300:
        return
    error = _refusal(response)
    if not error:
        if status in _GATEWAY_STATUSES:
            raise _Cut(f"HTTP {status}")
        raise Refused(f"HTTP {status} at {response.url}, and not from a relay")
    retry_after = response.headers.get("Retry-After")
    raise Refused(
        f"refused (HTTP {status} {error.get('code')}): {error.get('message')}"
        + (f" Try again in {retry_after} s." if retry_after else "")
        + f" [request {error.get('request_id')}]",
        code=str(error.get("code", "")),
    )


def _refusal(response: requests.Response) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        body = loads(response.content.decode())
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            error: dict[str, Any] = body["error"]
            return error
    return None
