"""The AI SDK face: `useChat` pages over any upstream, with exact resume.

`useChat`'s own stop() hangs up, and so does a reload: neither ends the run, which goes on unless the page asks for
another `on_disconnect`. POST /api/chat/<id>/stop ends it, and so does the chat's next question.
"""

import re
from collections.abc import Callable

from flask import Blueprint, Request, Response, request

from streaming.relay.caller import Caller
from streaming.relay.chats import Chat
from streaming.relay.run import Run
from streaming.web.admission import admitted_caller
from streaming.web.asking import query, read_body, read_flush_ms, read_json, with_key
from streaming.web.relay import Relay, current_caller, current_relay
from streaming.web.resuming import came_back
from streaming.web.routes import STOP_WAIT_SECONDS, refuse_what_nobody_reads, stop
from streaming.web.streams import stream_run
from streaming.wire import ui_messages
from streaming.wire.errors import Refusal
from streaming.wire.events import LOST_END_SKIP
from streaming.wire.formats.ai_sdk import AiSdk, count_chunks
from streaming.wire.ui_messages import ChatRequest

_INDEX = re.compile(r"-?[0-9]{1,15}\Z")  # more than any log holds; int() of a longer text would only cost time

_NOT_THERE = {"run_not_found", "run_expired", "other_instance"}

ai_sdk = Blueprint("ai_sdk", __name__)


@ai_sdk.post("/api/chat")
def ask() -> Response:
    """Start a run for the chat's messages and stream it."""
    relay, caller = current_relay(), admitted_caller()
    asked = ui_messages.from_body(read_json(request))
    before = relay.chats.find(asked.id, caller.owner)
    run = _start(relay, asked, before, caller)
    chat = Chat(run.id, run.turn.conversation_id, asked.own.get("upstream"))
    relay.chats.note(asked.id, caller.owner, chat)
    if asked.continues is not None:
        relay.chats.note_continued(run.id, asked.continues)
    return _stream(relay, run, AiSdk(message_id=asked.continues), asked.own.get("flush_ms"))


def _start(relay: Relay, asked: ChatRequest, before: Chat | None, caller: Caller) -> Run:
    """Start the run; a page shows one answer of a chat at a time, so an unfinished one before it is stopped."""
    upstream = asked.own.get("upstream")
    history = next((each.history for each in relay.runs.upstreams if each.name == upstream), None)
    history = history or relay.runs.upstreams[0].history
    conversation_id = before.conversation_id if before is not None and before.upstream == upstream else None
    ask = with_key(request, asked.ask(history, conversation_id))
    previous = _running(lambda: relay.runs.get(before.run_id)) if before is not None else None
    if previous is not None and ask.idempotency_key is None:
        previous.end_early("stopped")
        if conversation_id is not None:  # it takes no second question before the first one's end
            previous.wait_end(STOP_WAIT_SECONDS)
    try:
        return relay.runs.start(ask, caller)
    except Refusal as refusal:
        if refusal.code != "conversation_not_found":
            raise
    return relay.runs.start(with_key(request, asked.ask(history, None)), caller)


@ai_sdk.get("/api/chat/<path:chat_id>/stream")
def resume(chat_id: str) -> Response:
    """Go on at chunk `?startIndex=`, negative = that many from the end. Without it: the whole run while it is running.

    204 where there is nothing (more) to be told.
    """
    refuse_what_nobody_reads(request)
    relay, index, flush_ms = current_relay(), _start_index(request), read_flush_ms(request)
    read_body(request)  # unread, it would look like a client that goes on talking, and its leaving would go unseen
    run = _find(relay, chat_id) if index is not None else _running(lambda: _find(relay, chat_id))
    if run is None:
        return Response(status=204)
    if not index:
        came_back(run, 0, relay.observer)
        return _stream(relay, run, AiSdk(message_id=relay.chats.continued(run.id)), flush_ms)
    count = count_chunks(run.entries())
    start = index if index > 0 else max(0, count + index)
    if not is_ahead(run, start, count):
        return Response(status=204)
    came_back(run, 0, relay.observer)
    message_id = relay.chats.continued(run.id) if start == 0 else None  # the first chunk tells it
    response = _stream(relay, run, AiSdk(skip=start, message_id=message_id), flush_ms)
    if index < 0:
        response.headers["X-Workflow-Stream-Tail-Index"] = str(count - 1)
    return response


def is_ahead(run: Run, start: int, count: int) -> bool:
    """Return whether chunk `start` or a later one is still to come, in a run of `count` chunks so far.

    Raises Refusal where no client can have come so far.
    """
    if start < count or run.last_seq > LOST_END_SKIP:  # the end of a lost log is told to whoever has more of it
        return True
    if not run.has(run.last_seq + start - count):
        raise Refusal("bad_cursor", "The parameter 'startIndex' lies beyond the run's last chunk.")
    return not run.ended


@ai_sdk.post("/api/chat/<path:chat_id>/stop")
def end(chat_id: str) -> Response:
    """Stop the chat's run; 204 where none is running."""
    read_body(request)
    relay = current_relay()
    run = _running(lambda: _find(relay, chat_id))
    return stop(run.id) if run is not None else Response(status=204)


def _start_index(request: Request) -> int | None:
    text = query(request).get("startIndex")
    if text is not None and not _INDEX.match(text):
        raise Refusal("bad_cursor", "The parameter 'startIndex' is a whole number.")
    return int(text) if text is not None else None


def _find(relay: Relay, id_: str) -> Run:
    """Return the run of this id, or else the last one of the caller's chat of this id. Raises Refusal."""
    try:
        return relay.runs.get(id_)
    except Refusal:
        chat = relay.chats.find(id_, current_caller().owner)
        if chat is None:
            raise
    return relay.runs.get(chat.run_id)


def _running(find: Callable[[], Run]) -> Run | None:
    """Return the run that `find` finds, None where there is none that is running."""
    try:
        run = find()
    except Refusal as refusal:
        if refusal.code not in _NOT_THERE:
            raise
        return None
    return None if run.ended else run


def _stream(relay: Relay, run: Run, format_: AiSdk, flush_ms: int | None) -> Response:
    """Return a response that shows the run. It is never rolled over: DefaultChatTransport takes that for the end."""
    response = stream_run(run, 0, format_, relay.stream_settings, flush_ms=flush_ms)
    response.headers["X-Vercel-AI-UI-Message-Stream"] = "v1"
    response.headers["X-Workflow-Run-Id"] = run.id
    return response
