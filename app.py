"""Puts the relay together. `python app.py` serves it with gunicorn; `gunicorn app:app` does the same."""

import logging
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from flask import Flask
from gevent import monkey

from streaming.capacity import capacity
from streaming.chat import chat
from streaming.dotenv import load_dotenv
from streaming.relay.apps import Apps
from streaming.relay.chats import Chats
from streaming.relay.conversations import Conversations
from streaming.relay.demo import DemoUpstream
from streaming.relay.dify_calls import DifyCalls
from streaming.relay.exchange import HttpUpstream
from streaming.relay.runs import Bounds, Runs
from streaming.relay.store import Store
from streaming.relay.stores.memory import MemoryStore
from streaming.relay.upstream import Limits, Session, Upstream
from streaming.settings import Settings, SettingsError
from streaming.tracebacks import QuietFormatter
from streaming.upstream_settings import UpstreamSettings
from streaming.web import compression, errors, origins
from streaming.web.ai_sdk import ai_sdk
from streaming.web.feedback import feedback
from streaming.web.files import files
from streaming.web.openai_api import openai_api
from streaming.web.page import page
from streaming.web.relay import Relay
from streaming.web.routes import routes
from streaming.web.streams import StreamSettings
from streaming.web.upstreams import upstreams
from streaming.web.websocket import websocket
from streaming.wire.dialects import Dialect
from streaming.wire.dialects.dify import Dify
from streaming.wire.dialects.dify_app import DifyApp
from streaming.wire.dialects.openai import OpenAI

if TYPE_CHECKING:
    from streaming.relay.elsewhere import Elsewhere

ROOT = Path(__file__).parent
log = logging.getLogger("sluice")


def load_settings() -> Settings:
    """Return the settings of the environment and of `.env` beside this file; exit with what is wrong with them."""
    try:
        return Settings.from_env(load_dotenv(ROOT / ".env", os.environ))
    except SettingsError as error:
        sys.exit(f"Sluice cannot start:\n{error}")


def create_app(settings: Settings | None = None) -> Flask:
    """Return the WSGI application. Nothing else composes anything; without `settings` the environment counts."""
    app = Flask(__name__)
    app.cli.add_command(chat)
    errors.install(app)
    app.register_blueprint(routes)
    app.register_blueprint(openai_api)
    app.register_blueprint(page)
    app.register_blueprint(ai_sdk)
    app.register_blueprint(websocket)
    app.register_blueprint(upstreams)
    app.register_blueprint(files)
    app.register_blueprint(feedback)
    if settings is None and _is_flask_command():  # `flask chat` talks to a running relay and needs none of its own
        return app
    if not monkey.is_module_patched("socket"):
        raise RuntimeError("gevent has not patched this process: serve with `make run` or `gunicorn app:app`.")
    settings = settings or load_settings()
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = settings.max_body_bytes
    compression.install(app, settings.compress)
    origins.install(app, settings.cors_origins)
    app.config["SOCK_SERVER_OPTIONS"] = {
        "ping_interval": settings.heartbeat_seconds,
        "pong_seconds": settings.write_timeout_seconds,
        "max_message_size": settings.max_body_bytes,
    }
    app.extensions["sluice"] = _relay(settings)
    return app


def _is_flask_command() -> bool:
    """Return whether the `flask` command is loading the app; its own server is refused, as it is not patched."""
    context = click.get_current_context(silent=True)
    if context is not None and context.info_name == "run":
        raise click.UsageError("flask's own server cannot stream many answers at once; use `make run`.")
    return os.environ.get("FLASK_RUN_FROM_CLI") == "true"


def _relay(settings: Settings) -> Relay:
    others = _others(settings) if settings.redis_url else None
    store: Store = others.store if others is not None else MemoryStore()
    session, limits = Session(), _limits(settings)
    conversations = Conversations(
        store,
        ttl_seconds=settings.conversation_ttl_seconds,
        max_turns=settings.conversation_max_turns,
        claim_seconds=settings.run_max_seconds + 60,
        is_over=others.is_over if others is not None else lambda run_id: False,
    )
    room = capacity(settings.max_runs, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if room.runs < settings.max_runs:
        log.warning("MAX_RUNS=%d does not fit the limit of open files: %d it is.", settings.max_runs, room.runs)
    bounds = Bounds(
        max_runs=room.runs,
        max_tries=settings.max_tries,
        run_max_bytes=settings.run_max_bytes,
        log_max_bytes=settings.log_max_bytes,
        run_ttl_seconds=settings.run_ttl_seconds,
        run_max_seconds=settings.run_max_seconds,
        disconnect_grace_seconds=settings.disconnect_grace_seconds,
    )
    calls = _calls(settings, session, limits, store)
    known = [_upstream(each, session, limits, calls.get(each.name)) for each in settings.upstreams]
    runs = Runs(upstreams=known, store=store, conversations=conversations, bounds=bounds, others=others)
    if any(upstream.dialect_name == "demo" for upstream in known):
        log.warning("The built-in demo upstream answers: no model is behind it. Set UPSTREAM for real answers.")
    stream_settings = StreamSettings(
        heartbeat_seconds=settings.heartbeat_seconds,
        retry_ms=settings.retry_ms,
        stream_max_seconds=settings.stream_max_seconds,
        flush_ms=settings.flush_ms,
        compress=settings.compress,
    )
    chat_seconds = max(settings.conversation_ttl_seconds, settings.run_ttl_seconds) + settings.run_max_seconds
    return Relay(
        runs=runs,
        chats=Chats(store, ttl_seconds=chat_seconds),
        apps=Apps([upstream.name for upstream in known], calls, conversations),
        stream_settings=stream_settings,
        chat_wait_seconds=settings.chat_wait_seconds,
        write_timeout_seconds=settings.write_timeout_seconds,
        ws_idle_seconds=settings.ws_idle_seconds,
        shutdown_grace_seconds=settings.shutdown_grace_seconds,
        crowded_at_connections=room.crowded_at,
        max_upload_bytes=settings.max_upload_bytes,
        embed_origins=settings.embed_origins,
        cors_origins=settings.cors_origins,
    )


def _others(settings: Settings) -> "Elsewhere":
    """Return what this worker shares with others, started. Without Redis nothing of it is even imported."""
    from streaming.relay.elsewhere import Elsewhere

    others = Elsewhere(
        settings.redis_url,
        tls_insecure=settings.redis_tls_insecure,
        run_seconds=settings.run_max_seconds,
        ttl_seconds=settings.run_ttl_seconds,
    )
    others.start()
    return others


def _limits(settings: Settings) -> Limits:
    return Limits(
        connect_seconds=settings.connect_timeout_seconds,
        idle_seconds=settings.idle_timeout_seconds,
        progress_seconds=settings.progress_timeout_seconds,
    )


def _calls(settings: Settings, session: Session, limits: Limits, store: Store) -> dict[str, DifyCalls]:
    users, user_seconds = store.keys("message-users"), settings.run_ttl_seconds + 60
    return {
        each.name: DifyCalls(
            each.name,
            DifyApp(url=each.url, api_key=each.api_key),
            session,
            limits,
            users=users,
            user_seconds=user_seconds,
        )
        for each in settings.upstreams
        if each.dialect == "dify"
    }


def _upstream(settings: UpstreamSettings, session: Session, limits: Limits, app: DifyCalls | None) -> Upstream:
    dialect: Dialect
    if settings.dialect == "demo":
        return DemoUpstream(settings.name)
    if settings.dialect == "dify":
        dialect = Dify(
            url=settings.url,
            api_key=settings.api_key,
            mode=settings.dify_mode,
            prompt_input=settings.dify_prompt_input,
        )
    else:
        dialect = OpenAI(
            url=settings.url,
            api_key=settings.api_key,
            model=settings.model,
            models=settings.models,
            auth_header=settings.auth_header,
            system_prompt=settings.system_prompt,
            include_usage=settings.include_usage,
        )
    return HttpUpstream(settings.name, settings.dialect, dialect, session, limits, app)


def __getattr__(name: str) -> Any:
    """Make `gunicorn app:app` work although importing this module starts nothing."""
    if name != "app":
        raise AttributeError(name)
    handler = logging.StreamHandler()
    handler.setFormatter(QuietFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return create_app()


if __name__ == "__main__":
    load_settings()  # what is wrong is said at once, not from inside a worker
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "app:app"])
