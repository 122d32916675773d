"""How a page's visitor comes by a token, and by a new one when it is too old."""

from flask import Blueprint, Response, g, request

from streaming.web.asking import read_body
from streaming.web.bodies import VisitorToken
from streaming.web.relay import current_relay
from streaming.web.streams import json_response
from streaming.web.visitors import TOKEN_SECONDS, remember
from streaming.wire.errors import Refusal

visiting = Blueprint("visiting", __name__)


def visitor_token() -> str | None:
    """Return the token for the page that is being made, None where there is no public page."""
    guard = current_relay().guard
    if guard.page is None:
        return None
    if "visitor_token" not in g:
        g.visitor_token = guard.page.token(guard.recall(request))
    token: str = g.visitor_token
    return token


@visiting.post("/visitor")
def renew() -> Response:
    """Return a new token, of the same visitor where the request's header or cookie says who that is."""
    read_body(request)
    token = visitor_token()
    if token is None:
        raise Refusal("not_found", "This relay has no public page (PUBLIC_PAGE).")
    return json_response(VisitorToken(token=token, expires_in=TOKEN_SECONDS))


@visiting.after_app_request
def keep(response: Response) -> Response:
    """Let the browser remember the visitor whose page this is."""
    if "visitor_token" in g:
        secure = request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"
        remember(response, g.visitor_token, secure=secure)
        if "no-store" not in response.headers.get("Cache-Control", ""):
            response.headers["Cache-Control"] = "private, no-cache"  # it is somebody's own
    return response
