"""`GET /ws`: the WebSocket's handshake. What is said on it afterwards is ws_session's business."""

import flask_sock
from flask import Blueprint, Request, Response, g, request
from wsproto.frame_protocol import CloseReason

from streaming.web import origins
from streaming.web.guard import bearer
from streaming.web.relay import current_caller, current_relay
from streaming.web.ws_session import Session
from streaming.web.ws_socket import BoundedServer
from streaming.wire.errors import Refusal

UNAUTHORIZED = 4401  # a private close code, after the HTTP status

websocket = Blueprint("websocket", __name__)


def turned_away(request: Request) -> str | None:
    """Return why this client may not stay, None where it may.

    Browsers let any page open a socket anywhere, with the visitor's cookies and without asking first.
    """
    return origins.REFUSED if origins.is_foreign(request, current_relay().cors_origins) else None


def serve(socket: BoundedServer) -> None:
    """Serve one socket that has opened; one that may not stay learns why (a refused handshake tells pages nothing)."""
    relay, refused = current_relay(), turned_away(request)
    if refused:
        socket.close(CloseReason.POLICY_VIOLATION, refused)
        socket.await_close()
        return
    caller = None  # a page sends its key in a message, and who only follows needs none
    try:
        caller = current_caller()
    except Refusal as refusal:
        if bearer(request):
            socket.close(UNAUTHORIZED, refusal.message)
            socket.await_close()
            return
    Session(socket, relay, caller, g.request_id, g.trace).serve()


@websocket.get("/ws")
def plain_http() -> Response:
    """Open a WebSocket for many turns and runs; what is no handshake is refused."""
    raise Refusal("bad_request", "This address speaks WebSocket; over plain HTTP there is POST /stream.")


flask_sock.Server = BoundedServer  # type: ignore[assignment,attr-defined]  # Flask-Sock has no other way to bring one's own
flask_sock.Sock().route("/ws", bp=websocket)(serve)
