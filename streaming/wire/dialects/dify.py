"""Dify's service API: chat, agent and chatflow apps (mode "chat"), completion apps, workflow apps.

Checked against Dify 0.15.3 and 1.15.0, which differ in the order of their endings, in what a stop looks like and in
how they write JSON. Closing the connection does not stop Dify: the stop is a call of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from streaming.wire import jsontext
from streaming.wire.ask import Ask, AskError, Context, Message
from streaming.wire.dialects import Request
from streaming.wire.dialects.dify_files import check_references
from streaming.wire.dialects.dify_reader import Reader
from streaming.wire.dialects.http import busy, endpoint, failure_of_status, json_object, quota_spent
from streaming.wire.dialects.openai import auth_headers
from streaming.wire.errors import Failure

_PATHS = {"chat": "chat-messages", "completion": "completion-messages", "workflow": "workflows/run"}
_STOP_PATHS = {
    "chat": "chat-messages/{task}/stop",
    "completion": "completion-messages/{task}/stop",
    "workflow": "workflows/tasks/{task}/stop",
}
_QUOTA_CODES = {"rate_limit_error", "provider_quota_exceeded"}
_CALLERS_FAULT_CODES = {
    "invalid_param",
    "no_file_uploaded",
    "too_many_files",
    "file_too_large",
    "unsupported_file_type",
    "filename_not_exists_error",
    "file_extension_blocked",
}
_TOO_MANY = "too many requests"  # the concurrency ceiling is an HTTP 400 invalid_param that begins with these words
_NO_CONVERSATION = "conversation not exists"  # newer versions go on with advice, so only the beginning counts


class Dify:
    """The dialect, configured for one app.

    `mode` is chat (agents and chatflows too), completion or workflow; `prompt_input` is the input that takes the prompt
    where the app has no conversation.
    """

    stops_by_request = True
    model = None  # the app's own business
    models = ()

    def __init__(self, *, url: str, api_key: str | None, mode: str = "chat", prompt_input: str = "query") -> None:
        self.history = "upstream" if mode == "chat" else "none"
        self._url = url
        self._mode = mode
        self._prompt_input = prompt_input
        self._headers = auth_headers("Authorization", api_key)

    def check(self, ask: Ask) -> None:
        """Raise AskError where the app cannot take the ask."""
        if ask.options is not None:
            raise AskError("field 'options': a Dify app sets its model's options itself", "options")
        if ask.model is not None:
            raise AskError("field 'model': a Dify app chooses its model itself", "model")
        if self._mode == "chat" and ask.prompt is None and ask.messages is None:
            raise AskError("'prompt' is missing")
        if self.history == "none" and ask.conversation_id is not None:
            raise AskError("field 'conversation_id': this Dify app keeps no conversations", "conversation_id")
        if ask.files is not None:
            check_references(ask.files)

    def request(self, ask: Ask, context: Context) -> Request:
        """Return the streaming call (an absent response_mode would mean blocking)."""
        inputs = dict(ask.inputs or {})
        body: dict[str, Any] = {"inputs": inputs, "response_mode": "streaming", "user": context.user}
        prompt = ask.prompt if ask.messages is None else flattened(ask.messages)
        if self._mode != "chat" and prompt is not None:
            inputs.setdefault(self._prompt_input, prompt)
        if self._mode != "workflow":  # completion apps have taken it as an input for long; old ones want both
            body["query"] = prompt or ""
        if self._mode == "chat":
            body["conversation_id"] = context.conversation_id or ""
        if ask.files is not None:
            body["files"] = ask.files
        if context.request_id is not None:
            body["trace_id"] = context.request_id
        return Request(url=endpoint(self._url, _PATHS[self._mode]), headers=self._headers, body=jsontext.dumps(body))

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """See dialects.Dialect."""
        return failure_of(status, headers, body)

    def reader(self, context: Context) -> Reader:
        """Return a reader for one answer."""
        return Reader(
            mode=self._mode, base_url=self._url, asked_conversation_id=context.conversation_id, stop=self._stop(context)
        )

    def _stop(self, context: Context) -> "StopCall":
        return StopCall(endpoint(self._url, _STOP_PATHS[self._mode]), self._headers, context.user)


def failure_of(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Return the failure; bodies are {"code", "message", "status"}, or a proxy's HTML."""
    error = json_object(body)
    code, message = error.get("code"), error.get("message")
    code = code if isinstance(code, str) else ""
    message = message.lower() if isinstance(message, str) else ""
    if code in _QUOTA_CODES:
        return quota_spent()
    if status == 400 and message.startswith(_TOO_MANY):
        return busy(headers)
    if status == 404 and message.startswith(_NO_CONVERSATION):
        return Failure("upstream_rejected", "The upstream no longer has this conversation; begin a new one.")
    if status in {400, 413, 415} and code in _CALLERS_FAULT_CODES:
        return Failure("upstream_rejected", "The Dify app rejected the inputs or files.", status=400)
    return failure_of_status(status, headers)


class StopCall:
    """Makes the stop request once the task is known. The user must be the one that asked: others are ignored."""

    def __init__(self, url_pattern: str, headers: dict[str, str], user: str) -> None:
        self._url_pattern = url_pattern
        self._headers = headers
        self._user = user

    def __call__(self, task_id: str) -> Request:
        url = self._url_pattern.replace("{task}", task_id)
        return Request(url=url, headers=self._headers, body=jsontext.dumps({"user": self._user}))


def flattened(messages: Sequence[Message]) -> str:
    """Return the messages as one question: Dify takes a single query, its history lives in its own conversations."""
    if len(messages) == 1:
        return messages[0].text()
    return "\n\n".join(f"{message.role}: {message.text()}" for message in messages)
