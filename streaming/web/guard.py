"""Who asks. docs/access.md tells operators how to lock a relay."""

import logging

import msgspec
from flask import Request

from streaming.relay.caller import Caller
from streaming.relay.conversations import anonymous_user
from streaming.web import visitors
from streaming.web.addresses import client_address, is_local
from streaming.web.credentials import TOKEN_MAX_CHARACTERS, ApiKeys, Tokens
from streaming.web.visitors import Visitors
from streaming.wire.ask import AskError
from streaming.wire.errors import Refusal
from streaming.wire.trace import Trace

log = logging.getLogger(__name__)

WAYS_OUT = (
    "API_KEYS (or JWT_SECRET, JWT_PUBLIC_KEY) lets in callers you know, PUBLIC_PAGE=1 the visitors of the relay's own "
    "page, ALLOW_ANONYMOUS=1 everybody"
)
SUBPROTOCOL = "sluice"  # the one that a WebSocket speaks; beside it a browser's page can offer "bearer.<token>"
_BEARER_PROTOCOL = "bearer."
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Guard:
    """Tells callers apart. `tokens` None = none are taken, `page` None = there is no public page.

    `anonymous` lets everybody in; with nothing of all that the relay is open to this machine alone, and `demo_only`
    (nothing it serves costs anything) to others too. `proxies` is the setting TRUSTED_PROXIES.
    """

    def __init__(
        self,
        *,
        keys: ApiKeys,
        tokens: Tokens | None,
        page: Visitors | None,
        anonymous: bool,
        demo_only: bool,
        proxies: str,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self.page = page
        self._anonymous = anonymous
        self._demo_only = demo_only
        self._proxies = proxies
        self._warned = False

    @property
    def knows(self) -> bool:
        """Return whether there are keys or tokens at all: what is given else means nothing."""
        return bool(self._keys) or self._tokens is not None

    @property
    def undecided(self) -> bool:
        """Return whether nobody has said who may ask."""
        return not (self.knows or self.page is not None or self._anonymous)

    @property
    def shows_page(self) -> bool:
        """Return whether the chat page would get an answer."""
        return self.page is not None or self._anonymous or self.undecided

    def caller(self, request: Request, *, visitors_too: bool = False) -> Caller:
        """Return who asks. Raises Refusal: unauthorized, forbidden.

        `visitors_too`: the route takes a visitor's token.
        """
        if self.knows and (given := bearer(request)):
            return self.known(given)
        if self.page is not None and (token := visitors.given_token(request)):
            if not visitors_too:
                raise Refusal("forbidden", "A visitor's token opens POST /runs and POST /chat only.")
            return self._visitor(self.page.read(token), request)
        if self.undecided and is_local(request):
            return Caller(account="local")
        if self._anonymous or (self.undecided and self._demo_only):
            return Caller(kind="anonymous", account=self._address(request))
        raise _unauthorized(self._advice)

    @property
    def _advice(self) -> str:
        if self.undecided:
            return f"This relay is open to its own machine only. {WAYS_OUT}."
        if self.knows:
            return "Send a key or token as 'Authorization: Bearer …'."
        return "Only the visitors of this relay's own page may ask."

    def known(self, given: str) -> Caller:
        """Return whose key or token it is. Raises Refusal("unauthorized")."""
        caller = None
        if len(given) <= TOKEN_MAX_CHARACTERS:
            caller = self._keys.caller(given) or (self._tokens.caller(given) if self._tokens is not None else None)
        if caller is None:
            raise _unauthorized("This key or token is unknown, or has expired.")
        return caller

    def viewer(self, request: Request) -> Caller:
        """Return whose conversations a page may show: those of the visitor whom its cookie recalls."""
        visitor = self.recall(request)
        return Caller() if visitor is None else self._visitor(visitor, request)

    def recall(self, request: Request) -> str | None:
        """Return the visitor that the request's token or cookie is of, however old; None = nobody known."""
        if self.page is None:
            return None
        try:
            given = visitors.given_token(request)
        except (Refusal, AskError):  # of a form that cannot be read: a page says so, and still knows its visitor
            given = ""
        return self.page.recall(given, request.cookies.get(visitors.COOKIE, ""))

    def check_operator(self, request: Request) -> None:
        """Let those read /metrics who hold a key, and programs on this machine. Raises Refusal("unauthorized").

        No visitor, no anonymous caller and no holder of a JWT: how busy a relay is and what it spends is its owner's
        business.
        """
        given = bearer(request)
        if not is_local(request) and (not given or self._keys.caller(given) is None):
            raise _unauthorized("Send one of API_KEYS as 'Authorization: Bearer …'.")

    def _visitor(self, visitor: str, request: Request) -> Caller:
        owner = f"visitor:{visitor}"
        return Caller(
            owner=owner, kind="visitor", account=owner, crowd=self._address(request), user=anonymous_user(owner)
        )

    def _address(self, request: Request) -> str:
        if self._proxies == "auto" and not self._warned and "X-Forwarded-For" in request.headers:
            self._warned = True
            log.warning("Requests come through a proxy. Set TRUSTED_PROXIES, or all its clients share one limit.")
        return f"address:{client_address(request, self._proxies)}"


def bearer(request: Request) -> str:
    """Return the key or token of `Authorization`, or of a WebSocket's subprotocol; "" = none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if request.environ.get("HTTP_UPGRADE", "").lower() != "websocket":
        return ""
    offered = (each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(","))
    return next((each.removeprefix(_BEARER_PROTOCOL) for each in offered if each.startswith(_BEARER_PROTOCOL)), "")


def with_request(caller: Caller, request_id: str | None, trace: Trace | None) -> Caller:
    """Return the caller with the id and the trace of the request that it came with."""
    return msgspec.structs.replace(caller, request_id=request_id, trace=trace)


def _unauthorized(message: str) -> Refusal:
    return Refusal("unauthorized", message, headers=_CHALLENGE)
