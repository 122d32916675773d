"""Keys and tokens of known callers: what `Authorization: Bearer` may hold."""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

import msgspec

from streaming.access_settings import ApiKey
from streaming.relay.caller import Caller

TOKEN_MAX_CHARACTERS = 8192  # more fits into no header that gunicorn takes; a WebSocket's message could hold more
SUBJECT_MAX_CHARACTERS = 256  # it becomes part of keys that are kept
CLOCK_SECONDS = 30  # by how much two machines' clocks may differ


class ApiKeys:
    """The keys of API_KEYS."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = [(_digest(each.key), each) for each in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def caller(self, given: str) -> Caller | None:
        """Return whose key it is. Every key is compared, by hashes of one length: the time taken tells nothing."""
        digest, found = _digest(given), None
        for known, key in self._keys:
            if hmac.compare_digest(digest, known):
                found = key
        return None if found is None else known_caller(f"key:{found.name}", found.tier)


class Tokens:
    """JSON Web Tokens, RFC 7519, signed with JWT_SECRET (HS256) or by JWT_PUBLIC_KEY's owner.

    `exp` and `sub` must be there. `tier` may name the limits. `audience` "" = tokens that name one are refused: they
    were made for somebody else.
    """

    def __init__(self, *, secret: str, public_key: str, audience: str, issuer: str) -> None:
        import jwt  # here: it brings a library of algorithms, and few relays need it

        self._jwt = jwt
        self._keys: dict[str | None, tuple[Any, tuple[str, ...]]] = {None: (secret, ("HS256",))}
        if public_key:
            from streaming.jwt_keys import public_keys

            self._keys = public_keys(public_key)
        self._audience = audience or None
        self._issuer = issuer or None

    def caller(self, given: str) -> Caller | None:
        """Return whose token it is, None where it is none that counts (any more)."""
        try:
            kid = self._jwt.get_unverified_header(given).get("kid")
            key, algorithms = self._key(kid if isinstance(kid, str) else None)
            claims = self._jwt.decode(
                given,
                key,
                algorithms=list(algorithms),
                audience=self._audience,
                issuer=self._issuer,
                leeway=CLOCK_SECONDS,
                options={"require": ["exp", "sub"]},
            )
            subject, issuer = claims["sub"], claims.get("iss")
            owner = "jwt:" + msgspec.json.encode([issuer if isinstance(issuer, str) else None, subject]).decode()
        except (self._jwt.PyJWTError, ValueError, KeyError):  # a lone surrogate in a name is a ValueError too
            return None
        if not subject or len(subject) > SUBJECT_MAX_CHARACTERS:
            return None
        tier = claims.get("tier")
        return known_caller(owner, tier if isinstance(tier, str) else None)

    def _key(self, kid: str | None) -> tuple[Any, tuple[str, ...]]:
        """Return the key of that name; where there is only one, it is meant, whatever its name. Raises KeyError."""
        if kid not in self._keys and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys[kid]


def known_caller(owner: str, tier: str | None) -> Caller:
    """Return a caller with a name."""
    return Caller(owner=owner, kind="known", account=owner, tier=tier)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
