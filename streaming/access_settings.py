"""Who may ask, and how much: what API_KEYS, JWT_*, RATE_LIMIT and their like say. Their texts have been checked."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import limits
from limits import RateLimitItem
from msgspec import Meta

Secret = Annotated[
    str, Meta(pattern=r"\A([ -~\xa0-\xff]{32,}|)\Z", description="32 characters or more, without control characters")
]
"""32: what RFC 7518 §3.2 asks of HS256, and what nobody guesses."""

ApiKeyText = Annotated[
    str,
    Meta(
        pattern=r"\A([0-9A-Za-z._-]{1,64}(@[a-z0-9_-]{1,32})?:)?[!-+\x2d-9;-~]{16,256}\Z",
        description="keys of 16 to 256 characters, each alone or as name:key or name@tier:key, with commas between; "
        "ASCII without spaces, commas and colons",
    ),
]
_RATE = r"[1-9][0-9]{0,8}/([1-9][0-9]{0,3})?(second|minute|hour|day)"
RateText = Annotated[
    str,
    Meta(
        pattern=rf"\A([a-z0-9_-]{{1,32}}=)?(off|{_RATE}(;{_RATE})*)\Z",
        description="off, or rates such as 10/minute or 10/minute;200/day; with commas between, tier=rate for keys",
    ),
]
CountText = Annotated[
    str,
    Meta(
        pattern=r"\A([a-z0-9_-]{1,32}=)?(off|[1-9][0-9]{0,11})\Z",
        description="a whole number above 0, or off; with commas between, tier=number for keys",
    ),
]
STRANGERS_RATE = "10/minute"
"""Of visitors and anonymous callers, unless RATE_LIMIT says otherwise of them: a tier of keys alone opens no door."""

Proxies = Annotated[
    str,
    Meta(
        pattern=r"\A(auto|[0-9]|[A-Za-z][A-Za-z0-9-]{2,63})\Z",
        description="auto, a number of proxies from 0 to 9, or the name of a header that the proxy sets",
    ),
]
JwtKey = Annotated[str, Meta(description="a public key in PEM, a JWKS document, or the path of a file with either")]

PLATFORMS = {  # a variable that the platform sets -> how its router tells the client's address
    "FLY_APP_NAME": "Fly-Client-IP",
    "RENDER": "2",  # Cloudflare, then Render's own
    "DYNO": "1",  # Heroku
    "K_SERVICE": "1",  # Cloud Run
    "RAILWAY_ENVIRONMENT_NAME": "X-Real-IP",
    "WEBSITE_SITE_NAME": "1",  # Azure App Service
    "KOYEB_APP_NAME": "1",
    "SPACE_ID": "1",  # Hugging Face Spaces
}
"""X-Forwarded-For is counted from its end: what a client wrote into it itself stands before."""


@dataclass(frozen=True)
class ApiKey:
    """A caller's key; `tier` None = no limits of its own. The key is in no repr."""

    name: str
    tier: str | None
    key: str = field(repr=False)


def api_keys(texts: Iterable[str]) -> list[ApiKey]:
    """Return the keys. One without a name is called by its hash, so that its conversations stay its own."""
    keys = []
    for text in texts:
        label, colon, key = text.rpartition(":")
        name, _, tier = label.partition("@")
        name = name if colon else f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        keys.append(ApiKey(name, tier or None, key))
    return keys


def by_tier(texts: Iterable[str]) -> dict[str | None, str]:
    """Return the values by tier, None = without one; "off" stays a text."""
    values: dict[str | None, str] = {}
    for text in texts:
        tier, equals, value = text.rpartition("=")
        values[tier if equals else None] = value
    return values


def rates(text: str) -> tuple[RateLimitItem, ...]:
    """Return the rates in a text such as "10/minute;200/day", none where it is "off"."""
    return () if text == "off" else tuple(limits.parse_many(text))


def count(text: str) -> int | None:
    """Return the number, None where it is "off"."""
    return None if text == "off" else int(text)


def platform(given: Mapping[str, str]) -> str:
    """Return what TRUSTED_PROXIES=auto means where these variables are set; "auto" on no known platform."""
    return next((told for variable, told in PLATFORMS.items() if variable in given), "auto")


def jwt_key_text(text: str) -> str:
    """Return the text of JWT_PUBLIC_KEY's key, read from its file where it names one. Raises ValueError."""
    if text.startswith(("-----BEGIN", "{")):
        return text.replace("\\n", "\n")  # as one line of a platform's form
    try:
        return Path(text).read_text("ascii").strip()
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError("the file holds neither PEM nor JWKS") from None


def problems(fields: Mapping[str, Any]) -> list[str]:
    """Return what does not go together. `fields` are those of Settings that were set."""
    return [*_key_problems(fields), *_jwt_problems(fields), *_page_problems(fields)]


def _key_problems(fields: Mapping[str, Any]) -> list[str]:
    keys = api_keys(fields.get("api_keys", ()))
    tiers = {
        tier
        for name in ("rate_limit", "max_streams_per_caller", "daily_tokens_per_caller")
        for tier in by_tier(fields.get(name, ()))
    }
    found = [
        f"API_KEYS: the tier {tier!r} is in none of RATE_LIMIT, MAX_STREAMS_PER_CALLER and DAILY_TOKENS_PER_CALLER: "
        "allowed are tiers that have a limit there (off is one)"
        for tier in sorted({key.tier for key in keys if key.tier} - tiers)
    ]
    if len({key.name for key in keys}) < len(keys) or len({key.key for key in keys}) < len(keys):
        found.append("API_KEYS: a name or a key is there twice: allowed are different ones")
    return found


def _jwt_problems(fields: Mapping[str, Any]) -> list[str]:
    found = []
    has_key = bool(fields.get("jwt_secret") or fields.get("jwt_public_key"))
    if fields.get("jwt_secret") and fields.get("jwt_public_key"):
        found.append("JWT_SECRET is set beside JWT_PUBLIC_KEY: allowed is one of them")
    found += [
        f"{name.upper()} is set without a key: allowed is only beside JWT_SECRET or JWT_PUBLIC_KEY"
        for name in ("jwt_audience", "jwt_issuer")
        if fields.get(name) and not has_key
    ]
    if fields.get("jwt_public_key"):
        from streaming.jwt_keys import public_keys  # only here: it brings a library of algorithms

        try:
            public_keys(jwt_key_text(fields["jwt_public_key"]))
        except ValueError as error:
            found.append(f"JWT_PUBLIC_KEY (not shown): {error}: allowed is a public key in PEM, or a JWKS document")
    return found


def _page_problems(fields: Mapping[str, Any]) -> list[str]:
    if fields.get("public_page") and fields.get("redis_url") and not fields.get("secret_key"):
        return ["SECRET_KEY is not set: PUBLIC_PAGE beside REDIS_URL needs one that all workers share"]
    return []
