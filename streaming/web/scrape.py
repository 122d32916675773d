"""`GET /metrics`, as Prometheus reads it."""

from flask import Blueprint, Response, request

from streaming.web.relay import current_relay

scrape = Blueprint("scrape", __name__)


@scrape.get("/metrics")
def metrics() -> Response:
    """Return the metrics of all workers."""
    current_relay().guard.check_operator(request)
    body, media_type = current_relay().exposition()
    return Response(body, content_type=media_type, headers={"Cache-Control": "no-store"})
