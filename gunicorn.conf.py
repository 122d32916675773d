"""Server settings, each with its reason. gunicorn reads this file by itself: `gunicorn app:app` is enough."""

import gevent
from gevent import monkey

monkey.patch_all()  # before anything that opens sockets is imported: requests and ssl break when patched late
gevent.config.track_greenlet_tree = False  # of who spawned whom: 7 µs and 0.6 KB a greenlet, for nobody

import logging
import os
import shutil
import tempfile

from app import ROOT, load_settings
from streaming import logs
from streaming.capacity import capacity, raise_open_files
from streaming.dotenv import load_dotenv
from streaming.settings import Settings

_settings = load_settings()
bind = _settings.bind
# Invariant: several workers only with a shared store, because a run lives in the memory of the process that began it.
# PaaS builders set WEB_CONCURRENCY by themselves.
workers = _settings.web_concurrency if _settings.redis_url else 1


def on_starting(server):
    """Hold the invariant against `-w 2` and GUNICORN_CMD_ARGS too: they are stronger than this file."""
    for warning in Settings.suspicious(load_dotenv(ROOT / ".env", os.environ)):
        server.log.warning(warning)
    if _settings.web_concurrency > workers:
        server.log.warning("WEB_CONCURRENCY=%d: 1 worker, runs live in its memory.", _settings.web_concurrency)
    if server.num_workers > 1 and not _settings.redis_url:
        server.log.warning("1 worker instead of %d: runs live in its memory.", server.num_workers)
        server.num_workers = 1
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # an older master's, whose files it removes when it goes
    if _settings.redis_url:  # more workers may come at any time, with SIGTTIN
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="sluice-metrics-", dir=worker_tmp_dir)


def child_exit(server, worker):
    """What a dead worker counted stays counted; how full it was does not."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)


def on_exit(server):
    """Remove what the workers counted."""
    if directory := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        shutil.rmtree(directory, ignore_errors=True)


worker_class = "streaming.web.worker.RelayWorker"
preload_app = False  # hub, sockets and greenlets must be born in the process that uses them
# At so many, clients are left in the backlog without an answer: the app refuses new runs before that.
worker_connections = capacity(_settings.max_runs, raise_open_files()).connections
keepalive = 5  # also bounds how long a request's head may take
timeout = 30  # a blocked event loop, never a long stream: the worker's heartbeat runs beside them
graceful_timeout = max(1, int(_settings.shutdown_grace_seconds) - 1)  # a last resort: the worker ends before
max_requests = 0  # with one worker, a restart would be an outage as long as the longest stream
limit_request_line = 8190  # gunicorn's most: about 900 Chinese characters, percent-encoded
control_socket_disable = True  # not needed, and unwritable in containers
logconfig_dict = logs.config(_settings.log_format)
# No line tells thread or process, and a greenlet that logs would get a thread object of its own to be named by.
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
logging._srcfile = None  # nor where in the code it was logged: logging's documentation, "Optimization"
os.environ.setdefault("SCRIPT_NAME", "")  # gunicorn asks for it at each request, and an error for none takes long
logger_class = "streaming.web.server_log.ServerLog"
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112  # a heartbeat on disk can block
