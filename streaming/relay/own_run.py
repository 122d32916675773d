"""A run that this process produces: from its accepted ask to its single end, whoever is watching."""

import logging
import time
from collections.abc import Callable

import gevent
import msgspec

from streaming.relay.attempts import Attempts
from streaming.relay.conversations import Turn
from streaming.relay.interrupt import Interrupted
from streaming.relay.observing import RunEnded
from streaming.relay.pace import Pace
from streaming.relay.presence import Presence
from streaming.relay.run import STOP_SECONDS, Run
from streaming.relay.store import Log
from streaming.relay.upstream import Upstream as Asked
from streaming.wire import jsontext
from streaming.wire.dialects import Verdict
from streaming.wire.errors import Failure
from streaming.wire.events import End, Entry, Event, Reasoning, Replace, Start, Timing, Token, Upstream, Usage
from streaming.wire.journal import decode_end
from streaming.wire.trace import Trace
from streaming.wire.usage import RunningDigest, estimate

log = logging.getLogger(__name__)

END_MAX_BYTES = 256 * 1024
"""The end is written even to a full log: sources of megabytes must not come in by that door."""


class OwnRun(Run):
    """See run.Run.

    `on_end(run, reason)` is called once, just before the `end` is written: what it stores is there when the first
    subscriber sees the end. `on_ended(run)` is called once, right behind it, when `attempts` is still there.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        turn: Turn,
        log: Log,
        max_bytes: int,
        on_end: Callable[["OwnRun", str], None],
        on_ended: Callable[["OwnRun"], None],
    ) -> None:
        super().__init__(id, turn, log)
        self.attempts: Attempts | None = None
        self.presence: Presence | None = None
        self._max_bytes = max_bytes
        self._on_end = on_end
        self._on_ended = on_ended
        self._pace = Pace()
        self._created = time.time()
        self._begun = time.monotonic()
        self._stop_asked: float | None = None  # monotonic
        self._ending: str | None = None  # stopped, abandoned or interrupted: asked for, not yet in the log
        self._given_end: Entry | None = None
        self._accepted = False
        self._timing: dict[str, float] = {}
        self._digest = RunningDigest()
        self._write(Start(run_id=id, conversation_id=turn.conversation_id, created=int(self._created)))

    def end_early(self, reason: str, within_seconds: float = STOP_SECONDS) -> None:
        """See run.Run."""
        if self.ended:
            return
        self._ending = self._ending or reason
        if reason == "stopped" and self._stop_asked is None:
            self._stop_asked = time.monotonic()
        if self.attempts is not None:
            self.attempts.stop(within_seconds)

    def end_as(self, entry: Entry) -> None:
        """Take the `end` that another worker wrote because this one seemed dead: there is only one."""
        self._given_end = entry
        self.end_early("interrupted", within_seconds=0)

    # -- the producer's side ---------------------------------------------------------------------------------------

    def begin(self, attempts: Attempts) -> None:
        """Start the upstream call in a greenlet of its own: it outlives the request that asked."""
        self.attempts = attempts
        gevent.spawn(self._produce, attempts)

    def accepted(self, upstream: Asked, tries: int, connect_ms: float | None, *, model: str | None = None) -> None:
        """An upstream has taken the call, the last of `tries`; `model` None = its configured one."""
        self._accepted = True
        if connect_ms is not None:
            self._timing["connect"] = round(connect_ms, 1)
        self._timing["headers"] = self._ms_at(time.monotonic())
        self._write(Upstream(name=upstream.name, model=model or upstream.model, tries=tries))

    def append(self, event: Event) -> None:
        """Take one event from the upstream. What arrives after the run was asked to end is not part of the answer."""
        if self._ending is not None:
            return
        if isinstance(event, Token):
            self.has_token = True
            self._write(event)
            self._digest.add(event.text)
            self._pace.token()
        else:
            self._write(event)
            if isinstance(event, Replace):
                self._digest.replace(event.text)
            elif isinstance(event, Reasoning):
                self._pace.token()

    def _write(self, event: Event, seq: int | None = None) -> None:
        data = jsontext.dumps(event)
        if self.log.size_bytes + len(data) > self._max_bytes and not isinstance(event, End):
            raise Failure("run_too_large")
        self.last_seq = self.log.append(event.type, data, seq).seq

    def _ms_at(self, when: float) -> float:
        return round((when - self._begun) * 1000, 1)

    def _produce(self, attempts: Attempts) -> None:
        try:
            verdict = attempts.run()
        except Failure as failure:
            # Its traceback holds this frame: together they would wait for the cycle collector, connection and all.
            verdict = Verdict(reason="error", failure=failure.with_traceback(None))
        except Interrupted:
            verdict = Verdict(reason=self._ending or "interrupted")
        except Exception:
            log.exception("run failed inside the relay")
            verdict = Verdict(reason="error", failure=Failure("internal"))
        try:
            self._end(verdict, attempts)
        finally:
            attempts.close()

    def _end(self, verdict: Verdict, attempts: Attempts) -> None:
        try:
            end = self._describe(verdict, attempts)
        except Exception:  # whatever an upstream sent: a run without an end would hold its readers for ever
            log.exception("the end of a run could not be told in full")
            error = Failure("internal").as_end_error()
            end = End(reason="error", error=error, usage=estimate("", ""), digest=self._digest.value(), timing=Timing())
        seq = None
        if self._given_end is not None:
            end, seq = decode_end(self._given_end), self._given_end.seq
        reason = end.reason
        self._ending = reason
        if self.presence is not None:
            self.presence.over()
        try:
            self._on_end(self, reason)
        finally:
            self.end = end
            self._write(end, seq)
            self._on_ended(self)
            self.attempts, self.turn = None, self.turn.remains()
            del self._pace  # the run is kept, its pace has been told

    def ending(self, owner: str | None, request_id: str | None, trace: Trace | None, model: str | None) -> RunEnded:
        """Return what observers learn at the end; `model` None = the upstream's configured one."""
        assert self.attempts is not None
        assert self.end is not None
        asked = self.attempts.asked
        return RunEnded(
            run_id=self.id,
            owner=owner,
            request_id=request_id,
            trace=trace,
            upstream=asked.name,
            dialect=asked.dialect_name,
            model=model or asked.model,
            tries=self.attempts.tries,
            resumes=self.resumes,
            began=self._created,
            stop_seconds=None if self._stop_asked is None else time.monotonic() - self._stop_asked,
            pace=self._pace,
            end=self.end,
        )

    def _describe(self, verdict: Verdict, attempts: Attempts) -> End:
        """Return the end, proved to be JSON."""
        reason = self._ending or verdict.reason
        failure = verdict.failure if reason == "error" else None
        end = End(
            reason=reason,
            finish_reason=verdict.finish_reason if reason == verdict.reason else None,
            error=failure.as_end_error() if failure else None,
            usage=self._usage(verdict, reason),
            digest=self._digest.value(),
            upstream_stop=attempts.upstream_stop,
            timing=self._told_timing(),
            metadata=verdict.metadata,
        )
        data = jsontext.dumps(end)
        if (len(data) > END_MAX_BYTES or jsontext.too_deep(data)) and end.usage is not None:
            usage = msgspec.structs.replace(end.usage, details=None)
            ids = {name: value for name, value in end.metadata.items() if isinstance(value, str | bool)}
            end = msgspec.structs.replace(end, usage=usage, metadata={**ids, "omitted": "too large"})
        return end

    def _told_timing(self) -> Timing:
        first = self._pace.began
        first_token = None if first is None else self._ms_at(first)
        return Timing(**self._timing, first_token=first_token, total=self._ms_at(time.monotonic()))

    def _usage(self, verdict: Verdict, reason: str) -> Usage:
        """Return the upstream's counts, or our estimate where it told none or was cut off before it could."""
        truncated = verdict.failure is not None and verdict.failure.code == "upstream_truncated"
        if verdict.usage is not None and reason in {"done", "paused", "error"} and not truncated:
            return verdict.usage
        if not self._accepted:
            return estimate("", "")
        answer = self.answer()
        prompt = "\n".join(message.text() for message in self.turn.context.messages)
        return estimate(prompt, answer.text + answer.reasoning)
