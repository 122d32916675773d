"""Who may ask a question, settled before the ask is looked into: who it is, the body's size, then the allowance."""

from flask import Request, g

from streaming.relay.caller import Caller
from streaming.web.asking import TOO_LARGE, content_length, peek_body
from streaming.web.guard import with_request
from streaming.web.relay import Relay, current_relay, current_request
from streaming.wire.errors import Refusal

REQUEST, CALLER = "sluice.request", "sluice.caller"
"""Where the middleware leaves in `environ` what it has read, for the route behind it."""


def admitted_caller(*, visitors_too: bool = False) -> Caller:
    """Return who asks a question by the current request; `visitors_too`: a visitor's token will do. Raises as admit."""
    request = current_request()
    caller = request.environ.get(CALLER) or admit(current_relay(), request, visitors_too=visitors_too)
    return with_request(caller, g.request_id, g.trace)


def admit(relay: Relay, request: Request, *, visitors_too: bool) -> Caller:
    """Return who asks a question; `visitors_too`: a visitor's token will do.

    Raises Refusal: unauthorized, forbidden, body_too_large, rate_limited, budget_spent, and what read_body raises;
    AskError. An ask that repeats an idempotency key is never refused for its number: whatever may be one passes here,
    and Runs.start decides.
    """
    caller = relay.guard.caller(request, visitors_too=visitors_too)
    if (content_length(request.environ) or 0) > relay.max_body_bytes:
        raise Refusal("body_too_large", TOO_LARGE)
    try:
        relay.allowance.refuse_again(caller)
    except Refusal:
        if not _may_repeat(request):
            raise
    return caller


def _may_repeat(request: Request) -> bool:
    """Return whether there may be an idempotency key. Only JSON is looked into: others go on to the store."""
    environ, length_bytes = request.environ, content_length(request.environ)
    if request.method != "POST" or environ.get("QUERY_STRING") or "HTTP_IDEMPOTENCY_KEY" in environ:
        return True
    if length_bytes is None or not environ.get("CONTENT_TYPE", "").startswith("application/json"):
        return True
    body = peek_body(environ, length_bytes)
    return b"idempotency_key" in body or b"\\u" in body  # JSON can write a letter as an escape
