"""From where: pages of other origins may use the relay only where CORS_ORIGINS names them.

Any page on the web can make its visitors' browsers send a GET, a form, or a POST of text/plain here, without asking
first and without reading the answer; it would still be paid for. Browsers say where a request comes from, in headers
that pages cannot set: Sec-Fetch-Site (https and localhost only), and Origin. What sends neither is no browser, or an
old one; it is let in. Source: Fetch Metadata Request Headers (W3C); Fetch (WHATWG) §3.2.
"""

import re
from functools import cache
from typing import Any

from flask import Flask, Request, Response
from flask_cors import CORS

from streaming.web.relay import current_relay, current_request
from streaming.wire.errors import Refusal

PREFLIGHT_KEPT_SECONDS = 7200  # the most that Chromium takes
HSTS_SECONDS = 31_536_000
EXPOSED = [
    "X-Run-Id",
    "X-Request-Id",
    "X-Conversation-Id",
    "Retry-After",
    "Location",
    "X-Workflow-Run-Id",
    "X-Workflow-Stream-Tail-Index",
    "RateLimit",
    "RateLimit-Policy",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
]
"""Headers of an answer that a page of another origin may read."""

REFUSED = "Pages of this origin may not use this relay (CORS_ORIGINS)."

_FACES = r"/(stream|chat|runs|upstreams|files|v1|api|healthz|readyz|openapi\.json)(/|\Z)"
_PROTECTION = {"Cross-Origin-Resource-Policy": "same-origin"}
_FREE_METHODS = {"GET", "HEAD", "OPTIONS"}
_PAID_GETS = {"/stream"}


def install(app: Flask, cors_origins: tuple[str, ...]) -> None:
    """Check where requests come from, and let browsers read answers where they may. `cors_origins`: CORS_ORIGINS.

    Never with credentials: what another origin's page may do, it does with a key of its own.
    """
    app.before_request(_refuse_foreign)
    app.after_request(_protect)
    if cors_origins:
        CORS(
            app,
            resources=_FACES,
            origins="*" if "*" in cors_origins else [_pattern(origin) for origin in cors_origins],
            methods=["GET", "POST"],
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_KEPT_SECONDS,
            send_wildcard=True,
            always_send=False,  # it would tell those that do not ask which origins there are
        )


def is_foreign(request: Request, cors_origins: tuple[str, ...]) -> bool:
    """Return whether a page made this request whose origin is neither the relay's own nor one of CORS_ORIGINS."""
    origin, site = request.environ.get("HTTP_ORIGIN"), request.environ.get("HTTP_SEC_FETCH_SITE")
    if site in {"same-origin", "none"}:  # the page's own, whatever a proxy made of the host; or typed by its user
        return False
    if origin is None:
        return site is not None
    if "*" in cors_origins or any(_pattern(each).match(origin) for each in cors_origins):
        return False
    return site is not None or _bare(origin.partition("://")[2]) != _bare(request.host)


@cache
def _pattern(origin: str) -> re.Pattern[str]:
    """Return what matches an origin of CORS_ORIGINS; `*.` stands for one or more names before the rest."""
    scheme, _, host = origin.lower().partition("://")
    names = r"([0-9a-z-]+\.)+" if host.startswith("*.") else ""
    return re.compile(rf"{scheme}://{names}{re.escape(host.removeprefix('*.'))}\Z", re.IGNORECASE)


def _bare(host: str) -> str:
    """Return a host without its default port, which one side writes and the other does not."""
    return host.lower().removesuffix(":80").removesuffix(":443")


def _refuse_foreign() -> None:
    request = current_request()
    costs = request.method not in _FREE_METHODS or request.path in _PAID_GETS
    if costs and request.method != "OPTIONS" and is_foreign(request, current_relay().cors_origins):
        raise Refusal("forbidden", REFUSED)


def _protect(response: Response) -> Response:
    for name, value in protection_fields(current_request().environ).items():
        response.headers.setdefault(name, value)
    return response


def protection_fields(environ: dict[str, Any]) -> dict[str, str]:
    """Return what keeps answers from being embedded as images, scripts or frames elsewhere, and TLS from being left."""
    if "https" not in {environ["wsgi.url_scheme"], environ.get("HTTP_X_FORWARDED_PROTO")}:
        return _PROTECTION
    return {**_PROTECTION, "Strict-Transport-Security": f"max-age={HSTS_SECONDS}"}
