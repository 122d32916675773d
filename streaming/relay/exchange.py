"""One call to an HTTP upstream: open, read to the last word, stop.

The greenlet that called `run` waits for all of it. `stop` interrupts that greenlet, which works while connecting,
before the head and in the middle of the answer. Closing the connection from another greenlet does not: whoever waits
for the body would never be told (body.py).
"""

import time
from collections.abc import Callable

import gevent
from gevent.event import Event as Flag

from streaming.relay.body import Body, BodyBroken, BodyTimeout, read_short
from streaming.relay.dify_calls import DifyCalls
from streaming.relay.interrupt import Interrupted, Interruptible
from streaming.relay.patience import Patience
from streaming.relay.upstream import Limits, Opened, Session, Sink
from streaming.wire import sse
from streaming.wire.ask import Ask, Context
from streaming.wire.dialects import Dialect, Reader, Request, Verdict
from streaming.wire.errors import Failure

ANSWER_MAX_BYTES = 256 * 1024 * 1024
"""Against an upstream that sends for ever what makes no event. Dify's documents come to some megabytes a run."""

LAST_WORD_SECONDS = 2.0  # how long usage and a second ending are awaited after the first terminal sign
DRAIN_SECONDS = 1.0  # how long the last HTTP chunk is awaited, so that the connection can be kept

CUT_STOP_SECONDS = 3.0  # for the stop call of a run that was cut by a limit
_CUT_BY_US = {"run_too_long", "run_too_large", "upstream_timeout", "upstream_invalid"}


class HttpExchange:
    """See upstream.Exchange. `app`: the Dify app that answers, None = a bare model."""

    def __init__(
        self,
        *,
        dialect: Dialect,
        session: Session,
        limits: Limits,
        ask: Ask,
        context: Context,
        sink: Sink,
        app: DifyCalls | None = None,
    ) -> None:
        self.upstream_stop: str | None = None
        self._dialect = dialect
        self._session = session
        self._limits = limits
        self._request = dialect.request(ask, context).traced(context.trace)
        self._reader: Reader = dialect.reader(context)
        self._sink = sink
        self._app = app
        self._user = context.user
        self._trace = context.trace
        self._work = Interruptible()
        self._opened: Opened | None = None
        self._body: Body | None = None
        self._stopping = False
        self._stoppable = Flag()  # the upstream's task is known, or there is nothing left to stop
        self._stopper: gevent.Greenlet | None = None
        self._last_resort: gevent.Greenlet | None = None
        self._deadline = 0.0

    @property
    def conversation_id(self) -> str | None:
        """Return the upstream's own conversation id."""
        return self._reader.conversation_id

    def run(self) -> Verdict:
        """See upstream.Exchange."""
        if self._stopping:
            raise Interrupted
        try:
            with self._work:
                verdict = self._read(self._open())
                if self._stopper is not None:  # the stream may end before its stop call is answered
                    self._stopper.join()
            if self._app is None:
                return verdict
            return self._app.finish(verdict, self._user, suggest=not self._stopping)
        except Failure as failure:
            if self._opened is None:
                self.upstream_stop = None  # it never took the call: there was nothing to stop
            elif failure.code in _CUT_BY_US:
                self._stop_what_goes_on()
            raise
        finally:
            self._stoppable.set()

    def _stop_what_goes_on(self) -> None:
        """The run is over, but the upstream may not know: closing alone does not stop Dify."""
        if not self._dialect.stops_by_request:
            self.upstream_stop = "closed"
        elif not self._stopping:
            self._stopping = True
            self._stop_by_request(CUT_STOP_SECONDS)
        if self._opened is not None:
            self._opened.close()
        self._body = None  # nothing more of it is awaited: its descriptor may soon be another connection's

    def _open(self) -> Opened:
        opened = self._session.open(self._request, self._limits)
        status, headers = opened.head.status, opened.head.headers
        if status != 200:
            raise self._dialect.refusal(status, headers, read_short(opened))
        self._opened = opened
        content_type = headers.get("content-type", "").lower()
        if content_type.startswith(("application/json", "text/html")):  # a stream was asked for
            raise Failure("upstream_invalid")
        self._sink.accepted(opened.connect_ms)
        if self._app is not None:
            self._app.prepare()
        return opened

    def _read(self, opened: Opened) -> Verdict:
        """Read the answer to its last word."""
        try:
            body = self._body = Body(opened)
            patience = Patience(
                self._limits.idle_seconds, self._limits.progress_seconds, lambda: body.abort(BodyTimeout())
            )
            try:
                body.read(self._taker(sse.Decoder(), patience))
            finally:
                patience.close()
        except sse.EventTooLarge:
            raise Failure("upstream_invalid") from None
        except BodyTimeout:
            return self._ended_early("upstream_timeout")
        except BodyBroken:  # reset, or no last HTTP chunk
            return self._ended_early("upstream_truncated")
        return self._reader.eof()

    def _taker(self, decoder: sse.Decoder, patience: Patience) -> Callable[[bytes], bool]:
        """Return what takes each piece of the answer; it returns True after the last word."""
        reader, feed, append, size_bytes = self._reader, self._reader.feed, self._sink.append, 0

        def take(data: bytes) -> bool:
            nonlocal size_bytes
            size_bytes += len(data)
            if size_bytes > ANSWER_MAX_BYTES:
                raise Failure("upstream_invalid")
            patience.heard_at = now = time.monotonic()
            for item in decoder.feed(data):
                if isinstance(item, sse.Comment):
                    continue
                patience.progressed_at = now
                for event in feed(item):
                    append(event)
                if reader.complete:
                    return True
            if self._stopping and reader.stop_request() is not None:
                self._stoppable.set()
            if reader.ending:
                patience.await_last_word(LAST_WORD_SECONDS)
            return False

        return take

    def _ended_early(self, code: str) -> Verdict:
        """After the first terminal sign nothing but usage can be missing."""
        if not self._reader.ending:
            raise Failure(code)
        return self._reader.eof()

    def stop(self, within_seconds: float) -> None:
        """See upstream.Exchange."""
        first, self._stopping = not self._stopping, True
        if not self._work.inside:
            return
        if not self._dialect.stops_by_request:
            self.upstream_stop = "closed"
            self._work.interrupt()
            return
        if first:
            if self._reader.stop_request() is not None:
                self._stoppable.set()
            self._stopper = gevent.spawn(self._stop_by_request, within_seconds)
        self._interrupt_within(within_seconds)

    def _interrupt_within(self, seconds: float) -> None:
        """Set the time after which the upstream is left, whatever it does; a later one than set before is ignored."""
        deadline = time.monotonic() + seconds
        if self._last_resort is not None and deadline >= self._deadline:
            return
        if self._last_resort is not None:
            self._last_resort.kill(block=False)
        self._deadline = deadline
        self._last_resort = gevent.spawn_later(seconds, self._work.interrupt)

    def _stop_by_request(self, within_seconds: float) -> None:
        """Post the stop while the answer is still being read: Dify loses the answer of one who leaves first."""
        self.upstream_stop = "failed"
        deadline = time.monotonic() + within_seconds
        if self._work.inside:  # the task may become known while the answer is read on
            self._stoppable.wait(within_seconds)
        request = self._reader.stop_request()
        if request is None:
            return
        with gevent.Timeout(max(0.1, deadline - time.monotonic()), False):
            if self._post_stop(request):
                self.upstream_stop = "confirmed"

    def _post_stop(self, request: Request) -> bool:
        try:
            opened = self._session.open(request.traced(self._trace), self._limits)
        except Failure:
            return False
        read_short(opened)
        return opened.head.status == 200

    def close(self) -> None:
        """See upstream.Exchange."""
        if self._last_resort is not None:
            self._last_resort.kill(block=False)
        body, self._body = self._body, None
        opened, self._opened = self._opened, None
        if body is None:
            if opened is not None:
                opened.close()
            return
        try:
            if self._reader.complete and not body.complete:  # all but the last HTTP chunk, often
                with gevent.Timeout(DRAIN_SECONDS, False):
                    body.read(lambda data: False)
        except BodyBroken:
            pass  # a connection that cannot be kept
        finally:
            body.close()


class HttpUpstream:
    """See upstream.Upstream: one that is called over HTTP. `app`: the Dify app that answers, None = a bare model."""

    def __init__(
        self,
        name: str,
        dialect_name: str,
        dialect: Dialect,
        session: Session,
        limits: Limits,
        app: DifyCalls | None = None,
    ) -> None:
        self.name = name
        self.dialect_name = dialect_name
        self.model = dialect.model
        self.models = dialect.models
        self.history = dialect.history
        self.check = dialect.check
        self._dialect = dialect
        self._session = session
        self._limits = limits
        self._app = app

    def exchange(self, ask: Ask, context: Context, sink: Sink) -> HttpExchange:
        """See upstream.Upstream."""
        return HttpExchange(
            dialect=self._dialect,
            session=self._session,
            limits=self._limits,
            ask=ask,
            context=context,
            sink=sink,
            app=self._app,
        )
