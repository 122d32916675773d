"""What every route works with; create_app puts it into the app's extensions."""

from flask import current_app, g

from streaming.relay.apps import Apps
from streaming.relay.chats import Chats
from streaming.relay.runs import Caller, Runs
from streaming.web.streams import StreamSettings
from streaming.web.upload_slots import UploadSlots


class Relay:
    """The parts, and the settings that more than one route needs. Fields are settings of the same names."""

    def __init__(
        self,
        *,
        runs: Runs,
        chats: Chats,
        apps: Apps,
        stream_settings: StreamSettings,
        chat_wait_seconds: float,
        write_timeout_seconds: float,
        ws_idle_seconds: float,
        shutdown_grace_seconds: float,
        crowded_at_connections: int,
        max_upload_bytes: int,
        embed_origins: tuple[str, ...],
        cors_origins: tuple[str, ...],
    ) -> None:
        self.runs = runs
        self.chats = chats
        self.apps = apps
        self.stream_settings = stream_settings
        self.chat_wait_seconds = chat_wait_seconds
        self.write_timeout_seconds = write_timeout_seconds
        self.ws_idle_seconds = ws_idle_seconds
        self.shutdown_grace_seconds = shutdown_grace_seconds
        self.max_upload_bytes = max_upload_bytes
        self.embed_origins = embed_origins
        self.cors_origins = cors_origins
        self.upload_slots = UploadSlots()
        self._crowded_at_connections = crowded_at_connections

    def count_connections(self, number: int) -> None:
        """Take note of how many clients are connected; close to the limit only resumes are let in."""
        self.runs.crowded = number >= self._crowded_at_connections


def current_relay() -> Relay:
    """Return the relay of the app that serves the current request."""
    relay = current_app.extensions["sluice"]
    assert isinstance(relay, Relay)
    return relay


def current_caller() -> Caller:
    """Return who asks."""
    return Caller(request_id=g.request_id)
