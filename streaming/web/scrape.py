"""`GET /metrics`, as Prometheus reads it."""

from flask import Blueprint, Response

from streaming.web.relay import current_relay
from streaming.wire.errors import Refusal

scrape = Blueprint("scrape", __name__)


def may_read_metrics() -> bool:
    """Return whether the current request may read the metrics: where only this machine can reach the relay, all may."""
    return current_relay().metrics_are_open


@scrape.get("/metrics")
def metrics() -> Response:
    """Return the metrics of all workers."""
    if not may_read_metrics():
        raise Refusal("forbidden", "The metrics are not for everybody.")
    body, media_type = current_relay().exposition()
    return Response(body, content_type=media_type, headers={"Cache-Control": "no-store"})
