"""What the HTTP dialects share: base URLs, Retry-After, and the meaning of a status."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from streaming.wire.errors import Failure
from streaming.wire.jsontext import NotJSON, loads


def endpoint(base_url: str, path: str) -> str:
    """Return the URL of `path` under a base URL given with or without /v1; its query (Azure's api-version) is kept.

    A URL that ends in `path` already is the whole one.

    >>> endpoint("https://api.openai.com", "chat/completions")
    'https://api.openai.com/v1/chat/completions'
    """
    parts = urlsplit(base_url)
    root = parts.path.rstrip("/")
    if not root.endswith("/" + path):
        # An empty path means "the usual place"; any other path is the user's own and stays as it is.
        root = f"{root or '/v1'}/{path}"
    return urlunsplit(parts._replace(path=root))


def retry_after_seconds(headers: Mapping[str, str]) -> int | None:
    """Return the advice of `retry-after-ms` or `retry-after` in whole seconds, None = none that can be read.

    An HTTP date is measured against the answer's own `date`, so that no clock is needed.
    """
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return _bounded(float(milliseconds) / 1000)
        advice = headers.get("retry-after")
        if not advice:
            return None
        if advice.strip()[:1].isdigit():
            return _bounded(float(advice))
        wait = parsedate_to_datetime(advice) - parsedate_to_datetime(headers.get("date", ""))
        return _bounded(wait.total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _bounded(seconds: float) -> int:
    return min(max(0, -int(-seconds // 1)), 86_400)


def failure_of_status(status: int, headers: Mapping[str, str]) -> Failure:
    """Return what the status alone means; dialects look into the body first."""
    if status in {401, 403}:
        return Failure("upstream_auth", remedy="elsewhere")
    if status in {429, 503}:
        return busy(headers)
    if status == 504:
        return Failure("upstream_timeout", remedy="retry")
    if status == 524:  # Cloudflare waited 100 s for what was begun
        return Failure("upstream_timeout")
    if status == 502:
        return Failure("upstream_unreachable", remedy="retry")
    if 520 <= status <= 523:
        return Failure("upstream_unreachable")
    if 300 <= status < 500:  # redirects are not followed: a key must not travel
        return Failure("upstream_rejected")
    return Failure("upstream_failed")


def busy(headers: Mapping[str, str]) -> Failure:
    """Return "try again later", with the upstream's advice."""
    return Failure("upstream_busy", retry_after=retry_after_seconds(headers), remedy="retry")


def quota_spent() -> Failure:
    """Return what waiting does not cure."""
    return Failure("upstream_rejected", "The upstream's quota is spent.", remedy="elsewhere")


def json_object(body: bytes) -> dict[str, Any]:
    """Return an error body as a dict; empty where it is HTML, text, or another JSON type."""
    try:
        value = loads(body.decode("utf-8", "replace"))
    except NotJSON:
        return {}
    return value if isinstance(value, dict) else {}
