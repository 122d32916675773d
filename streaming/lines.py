"""The log lines about runs and refused requests: one each, at the end, without a word of what was said.

Only in a flood are refused requests counted instead.

Who asked is told by a hash whose key changes with each start: lines of one caller belong together, and nobody can try
out addresses. A run's id lets its holder read and stop it; its hash finds the line of an id that somebody shows.
"""

import hashlib
import logging
import random
import secrets
from collections import Counter

import gevent

from streaming.logs import fields
from streaming.relay.observing import Happening, Refused, RunEnded

log = logging.getLogger("sluice")

SLOW_FIRST_TOKEN_MS = 5_000  # a person has looked away by then
SLOW_TOTAL_MS = 120_000
FLOOD_LINES = 100  # about refused requests in FLOOD_SECONDS: a flood of them must not fill a disk
FLOOD_SECONDS = 10.0
FAILED = {"error", "interrupted"}
_KEY = secrets.token_bytes(16)  # made before gunicorn forks: the same in all workers


class Lines:
    """An observer (observing.Observer) that writes them. `share`: of the ordinary runs' lines, 0 to 1."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._refusals = Refusals()

    def __call__(self, happening: Happening) -> None:
        """Write its line, if it has one."""
        if isinstance(happening, RunEnded):
            if is_remarkable(happening) or random.random() < self._share:  # noqa: S311  # no secret
                _run_ended(happening)
        elif isinstance(happening, Refused):
            self._refusals.tell(happening)


class Refusals:
    """Writes about refused requests: a line each, and in a flood only how many more there were of each kind."""

    def __init__(self) -> None:
        self._lines_left = FLOOD_LINES
        self._more: Counter[tuple[str, int, str | None]] = Counter()

    def tell(self, refused: Refused) -> None:
        """Write its line, or count it. What is our own fault always has its line."""
        if self._lines_left == FLOOD_LINES:
            gevent.spawn_later(FLOOD_SECONDS, self._tell_more)
        if self._lines_left > 0 or refused.code == "internal":
            self._lines_left = max(0, self._lines_left - 1)
            _refused(refused)
        else:
            self._more[refused.code, refused.status, refused.endpoint] += 1

    def _tell_more(self) -> None:
        more, self._more, self._lines_left = self._more, Counter(), FLOOD_LINES
        for (code, status, endpoint), count in more.items():
            told = fields(code=code, status=status, endpoint=endpoint, count=count)
            log.warning("more requests refused", extra=told)


def hashed_run_id(run_id: str) -> str:
    """Return what stands for a run's id: `printf %s ID | sha256sum | cut -c1-16`."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:16]


def is_remarkable(run: RunEnded) -> bool:
    """Return whether a run failed or was slow."""
    timing = run.end.timing
    first_token, total = (timing.first_token or 0.0, timing.total or 0.0) if timing else (0.0, 0.0)
    return run.end.reason in FAILED or first_token >= SLOW_FIRST_TOKEN_MS or total >= SLOW_TOTAL_MS


def _run_ended(run: RunEnded) -> None:
    end, timing, usage = run.end, run.end.timing, run.end.usage
    told = fields(
        run=hashed_run_id(run.run_id),
        who=None if run.owner is None else hashlib.blake2b(run.owner.encode(), key=_KEY, digest_size=8).hexdigest(),
        upstream=run.upstream,
        model=run.model,
        reason=end.reason,
        code=end.error.code if end.error else None,
        connect_ms=timing.connect if timing else None,
        headers_ms=timing.headers if timing else None,
        first_token_ms=timing.first_token if timing else None,
        total_ms=timing.total if timing else None,
        stop_ms=None if run.stop_seconds is None else round(run.stop_seconds * 1000, 1),
        upstream_stop=end.upstream_stop,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        total_tokens=usage.total_tokens if usage else None,
        exact=usage.exact if usage else None,
        bytes=end.digest.bytes if end.digest else None,
        tries=run.tries,
        resumes=run.resumes,
        request_id=run.request_id,
        trace_id=run.trace.trace_id if run.trace else None,
    )
    log.log(logging.WARNING if end.reason in FAILED else logging.INFO, "run ended", extra=told)


def _refused(refused: Refused) -> None:
    told = fields(
        code=refused.code,
        status=refused.status,
        endpoint=refused.endpoint,
        request_id=refused.request_id,
        trace_id=refused.trace.trace_id if refused.trace else None,
    )
    log.log(logging.WARNING if refused.status >= 500 else logging.INFO, "request refused", extra=told)
