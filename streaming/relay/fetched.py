"""A value that somebody else has: fetched when it is first wanted, by one at a time, and kept for a while."""

import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import gevent

from streaming.wire.errors import Failure

log = logging.getLogger(__name__)
T = TypeVar("T")


class Fetched(Generic[T]):
    """Keeps what `fetch` returns for `ttl_seconds`; after a Failure nobody tries again for `retry_seconds`.

    `what` names it in the log. `failure` is set while the last fetch had failed; the value of before stays.
    """

    def __init__(self, what: str, fetch: Callable[[], T], *, ttl_seconds: float, retry_seconds: float) -> None:
        self.value: T | None = None
        self.failure: Failure | None = None
        self._what = what
        self._fetch = fetch
        self._ttl_seconds = ttl_seconds
        self._retry_seconds = retry_seconds
        self._next_fetch = 0.0  # monotonic
        self._fetching: gevent.Greenlet | None = None

    def get(self, wait_seconds: float) -> T | None:
        """Return the newest value, waiting at most so long for one; 0 = do not wait. None = there is none yet.

        A fetch that takes longer goes on: the next one to ask finds its value.
        """
        if self._fetching is None and time.monotonic() >= self._next_fetch:
            self._fetching = gevent.spawn(self._run)
        if self._fetching is not None and wait_seconds > 0:
            self._fetching.join(wait_seconds)
        return self.value

    def _run(self) -> None:
        keep_seconds = self._retry_seconds
        try:
            self.value, self.failure = self._fetch(), None
            keep_seconds = self._ttl_seconds
        except Failure as failure:
            self.failure = failure.with_traceback(None)  # its frames would be kept as long
            log.warning("%s could not be fetched: %s", self._what, failure.code)
        except Exception:
            self.failure = Failure("internal")
            log.exception("%s could not be fetched", self._what)
        finally:
            self._next_fetch = time.monotonic() + keep_seconds
            self._fetching = None
