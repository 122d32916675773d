"""What every route works with; create_app puts it into the app's extensions."""

import secrets
from typing import TYPE_CHECKING, cast

from flask import Flask, Request, current_app, g, request
from gevent.lock import BoundedSemaphore
from werkzeug.local import LocalProxy

from streaming.capacity import Capacity
from streaming.relay.allowance import Allowance
from streaming.relay.apps import Apps
from streaming.relay.caller import Caller
from streaming.relay.chats import Chats
from streaming.relay.levels import Meter
from streaming.relay.observing import Observer
from streaming.relay.runs import Runs
from streaming.web.guard import Guard, with_request
from streaming.web.streams import StreamSettings
from streaming.web.turnstile import Turnstile
from streaming.web.upload_slots import UploadSlots
from streaming.wire.trace import Trace

if TYPE_CHECKING:
    from streaming.metrics import Metrics
    from streaming.traces import Traces

_APP, _REQUEST = cast("LocalProxy[Flask]", current_app), cast("LocalProxy[Request]", request)
PROBES_AT_ONCE = 16  # anybody may probe, and each holds a connection for up to an hour and a half


class Relay:
    """The parts, and the settings that more than one route needs. Fields are settings of the same names.

    `room`: how many connections fit, and from how many on it is nearly full. `traces` None = none are recorded.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        guard: Guard,
        allowance: Allowance,
        chats: Chats,
        apps: Apps,
        stream_settings: StreamSettings,
        chat_wait_seconds: float,
        write_timeout_seconds: float,
        ws_idle_seconds: float,
        shutdown_grace_seconds: float,
        room: Capacity,
        max_body_bytes: int,
        max_upload_bytes: int,
        embed_origins: tuple[str, ...],
        observer: Observer,
        metrics: "Metrics",
        meter: Meter,
        traces: "Traces | None",
        cors_origins: tuple[str, ...],
    ) -> None:
        self.runs = runs
        self.guard = guard
        self.allowance = allowance
        self.chats = chats
        self.apps = apps
        self.stream_settings = stream_settings
        self.chat_wait_seconds = chat_wait_seconds
        self.write_timeout_seconds = write_timeout_seconds
        self.ws_idle_seconds = ws_idle_seconds
        self.shutdown_grace_seconds = shutdown_grace_seconds
        self.max_body_bytes = max_body_bytes
        self.max_upload_bytes = max_upload_bytes
        self.embed_origins = embed_origins
        self.cors_origins = cors_origins
        self.observer = observer
        self._metrics = metrics
        self._meter = meter
        self._traces = traces
        self._connections = 0
        self.upload_slots = UploadSlots()
        self._turnstile = Turnstile()
        self.probe_slots = BoundedSemaphore(PROBES_AT_ONCE)
        self.nearly_full = False  # soon there will be no place for new clients
        self.idle_places = room.idle_places
        self._nearly_full_at, self._crowded_at = room.nearly_full_at, room.crowded_at  # asked for twice a connection

    def count_connections(self, number: int) -> None:
        """Take note of how many clients are connected; close to the limit only resumes are let in."""
        self._connections = number
        self.nearly_full = number >= self._nearly_full_at
        self.runs.crowded = number >= self._crowded_at

    def await_turn(self) -> None:
        """Return when a refusal may leave; at once where connections run out, because whoever waits holds one."""
        if not self.nearly_full:
            self._turnstile.wait()

    def measure(self) -> None:
        """Tell the metrics how full this process is."""
        self._metrics.measure(self._meter.read(), self._connections, self._crowded_at)

    def exposition(self) -> tuple[bytes, str]:
        """Return what Prometheus reads, of all workers, and its media type."""
        self.measure()
        return self._metrics.exposition()

    def new_trace(self) -> Trace | None:
        """Return a trace for a request that came with none; None where nobody would record it."""
        return Trace(trace_id=secrets.token_hex(16), span_id=secrets.token_hex(8)) if self._traces else None

    def close(self) -> None:
        """Let the last spans go, for the end of the process."""
        if self._traces is not None:
            self._traces.close()


def current_relay() -> Relay:
    """Return the relay of the app that serves the current request."""
    relay = _APP._get_current_object().extensions["sluice"]  # see current_request
    assert isinstance(relay, Relay)
    return relay


def current_request() -> Request:
    """Return the current request itself: through Flask's stand-in each use of it costs three more calls."""
    return _REQUEST._get_current_object()


def current_caller(*, visitors_too: bool = False) -> Caller:
    """Return who asks; `visitors_too`: a visitor's token will do. Raises Refusal: unauthorized, forbidden."""
    caller = current_relay().guard.caller(current_request(), visitors_too=visitors_too)
    return with_request(caller, g.request_id, g.trace)
