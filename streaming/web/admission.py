"""Whether a question may be asked, settled as early as it can be: before its body is read, or looked into."""

from flask import Request, g

from streaming.relay.caller import Caller
from streaming.web.asking import TOO_LARGE, read_body
from streaming.web.guard import with_request
from streaming.web.relay import Relay, current_relay, current_request
from streaming.wire.errors import Refusal

REQUEST, ADMITTED = "sluice.request", "sluice.caller"
"""Where the door leaves in `environ` what it has read, for the route behind it."""


def current_asker(*, visitors_too: bool = False) -> Caller:
    """Return who asks a question by the current request; `visitors_too`: a visitor's token will do. Raises Refusal."""
    request = current_request()
    caller = request.environ.get(ADMITTED) or admit(current_relay(), request, visitors_too=visitors_too)
    return with_request(caller, g.request_id, g.trace)


def admit(relay: Relay, request: Request, *, visitors_too: bool) -> Caller:
    """Return who asks a question. Raises Refusal: who may not ask, or has spent its allowance, or asks too long.

    What repeats an idempotency key costs nothing and is never refused for its number: whoever may be doing so gets
    through to where that is known for certain (Runs.start).
    """
    caller = relay.guard.caller(request, visitors_too=visitors_too)
    if int(request.environ.get("CONTENT_LENGTH") or 0) > relay.max_body_bytes:  # gunicorn lets pass only digits
        raise Refusal("body_too_large", TOO_LARGE)
    try:
        relay.allowance.refuse_spent(caller)
    except Refusal:
        if not _may_repeat(request):
            raise
    return caller


def _may_repeat(request: Request) -> bool:
    """Return whether there may be an idempotency key. Of bodies only JSON's are looked into, and not deeply."""
    environ = request.environ
    if "HTTP_IDEMPOTENCY_KEY" in environ or not environ.get("CONTENT_TYPE", "").startswith("application/json"):
        return True
    body = read_body(request)
    return b"idempotency_key" in body or b"\\u" in body  # JSON can write a letter as an escape
