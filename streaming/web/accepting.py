"""What a client takes, as its header `Accept` says (RFC 9110 §12.5.1)."""

import re
from functools import lru_cache
from typing import Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

KNOWN_HEADERS = 64  # reading one is a tenth of what refusing a request costs, and clients are of few kinds
_CHARSET = re.compile(r";\s*charset=[^;,]*", re.IGNORECASE)  # Java's clients name one; werkzeug offers it to nobody


@lru_cache(KNOWN_HEADERS)
def preferred(accept: str, offered: tuple[str, ...]) -> str | None:
    """Return the media type of `offered` that suits best, the first of equals; None where none does."""
    return parse_accept_header(_CHARSET.sub("", accept), MIMEAccept).best_match(offered)


def wants_page(environ: dict[str, Any]) -> bool:
    """Return whether a browser asks, which gets a page."""
    return preferred(environ.get("HTTP_ACCEPT", ""), ("application/json", "text/html")) == "text/html"
