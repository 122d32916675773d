"""Puts the relay together. `python app.py` serves it with gunicorn; `gunicorn app:app` does the same."""

import logging
import os
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from flask import Flask
from gevent import monkey

from streaming import access
from streaming.capacity import capacity
from streaming.chat import chat
from streaming.doctor.command import doctor_command
from streaming.dotenv import load_dotenv
from streaming.lines import Lines
from streaming.relay.apps import Apps
from streaming.relay.chats import Chats
from streaming.relay.conversations import Conversations
from streaming.relay.demo import DemoUpstream
from streaming.relay.dify_calls import DifyCalls
from streaming.relay.exchange import HttpUpstream
from streaming.relay.levels import Meter
from streaming.relay.observing import Observer, each_of
from streaming.relay.owners import Owners
from streaming.relay.runs import Bounds, Runs
from streaming.relay.store import Store
from streaming.relay.stores.memory import MemoryStore
from streaming.relay.upstream import Limits, Session, Upstream
from streaming.settings import Settings, SettingsError
from streaming.upstream_settings import UpstreamSettings
from streaming.web import compression, errors, origins
from streaming.web.ai_sdk import ai_sdk
from streaming.web.early_refusals import EarlyRefusals
from streaming.web.feedback import feedback
from streaming.web.files import files
from streaming.web.openai_api import openai_api
from streaming.web.openapi.description import openapi
from streaming.web.page import page
from streaming.web.plain_app import PlainApp
from streaming.web.probe import probe
from streaming.web.relay import Relay
from streaming.web.routes import routes
from streaming.web.scrape import scrape
from streaming.web.streams import StreamSettings
from streaming.web.upstreams import upstreams
from streaming.web.visiting import visiting
from streaming.web.websocket import websocket
from streaming.wire.dialects import Dialect
from streaming.wire.dialects.dify import Dify
from streaming.wire.dialects.dify_app import DifyApp
from streaming.wire.dialects.openai import OpenAI

if TYPE_CHECKING:
    from streaming.metrics import Metrics
    from streaming.relay.elsewhere import Elsewhere
    from streaming.traces import Traces

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
    app = PlainApp(__name__)
    app.cli.add_command(chat)
    app.cli.add_command(doctor_command(lambda: load_dotenv(ROOT / ".env", os.environ), _dialect))
    errors.install(app)
    app.register_blueprint(routes)
    app.register_blueprint(scrape)
    app.register_blueprint(openai_api)
    app.register_blueprint(page)
    app.register_blueprint(visiting)
    app.register_blueprint(ai_sdk)
    app.register_blueprint(websocket)
    app.register_blueprint(upstreams)
    app.register_blueprint(files)
    app.register_blueprint(feedback)
    app.register_blueprint(probe)
    app.register_blueprint(openapi)
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
    relay = app.extensions["sluice"] = _relay(settings)
    # Where Flask wants middleware to be put; mypy takes it for a method that is written over.
    app.wsgi_app = EarlyRefusals(app.wsgi_app, relay, compresses=settings.compress != "off")  # type: ignore[method-assign]
    return app


def _is_flask_command() -> bool:
    """Return whether the `flask` command is loading the app; its own server is refused, as it is not patched."""
    context = click.get_current_context(silent=True)
    if context is not None and context.info_name == "run":
        raise click.UsageError("flask's own server cannot stream many answers at once; use `make run`.")
    return os.environ.get("FLASK_RUN_FROM_CLI") == "true"


def _relay(settings: Settings) -> Relay:
    metrics, traces = _metrics(settings), _traces(settings)
    observer = each_of(metrics, Lines(settings.log_sample), *([traces] if traces else []))
    others = _others(settings, observer) if settings.redis_url else None
    store: Store = others.store if others is not None else MemoryStore()
    session, limits = Session(), _limits(settings)
    conversations = _conversations(settings, store, others)
    room = capacity(settings.max_runs, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if room.runs < settings.max_runs:
        log.warning("MAX_RUNS=%d does not fit the limit of open files: %d it is.", settings.max_runs, room.runs)
    served = access.served(settings)
    calls = _calls(served, session, limits, store, settings.run_ttl_seconds + 60)
    known = [_upstream(each, session, limits, calls.get(each.name)) for each in served]
    allowance = access.allowance(settings, store)
    kept_seconds = max(settings.conversation_ttl_seconds, settings.run_ttl_seconds) + settings.run_max_seconds
    owners = Owners(store, ttl_seconds=kept_seconds)
    runs = Runs(
        upstreams=known,
        store=store,
        conversations=conversations,
        bounds=_bounds(settings, room.runs),
        allowance=allowance,
        owners=owners,
        others=others,
        observer=observer,
    )
    if any(upstream.dialect_name == "demo" for upstream in known):
        log.warning("The built-in demo upstream answers: no model is behind it. Set UPSTREAM for real answers.")
    return Relay(
        runs=runs,
        guard=access.guard(settings, demo_only=all(each.dialect == "demo" for each in served)),
        allowance=allowance,
        chats=Chats(store, ttl_seconds=kept_seconds),
        apps=Apps([upstream.name for upstream in known], calls, conversations, allowance=allowance, owners=owners),
        stream_settings=_stream_settings(settings, observer),
        chat_wait_seconds=settings.chat_wait_seconds,
        write_timeout_seconds=settings.write_timeout_seconds,
        ws_idle_seconds=settings.ws_idle_seconds,
        shutdown_grace_seconds=settings.shutdown_grace_seconds,
        room=room,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        embed_origins=settings.embed_origins,
        observer=observer,
        metrics=metrics,
        meter=Meter(runs, store, others, runs_limit=room.runs, log_limit_bytes=settings.log_max_bytes),
        traces=traces,
        cors_origins=settings.cors_origins,
    )


def _metrics(settings: Settings) -> "Metrics":
    """Return this worker's metrics. Their library looks when it is imported whether several workers count together."""
    from streaming.metrics import Metrics

    return Metrics([each.name for each in settings.upstreams], os.environ.get("PROMETHEUS_MULTIPROC_DIR"))


def _traces(settings: Settings) -> "Traces | None":
    """Return who exports traces, None where nobody collects them: then nothing of it is even imported."""
    if not settings.otel_exporter_otlp_endpoint:
        return None
    try:
        from streaming.traces import Traces
    except ImportError:
        log.error(
            "No traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        )
        return None
    return Traces(settings.otel_exporter_otlp_endpoint)


def _others(settings: Settings, observer: Observer) -> "Elsewhere":
    """Return what this worker shares with others, started. Without Redis nothing of it is even imported."""
    from streaming.relay.elsewhere import Elsewhere

    others = Elsewhere(
        settings.redis_url,
        tls_insecure=settings.redis_tls_insecure,
        run_seconds=settings.run_max_seconds,
        ttl_seconds=settings.run_ttl_seconds,
        observer=observer,
    )
    others.start()
    return others


def _stream_settings(settings: Settings, observer: Observer) -> StreamSettings:
    return StreamSettings(
        heartbeat_seconds=settings.heartbeat_seconds,
        retry_ms=settings.retry_ms,
        stream_max_seconds=settings.stream_max_seconds,
        flush_ms=settings.flush_ms,
        compress=settings.compress,
        observer=observer,
    )


def _conversations(settings: Settings, store: Store, others: "Elsewhere | None") -> Conversations:
    return Conversations(
        store,
        ttl_seconds=settings.conversation_ttl_seconds,
        max_turns=settings.conversation_max_turns,
        claim_seconds=settings.run_max_seconds + 60,
        is_over=others.is_over if others is not None else lambda run_id: False,
    )


def _bounds(settings: Settings, max_runs: int) -> Bounds:
    return Bounds(
        max_runs=max_runs,
        max_tries=settings.max_tries,
        run_max_bytes=settings.run_max_bytes,
        log_max_bytes=settings.log_max_bytes,
        run_ttl_seconds=settings.run_ttl_seconds,
        run_max_seconds=settings.run_max_seconds,
        disconnect_grace_seconds=settings.disconnect_grace_seconds,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        connect_seconds=settings.connect_timeout_seconds,
        idle_seconds=settings.idle_timeout_seconds,
        progress_seconds=settings.progress_timeout_seconds,
    )


def _calls(
    served: Iterable[UpstreamSettings], session: Session, limits: Limits, store: Store, user_seconds: float
) -> dict[str, DifyCalls]:
    users = store.keys("message-users")
    return {
        each.name: DifyCalls(
            each.name,
            DifyApp(url=each.url, api_key=each.api_key),
            session,
            limits,
            users=users,
            user_seconds=user_seconds,
        )
        for each in served
        if each.dialect == "dify"
    }


def _upstream(settings: UpstreamSettings, session: Session, limits: Limits, app: DifyCalls | None) -> Upstream:
    if settings.dialect == "demo":
        return DemoUpstream(settings.name)
    return HttpUpstream(settings.name, settings.dialect, _dialect(settings), session, limits, app)


def _dialect(settings: UpstreamSettings) -> Dialect:
    if settings.dialect == "dify":
        return Dify(
            url=settings.url,
            api_key=settings.api_key,
            mode=settings.dify_mode,
            prompt_input=settings.dify_prompt_input,
        )
    return OpenAI(
        url=settings.url,
        api_key=settings.api_key,
        model=settings.model,
        models=settings.models,
        max_tokens=settings.max_tokens,
        options=settings.options,
        auth_header=settings.auth_header,
        system_prompt=settings.system_prompt,
        include_usage=settings.include_usage,
    )


def __getattr__(name: str) -> Any:
    """Make `gunicorn app:app` work although importing this module starts nothing."""
    if name != "app":
        raise AttributeError(name)
    return create_app()


if __name__ == "__main__":
    load_settings()  # what is wrong is said at once, not from inside a worker
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "app:app"])
