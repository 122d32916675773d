"""Reads one answer of a Dify app, of either version's wire (see dify.py)."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import msgspec

from streaming.wire import jsontext
from streaming.wire.dialects import Request, Verdict
from streaming.wire.dialects.dify_steps import Steps
from streaming.wire.dialects.dify_text import AnswerText
from streaming.wire.dialects.http import quota_spent
from streaming.wire.dialects.openai import usage_of
from streaming.wire.errors import Failure
from streaming.wire.events import Event, File, Usage
from streaming.wire.sse import ServerSentEvent

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")  # it goes into a URL: nothing that could change the path
_QUOTA_CODES = {"provider_quota_exceeded"}
_STOP_TEXTS = ("Aborted: User requested stop", "Stopped by user")  # 1.15.0 may call a stopped run "failed"
_SOURCE_FIELDS = ("position", "dataset_name", "document_name", "score", "content")
_FORM_FIELDS = (
    "form_id",
    "form_token",
    "node_id",
    "node_title",
    "form_content",
    "inputs",
    "resolved_default_values",
    "actions",
    "display_in_ui",
    "expiration_time",
)


class _Head(msgspec.Struct, gc=False):
    """The fields that most events are read for; the rest of an event is built only where it is needed."""

    event: str = ""
    answer: str | None = None
    conversation_id: str | None = None
    task_id: str | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


class Reader:
    """Reads one answer; see dialects.Reader. `stop` makes the stop request for a task id."""

    def __init__(
        self, *, mode: str, base_url: str, asked_conversation_id: str | None, stop: Callable[[str], Request]
    ) -> None:
        self.conversation_id = asked_conversation_id
        self.ending = self.complete = False
        self._mode = mode
        self._base_url = base_url
        self._asked_conversation_id = asked_conversation_id
        self._stop = stop
        self._task_id: str | None = None
        self._answer = AnswerText()
        self._steps = Steps()
        self._files: set[str] = set()
        self._workflow_seen = False
        self._message_end_seen = False
        self._workflow_status: str | None = None
        self._failure: Failure | None = None
        self._stopped = False
        self._paused = False
        self._usage: Usage | None = None
        self._workflow_tokens: int | None = None
        self._metadata: dict[str, Any] = {}

    def feed(self, event: ServerSentEvent) -> list[Event]:
        """Return our events for one of Dify's; see dialects.Reader."""
        whole: dict[str, Any] | None = None
        try:
            head = _decode_head(event.data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            whole = _decode_whole(event.data)
            head = _Head(
                event=_text(whole, "event") or "",
                answer=_text(whole, "answer"),
                conversation_id=_text(whole, "conversation_id"),
                task_id=_text(whole, "task_id"),
            )
        self._remember(head)
        if head.event == "message":
            return self._answer.message(head.answer or "")
        if head.event == "agent_message":
            return self._answer.agent_message(head.answer or "")
        handler = _HANDLERS.get(head.event)
        if handler is None:
            return (
                self._steps.read(head.event, whole or _decode_whole(event.data)) if head.event in Steps.EVENTS else []
            )
        return handler(self, whole or _decode_whole(event.data))

    def _remember(self, head: _Head) -> None:
        if head.task_id and self._task_id is None and _ID.match(head.task_id):
            self._task_id = head.task_id
        if head.conversation_id and head.conversation_id != self.conversation_id:
            self.conversation_id = head.conversation_id
            if self._asked_conversation_id:  # 1.15.0 chatflows answer an unknown id with a new conversation
                self._metadata["conversation_reset"] = True

    # -- text ------------------------------------------------------------------------------------------------------

    def _text_chunk(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.append(_text(_data(event), "text") or "")

    def _replace(self, event: dict[str, Any]) -> list[Event]:
        text = _text(event, "answer")
        return self._answer.moderate(text if text is not None else _text(_data(event), "text") or "")

    def _reasoning(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.think(_text(_data(event), "reasoning") or "")

    # -- files -----------------------------------------------------------------------------------------------------

    def _message_file(self, event: dict[str, Any]) -> list[Event]:
        return self._new_files([event])

    def _new_files(self, files: Any) -> list[Event]:
        events: list[Event] = []
        for file in files if isinstance(files, list) else ():
            url = _text(file, "url") if isinstance(file, dict) else None
            if url is None:
                continue
            file_id = _text(file, "id") or _text(file, "related_id") or url
            if file_id not in self._files:
                self._files.add(file_id)
                kind = _text(file, "type") or "file"
                events.append(File(id=file_id, kind=kind, url=_absolute(self._base_url, url)))
        return events

    # -- endings ---------------------------------------------------------------------------------------------------

    def _note(self, name: str, event: dict[str, Any]) -> None:
        if _ID.match(_text(event, name) or ""):
            self._metadata[name] = event[name]

    def _workflow_started(self, event: dict[str, Any]) -> list[Event]:
        self._workflow_seen = True
        self._note("message_id", event)
        return []

    def _message_end(self, event: dict[str, Any]) -> list[Event]:
        self._message_end_seen = self.ending = True
        self._note("message_id", event)
        metadata = event.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        usage = metadata.get("usage")
        self._usage = usage_of(usage if isinstance(usage, dict) else None)
        resources = metadata.get("retriever_resources")
        sources = [_picked(item, _SOURCE_FIELDS) for item in resources] if isinstance(resources, list) else []
        if any(sources):
            self._metadata["sources"] = [source for source in sources if source]
        # A chatflow has two endings, in an order that depends on the version; every other app has this one.
        self.complete = not self._workflow_seen or self._workflow_status is not None
        return [*self._answer.finish(), *self._new_files(event.get("files"))]

    def _workflow_finished(self, event: dict[str, Any]) -> list[Event]:
        data = _data(event)
        status = _text(data, "status") or "succeeded"
        self._workflow_status, self.ending = status, True
        self._workflow_seen = True
        tokens = data.get("total_tokens")
        self._workflow_tokens = tokens if type(tokens) is int and tokens > 0 else None
        # `failed` after `message_end` is a delivered answer: a chatflow whose input was blocked (1.15.0).
        if status == "failed" and not self._message_end_seen:
            self._stopped = (_text(data, "error") or "").startswith(_STOP_TEXTS)
            self._failure = None if self._stopped else Failure("upstream_failed")
        self.complete = self._message_end_seen or self._mode == "workflow"
        events = self._answer.finish()
        if self._mode == "workflow":
            events += self._outputs(data.get("outputs"))
        return [*events, *self._new_files(data.get("files"))]

    def _outputs(self, outputs: Any) -> list[Event]:
        """A workflow without streaming text nodes has its text in its outputs alone."""
        if not isinstance(outputs, dict) or not outputs:
            return []
        texts = [value for value in outputs.values() if isinstance(value, str)]
        others = {name: value for name, value in outputs.items() if not isinstance(value, str)}
        if others:
            self._metadata["outputs"] = others
        return self._answer.append("\n".join(texts)) if not self._answer.any else []

    def _human_input(self, event: dict[str, Any]) -> list[Event]:
        """Branches side by side can each wait for a person; `form` is the first one's, `forms` are all of several."""
        form = _picked(_data(event), _FORM_FIELDS)
        first = self._metadata.setdefault("form", form)
        if first is not form:
            self._metadata.setdefault("forms", [first]).append(form)
        return []

    def _workflow_paused(self, event: dict[str, Any]) -> list[Event]:
        self._paused = self.ending = self.complete = True
        self._note("workflow_run_id", event)  # Dify's events go on under it once the form is answered
        return self._answer.finish()

    def _error(self, event: dict[str, Any]) -> list[Event]:
        quota = _text(event, "code") in _QUOTA_CODES
        self._failure = quota_spent() if quota else Failure("upstream_failed")
        self.ending = self.complete = True
        return self._answer.finish()

    def eof(self) -> Verdict:
        """Return the verdict; without a terminal event the answer was cut off."""
        reason, failure = self._reason()
        return Verdict(
            reason=reason,
            failure=failure,
            finish_reason=self._workflow_status,
            usage=self._known_usage(),
            metadata=self._metadata,
        )

    def _reason(self) -> tuple[str, Failure | None]:
        if self._failure is not None:
            return "error", self._failure
        if self._paused:
            return "paused", None
        # Moderation ends a chatflow as "stopped" with a replaced, delivered answer; otherwise someone asked for it.
        if self._stopped or (self._workflow_status == "stopped" and not self._answer.moderated):
            return "stopped", None
        if self._message_end_seen or self._workflow_status:
            return "done", None
        return "error", Failure("upstream_truncated")

    def _known_usage(self) -> Usage | None:
        if self._usage is None and self._workflow_tokens is not None:
            return Usage(prompt_tokens=None, completion_tokens=None, total_tokens=self._workflow_tokens, exact=True)
        return self._usage

    def stop_request(self) -> Request | None:
        """Return the stop call, None while the task is not known."""
        return self._stop(self._task_id) if self._task_id else None


_HANDLERS: dict[str, Callable[[Reader, dict[str, Any]], list[Event]]] = {
    "text_chunk": Reader._text_chunk,
    "message_replace": Reader._replace,
    "text_replace": Reader._replace,
    "reasoning_chunk": Reader._reasoning,
    "message_file": Reader._message_file,
    "workflow_started": Reader._workflow_started,
    "message_end": Reader._message_end,
    "workflow_finished": Reader._workflow_finished,
    "human_input_required": Reader._human_input,
    "workflow_paused": Reader._workflow_paused,
    "error": Reader._error,
}


def _decode_whole(data: str) -> dict[str, Any]:
    try:
        value = jsontext.loads(data)
    except jsontext.NotJSON:
        raise Failure("upstream_invalid") from None
    if not isinstance(value, dict):
        raise Failure("upstream_invalid")
    return value


def _data(event: dict[str, Any]) -> dict[str, Any]:
    data = event.get("data")
    return data if isinstance(data, dict) else {}


def _text(value: dict[str, Any], key: str) -> str | None:
    item = value.get(key)
    return item if isinstance(item, str) else None


def _absolute(base_url: str, url: str) -> str:
    try:
        return urljoin(base_url, url)
    except ValueError:  # "http://[": a page can show it as little as a browser can open it
        return url


def _picked(value: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[name] for name in fields if name in value} if isinstance(value, dict) else {}
