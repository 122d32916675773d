"""What goes on on one WebSocket: messages in, frames out, any number of questions and runs."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from gevent.pool import Group
from msgspec import Meta
from simple_websocket.errors import ConnectionClosed
from wsproto.frame_protocol import CloseReason

from streaming.relay.caller import Caller
from streaming.relay.cursor import Cursor
from streaming.relay.observing import Refused, Streamed
from streaming.relay.run import Run
from streaming.relay.runs import FULL_RETRY_AFTER_SECONDS, is_run_id
from streaming.web.errors import as_refusal
from streaming.web.guard import with_request
from streaming.web.relay import Relay
from streaming.web.resuming import came_back, found_nothing, goes_on
from streaming.web.ws_socket import BoundedServer
from streaming.wire import ask as asks
from streaming.wire import jsontext
from streaming.wire.ask import Ask, AskError, FlushMs, checked
from streaming.wire.errors import Refusal
from streaming.wire.events import EndError, Entry
from streaming.wire.formats import writes
from streaming.wire.formats.ws import Ws, text_frame
from streaming.wire.trace import Trace

log = logging.getLogger(__name__)

FOLLOWED_MAX = 100  # runs at once on one socket: each is a greenlet, and one socket must not take all there are
READ_SECONDS = 60.0
BAD_MESSAGE, IDLE = 4400, 4408  # private close codes, after the HTTP statuses

Ref = Annotated[str, Meta(max_length=128)] | Annotated[int, Meta(ge=-(2**53), le=2**53)] | None


class Named(msgspec.Struct, frozen=True):
    """What any message may have: the name that its answers carry."""

    ref: Ref = None


class Follow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Show a run from behind `after`, a cursor; `flush_ms` None = as the settings say."""

    run_id: str
    after: int | str | None = None
    flush_ms: FlushMs | None = None


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Say who asks from now on, by a key or token: a browser can send no header with a handshake."""

    token: Annotated[str, Meta(min_length=1)]


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Say something."""


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stop a run."""

    run_id: str


class Session:
    """What goes on on one socket: the runs that it follows, and the conversation that its asks go on with.

    Messages are handled one after the other, by the greenlet of the request; each followed run has a greenlet that
    writes what its cursor finds.
    """

    def __init__(
        self,
        socket: BoundedServer,
        relay: Relay,
        caller: Caller | None,
        request_id: str = "",
        trace: Trace | None = None,
    ) -> None:
        self._socket = socket
        self._client = socket.sock
        self._relay = relay
        self._caller = caller  # None = nobody who may ask
        self._request_id = request_id
        self._trace = trace
        self._followed: dict[Cursor, str] = {}  # and its run's id
        self._followers = Group()
        self._conversation_id: str | None = None
        self._active_at = time.monotonic()
        self._sent_bytes = 0
        self._handlers: dict[str, Callable[[dict[str, Any], Any], None]] = {
            "auth": self._auth,
            "ask": self._ask,
            "follow": self._follow,
            "stop": self._stop,
            "ping": self._ping,
        }

    def serve(self) -> None:
        """Handle messages until the socket closes. Raises ConnectionClosed, always."""
        self._client.on_let_go = self._client.on_send_away = self._socket.wake
        self._client.serving = False  # the worker wakes it while it drains, and it decides itself
        try:
            while True:
                idle_seconds = self._close_unused()
                text = self._socket.receive(idle_seconds)
                if text is not None:
                    self._handle(text)
        except ConnectionClosed:
            raise
        except Exception:
            self._break_off()
        finally:
            self._leave()

    def _close_unused(self) -> float:
        """Close the socket where nobody needs it; return in how many seconds to look again."""
        idle_seconds = self._relay.ws_idle_seconds
        if self._followed and not self._relay.runs.moving:
            return idle_seconds
        left_seconds = self._active_at + idle_seconds - time.monotonic()
        if self._relay.runs.draining:
            self._socket.close(CloseReason.SERVICE_RESTART, "This relay is shutting down; come back.")
        elif left_seconds <= 0:
            self._socket.close(IDLE, "Nothing was said for too long.")
        return left_seconds

    def _break_off(self) -> None:
        log.exception("a WebSocket broke off inside the relay")
        self._socket.close(CloseReason.INTERNAL_ERROR, "The relay failed; the fault is on our side.")

    def _leave(self) -> None:
        """Leave every followed run, and wait until nobody writes any more: the connection is closed next."""
        by_us = self._client.dropped or self._relay.runs.moving
        for cursor in list(self._followed):
            cursor.close(by_us=by_us)
        if by_us:
            self._socket.await_close()
        self._client.on_let_go = None
        self._client.drop()
        self._followers.join()
        self._relay.observer(Streamed(format=Ws.name, size_bytes=self._sent_bytes))

    # -- messages --------------------------------------------------------------------------------------------------

    def _handle(self, text: bytes) -> None:
        """Do what a message says. Any object is answered; what is none has no `ref`, and closes the socket."""
        self._active_at = time.monotonic()
        fields, problem = _decoded(text)
        if not isinstance(fields, dict):
            self._socket.close(BAD_MESSAGE, "A message is one JSON object.")
            return
        ref = None
        try:
            ref = checked({"ref": fields.pop("ref", None)}, Named).ref
            if problem:
                raise AskError(f"the message {problem}")
            kind = fields.pop("type", None)
            if not isinstance(kind, str) or kind not in self._handlers:
                raise AskError(f"field 'type': known are {', '.join(self._handlers)}")
            self._handlers[kind](fields, ref)
        except AskError as error:
            self._refuse(as_refusal(error), ref, fields)
        except Refusal as refusal:
            self._refuse(refusal, ref, fields)

    def _auth(self, fields: dict[str, Any], ref: Ref) -> None:
        token = checked(fields, Auth).token
        if self._relay.guard.knows:
            self._caller = with_request(self._relay.guard.known(token), self._request_id, self._trace)
        elif self._caller is None:
            raise Refusal("unauthorized", "This relay takes no keys and no tokens.")
        self._say("authorized", ref)

    def _ask(self, fields: dict[str, Any], ref: Ref) -> None:
        if len(self._followed) >= FOLLOWED_MAX:
            raise _too_many()
        implied = None
        if "conversation_id" not in fields and fields.get("messages") is None:
            implied = self._conversation_id
        ask = asks.from_json(fields if implied is None else {**fields, "conversation_id": implied})
        if implied is not None:
            ask = msgspec.structs.replace(ask, conversation_id=None)
        if ask.response_mode == "blocking":
            raise AskError("field 'response_mode': a WebSocket always streams")
        run = self._start(ask, implied)
        self._conversation_id = run.turn.conversation_id or self._conversation_id
        self._show(run, 0, ref, ask.flush_ms)

    def _start(self, ask: Ask, implied: str | None) -> Run:
        if self._caller is None:
            raise Refusal("unauthorized", 'Say first who asks: {"type": "auth", "token": "…"}.')
        try:
            return self._relay.runs.start(ask, self._caller, implied)
        except Refusal as refusal:
            if implied is None or refusal.code != "conversation_not_found":
                raise
            # Nobody named it: it expired, or its first turn failed and it never was one. `start` names the new one.
            return self._relay.runs.start(ask, self._caller)

    def _follow(self, fields: dict[str, Any], ref: Ref) -> None:
        follow = checked(fields, Follow)
        try:
            run = self._relay.runs.get(follow.run_id)
        except Refusal as refusal:
            found_nothing(refusal, self._relay.observer)
            raise
        after = goes_on(run, "" if follow.after is None else str(follow.after))
        if after:
            came_back(run, after, self._relay.observer)
        if run.ended and after >= run.last_seq:
            self._say("ended", ref, run.id)
        elif len(self._followed) >= FOLLOWED_MAX:
            raise _too_many()
        else:
            self._show(run, after, ref, follow.flush_ms)

    def _stop(self, fields: dict[str, Any], ref: Ref) -> None:
        """Stop a run. The answer is its `end`: the one that the socket waits for already, or one of its own."""
        run = self._relay.runs.get(checked(fields, Stop).run_id)
        run.end_early("stopped")
        if run.id not in self._followed.values():
            self._show(run, run.last_seq - 1 if run.ended else run.last_seq, ref)

    def _ping(self, fields: dict[str, Any], ref: Ref) -> None:
        """Answer a page, which sees nothing of the protocol's own pings."""
        checked(fields, Ping)
        self._say("pong", ref)

    # -- frames ----------------------------------------------------------------------------------------------------

    def _show(self, run: Run, after: int, ref: Ref, flush_ms: int | None = None) -> None:
        """Write what there is of the run, so that `start` leaves before the upstream is called; then what comes."""
        if flush_ms is None:
            flush_ms = self._relay.stream_settings.flush_ms
        cursor, format_ = run.follow(after, flush_ms / 1000), Ws(run.id, ref)
        self._followed[cursor] = run.id
        self._write(cursor.read(0), format_)
        if cursor.done:
            self._forget(cursor)
        else:
            self._followers.spawn(self._show_rest, cursor, format_)

    def _show_rest(self, cursor: Cursor, format_: Ws) -> None:
        try:
            while not cursor.done:
                self._write(cursor.read(READ_SECONDS), format_)
        except ConnectionClosed:
            pass  # `receive` sees it too, and ends the session
        except Exception:
            self._break_off()
        finally:
            self._forget(cursor)

    def _forget(self, cursor: Cursor) -> None:
        cursor.close(by_us=self._client.dropped)
        del self._followed[cursor]
        self._active_at = time.monotonic()

    def _write(self, entries: list[Entry], format_: Ws) -> None:
        for frames in writes(format_, entries):
            self._sent_bytes += len(frames)
            self._socket.write(frames)

    def _refuse(self, refusal: Refusal, ref: Ref, fields: dict[str, Any]) -> None:
        self._relay.observer(
            Refused(
                code=refusal.code,
                status=refusal.status,
                endpoint="websocket",
                request_id=self._request_id,
                trace=self._trace,
            )
        )
        error = EndError(
            code=refusal.code,
            message=refusal.message,
            retryable=refusal.retry_after is not None,
            retry_after=refusal.retry_after,
            status=refusal.status,
        )
        run_id = fields.get("run_id")
        self._say("refused", ref, run_id if isinstance(run_id, str) and is_run_id(run_id) else None, error=error)

    def _say(self, type: str, ref: Ref, run_id: str | None = None, **more: object) -> None:  # noqa: A002
        self._socket.write(text_frame(jsontext.dumps({"run_id": run_id, "ref": ref, "type": type, **more})))


def _too_many() -> Refusal:
    message = f"This socket follows {FOLLOWED_MAX} runs already; wait, or open another one."
    return Refusal("too_many_runs", message, retry_after=FULL_RETRY_AFTER_SECONDS)


def _decoded(text: bytes) -> tuple[object, str]:
    """Return what the text holds, None where it is not JSON; and why it cannot be passed on, "" where it can.

    Half a character (a lone surrogate), or a number that is none, is JSON to some: it is answered under its `ref`.
    """
    try:
        return jsontext.strict(text), ""
    except jsontext.NotJSON as error:
        problem = str(error)
    with contextlib.suppress(jsontext.NotJSON):
        return jsontext.loads(text.decode()), problem
    return None, problem
