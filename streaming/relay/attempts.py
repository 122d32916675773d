"""One ask, as many calls as it takes: tries again while nothing was generated, then goes to the next upstream.

A call is repeated only where its failure says that nothing was generated (errors.Failure.remedy): repeating anything
else could be billed twice.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial

import gevent

from streaming.relay.breaker import OPEN_SECONDS, Breaker, Permit
from streaming.relay.interrupt import Interrupted, Interruptible
from streaming.relay.observing import Observer, UpstreamCalled
from streaming.relay.upstream import Exchange, Sink, Upstream
from streaming.wire.dialects import Verdict
from streaming.wire.errors import BUSY_RETRY_AFTER_SECONDS, Failure
from streaming.wire.events import Event

BASE_DELAY_SECONDS = 1.0  # doubles with each try
JITTER_SECONDS = 1.0  # or all that failed together would come back together
MAX_RETRY_AFTER_SECONDS = 30  # an upstream that asks for more is not waited for
_UPSTREAMS_FAULT = {
    "upstream_unreachable",
    "upstream_failed",
    "upstream_timeout",
    "upstream_truncated",
}


class Candidate:
    """An upstream that may answer, with its breaker."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.breaker = Breaker()


class Attempts:
    """See upstream.Exchange. `call(upstream, sink)` makes one exchange; `accepted(upstream, tries, …)` is told of
    the one that was taken; `append` gets its events. `asked` was asked last, in `tries` calls of all in all."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        max_tries: int,
        max_seconds: float,
        call: Callable[[Upstream, Sink], Exchange],
        accepted: Callable[[Upstream, int, float | None], None],
        append: Callable[[Event], None],
        observer: Observer,
    ) -> None:
        self.answering: Upstream | None = None
        self.asked = candidates[0].upstream
        self.tries = 0
        self._candidates = candidates
        self._max_tries = max_tries
        self._max_seconds = max_seconds
        self._call = call
        self._accepted = accepted
        self._append = append
        self._observer = observer
        self._exchange: Exchange | None = None
        self._pause = Interruptible()
        self._stopping = False

    @property
    def upstream_stop(self) -> str | None:
        """See upstream.Exchange."""
        return self._exchange.upstream_stop if self._exchange else None

    @property
    def conversation_id(self) -> str | None:
        """See upstream.Exchange."""
        return self._exchange.conversation_id if self._exchange else None

    def run(self) -> Verdict:
        """See upstream.Exchange. Raises the last upstream's failure when all have failed, or run_too_long."""
        with gevent.Timeout(self._max_seconds, Failure("run_too_long")):
            return self._run()

    def _run(self) -> Verdict:
        failure = Failure("upstream_busy")
        for candidate in self._candidates:
            try:
                return self._try(candidate)
            except Failure as error:
                failure = error
                if self.answering is not None or error.remedy is None:
                    break
        raise failure

    def _try(self, candidate: Candidate) -> Verdict:
        """Ask one upstream, again and again while that may help. Raises Failure."""
        self.asked = candidate.upstream
        permit = candidate.breaker.admit()
        if permit is None:
            raise Failure("upstream_busy", retry_after=candidate.breaker.retry_after_seconds(), remedy="elsewhere")
        try:
            return self._call_until_accepted(candidate.upstream, permit)
        except Failure as error:
            if error.code == "upstream_busy":  # alive: it is left alone only as long as it asks
                permit.failed(min(OPEN_SECONDS, error.retry_after or BUSY_RETRY_AFTER_SECONDS))
            elif error.code in _UPSTREAMS_FAULT:
                permit.failed()
            raise
        finally:
            permit.unknown()

    def _call_until_accepted(self, upstream: Upstream, permit: Permit) -> Verdict:
        for number in range(self._max_tries):
            try:
                return self._call_once(upstream, permit, is_retry=number > 0)
            except Failure as error:
                delay = _delay_seconds(number, error.retry_after)
                last = number + 1 == self._max_tries
                if self.answering is not None or error.remedy != "retry" or last or delay is None:
                    raise
            with self._pause:
                if self._stopping:
                    raise Interrupted
                gevent.sleep(delay)
        raise AssertionError("max_tries is at least 1")

    def _call_once(self, upstream: Upstream, permit: Permit, *, is_retry: bool) -> Verdict:
        if self._exchange is not None:
            self._exchange.close()
        if self._stopping:
            raise Interrupted
        self.tries += 1
        sink = Sink(accepted=partial(self._was_accepted, upstream, permit), append=self._append)
        self._exchange = self._call(upstream, sink)
        result = "interrupted"
        try:
            return self._exchange.run()
        except Failure as failure:
            result = failure.code
            raise
        finally:
            result = "accepted" if self.answering is not None else result
            self._observer(UpstreamCalled(upstream=upstream.name, result=result, is_retry=is_retry))

    def _was_accepted(self, upstream: Upstream, permit: Permit, connect_ms: float | None) -> None:
        permit.succeeded()
        self.answering = upstream
        self._accepted(upstream, self.tries, connect_ms)

    def stop(self, within_seconds: float) -> None:
        """See upstream.Exchange."""
        self._stopping = True
        if self._exchange is not None:
            self._exchange.stop(within_seconds)
        self._pause.interrupt()

    def close(self) -> None:
        """See upstream.Exchange."""
        if self._exchange is not None:
            self._exchange.close()


def _delay_seconds(number: int, retry_after: int | None) -> float | None:
    """Return how long to wait before the next try, None where the upstream asks for more than anybody would wait."""
    if retry_after is not None and retry_after > MAX_RETRY_AFTER_SECONDS:
        return None
    wait: float = BASE_DELAY_SECONDS * 2**number + random.uniform(0, JITTER_SECONDS)  # noqa: S311  # spreads load only
    return max(wait, float(retry_after or 0))
