"""The relay's own gunicorn.conf.py, and a worker that counts what it does: `GET /counts`. See test_costs.py."""

import sys
from pathlib import Path

exec((Path.cwd() / "gunicorn.conf.py").read_text())

import greenlet  # noqa: E402  # patched first
from flask import jsonify  # noqa: E402

counts = {"switches": 0, "calls": 0}


def on_switch(event, between):
    """Count a switch of greenlets."""
    counts["switches"] += 1


def on_call(frame, event, argument):
    """Count a call of a Python function, a library's too."""
    if event == "call":
        counts["calls"] += 1


def post_worker_init(worker):
    """Begin to count before the first request."""
    worker.wsgi.add_url_rule("/counts", view_func=lambda: jsonify(counts))
    greenlet.settrace(on_switch)
    sys.setprofile(on_call)
