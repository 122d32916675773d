"""The page's visitors: a signed token that says who somebody was before, and lets them ask.

The page gets it in its HTML and sends it as a header, or as a field of the form where JavaScript is off: in a frame on
another site a browser may keep no cookie and no storage. The cookie only remembers who the visitor was when the page
is opened again. It lets nobody ask, so no other site can ask with it.
"""

import secrets

from flask import Request, Response
from itsdangerous import BadSignature, TimestampSigner

from streaming.web.asking import form_field
from streaming.wire.errors import Refusal

HEADER = "X-Visitor-Token"
FIELD = "visitor_token"
COOKIE = "sluice_visitor"
TOKEN_SECONDS = 86_400  # how long a token lets ask; a page that stays open longer gets a new one
KEPT_SECONDS = 30 * 86_400  # since the last token: how long somebody is still the same visitor

_SALT = b"sluice visitor"


class Visitors:
    """Makes and reads tokens. `secret_key` "" = one of this process alone: after a restart all visitors are new."""

    def __init__(self, secret_key: str) -> None:
        self._signer = TimestampSigner(secret_key or secrets.token_bytes(32), salt=_SALT, sep=".")

    def token(self, visitor: str | None = None) -> str:
        """Return a new token of this visitor, None = a new one."""
        return self._signer.sign(visitor or secrets.token_urlsafe(16)).decode()

    def read(self, token: str) -> str:
        """Return whose token it is. Raises Refusal("unauthorized")."""
        try:
            return self._signer.unsign(token, max_age=TOKEN_SECONDS).decode()
        except BadSignature:  # forged, or too old
            raise Refusal("unauthorized", "The visitor's token has expired; POST /visitor gives a new one.") from None

    def recall(self, *tokens: str) -> str | None:
        """Return whose the first token is that was once ours and is not too old, None where none is."""
        for token in tokens:
            try:
                return self._signer.unsign(token, max_age=KEPT_SECONDS).decode()
            except BadSignature:
                continue
        return None


def remember(response: Response, token: str, *, secure: bool) -> None:
    """Let the browser remember whose page this is. Lax: a link to the page may tell it, a form elsewhere may not."""
    response.set_cookie(COOKIE, token, max_age=KEPT_SECONDS, httponly=True, samesite="Lax", secure=secure)


def given_token(request: Request) -> str:
    """Return the visitor's token that came as a header, or in a page's own form; "" = none."""
    token = request.headers.get(HEADER, "")
    if token or request.mimetype != "application/x-www-form-urlencoded":
        return token
    return form_field(request, FIELD)
