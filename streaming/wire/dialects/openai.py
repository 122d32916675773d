"""OpenAI chat completions, as OpenAI, Azure, DeepSeek, vLLM, Ollama, llama.cpp, LiteLLM and others speak it.

Rules that hold for all of them: never take `choices[0]` for granted; a clean end of the body is no success; success
needs a `finish_reason`; errors come inside HTTP 200; usage comes on the last chunk, after it, on every chunk, or never.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from streaming.wire import jsontext
from streaming.wire.ask import Ask, AskError, Context, Options
from streaming.wire.dialects import Request, Verdict, failed
from streaming.wire.dialects import openai_chunks as chunks
from streaming.wire.dialects.http import endpoint, failure_of_status, json_object, quota_spent
from streaming.wire.errors import Failure
from streaming.wire.events import Event, Reasoning, Token, ToolCall, Usage
from streaming.wire.sse import ServerSentEvent

ANY_MODEL = "*"  # among `models`: whatever the caller says
ANY_OPTION = "*"  # among `options`: all that an ask can have
MAX_COUNT = 2**53  # what every JSON reader can hold; more is no count of tokens
_TOKEN_OPTIONS = ("max_tokens", "max_completion_tokens")
_QUOTA_CODES = {"insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"}
_CALLERS_FAULT_CODES = {"context_length_exceeded", "string_above_max_length", "content_filter"}
_CALLERS_FAULT_TYPES = {"exceed_context_size_error"}  # llama.cpp
_FAILED_FINISH_REASONS = {"error", "insufficient_system_resource"}  # OpenRouter; DeepSeek, although [DONE] follows


class OpenAI:
    """The dialect, configured for one upstream. `auth_header` is the header that carries the key (Azure: api-key)."""

    history = "relay"
    stops_by_request = False  # closing the connection is the stop

    def __init__(
        self,
        *,
        url: str,
        api_key: str | None,
        model: str | None,
        models: tuple[str, ...] = (),
        max_tokens: int | None = None,
        options: tuple[str, ...] = (ANY_OPTION,),
        auth_header: str = "Authorization",
        system_prompt: str | None = None,
        include_usage: bool = True,
    ) -> None:
        self.model = model
        self.models = models
        self._max_tokens = max_tokens
        self._options = options
        self._url = endpoint(url, "chat/completions")
        self._token_option = _TOKEN_OPTIONS[
            urlsplit(url).hostname == "api.openai.com"
        ]  # the older name is known to all but its newest
        self._headers = auth_headers(auth_header, api_key)
        self._system_prompt = system_prompt
        self._include_usage = include_usage

    def check(self, ask: Ask) -> None:
        """Raise AskError for what only Dify has, and for a model or an option that nobody allowed."""
        for name in ("inputs", "files"):
            if getattr(ask, name) is not None:
                raise AskError(f"field '{name}' is for Dify; this upstream takes 'prompt' or 'messages'", name)
        if ask.model not in {None, self.model, *self.models} and ANY_MODEL not in self.models:
            raise AskError("field 'model': this upstream does not let callers choose that one", "model")
        for name, value in msgspec.to_builtins(ask.options or Options()).items():
            if name not in self._options and ANY_OPTION not in self._options:
                raise AskError(f"field '{name}': this upstream does not let callers set it", f"options.{name}")
            if name in _TOKEN_OPTIONS and self._max_tokens is not None and value > self._max_tokens:
                raise AskError(f"field '{name}': this upstream allows {self._max_tokens} at most", f"options.{name}")

    def request(self, ask: Ask, context: Context) -> Request:
        """Return the streaming call; its messages are the context's, after the configured system prompt."""
        messages: list[Any] = list(context.messages)
        if self._system_prompt and messages[0].role not in {"system", "developer"}:
            messages.insert(0, {"role": "system", "content": self._system_prompt})
        body: dict[str, Any] = {"messages": messages, "stream": True}
        if model := ask.model or self.model:
            body["model"] = model
        if self._include_usage:  # some old servers reject the unknown field
            body["stream_options"] = {"include_usage": True}
        if ask.user:
            body["user"] = ask.user
        body |= msgspec.to_builtins(ask.options or Options())
        if self._max_tokens is not None and not body.keys() & set(_TOKEN_OPTIONS):
            body[self._token_option] = self._max_tokens
        return Request(url=self._url, headers=self._headers, body=jsontext.dumps(body))

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Return the failure; bodies come as {"error": {…}}, {"error": "…"}, {"detail": …}, text or HTML."""
        error = json_object(body).get("error")
        error = error if isinstance(error, dict) else {}
        code, kind, parameter = (error.get(key) for key in ("code", "type", "param"))
        if _is_one_of(code, _QUOTA_CODES) or _is_one_of(kind, _QUOTA_CODES) or status == 402:
            return quota_spent()
        if _is_one_of(code, _CALLERS_FAULT_CODES) or _is_one_of(kind, _CALLERS_FAULT_TYPES):
            return Failure("upstream_rejected", _message_for(str(code)), status=400)
        if status in {400, 422} and isinstance(parameter, str) and _callers_field(parameter):
            return Failure("upstream_rejected", f"The upstream rejected the field '{parameter[:64]}'.", status=400)
        return failure_of_status(status, headers)

    def reader(self, context: Context) -> "Reader":
        """Return a reader for one answer."""
        return Reader()


class Reader:
    """Reads one answer; see dialects.Reader."""

    conversation_id = None

    def __init__(self) -> None:
        self.ending = self.complete = False
        self._failure: Failure | None = None
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self._surrogates = jsontext.SurrogateJoiner()

    def feed(self, event: ServerSentEvent) -> list[Event]:
        """Return our events for one chunk; see dialects.Reader."""
        data = event.data
        if not data:
            return []
        if data.startswith("[DONE]"):
            self.complete = True
            return self._flush()
        try:
            chunk = chunks.decode_typed(data)
        except chunks.NOT_TYPED:
            chunk, whole = chunks.decode_leniently(data), False
        else:
            whole = not self._surrogates.held  # the typed decoder takes no half characters
        if chunk.error:
            return self._fail(chunk.error)
        if chunk.usage:
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            if choice.index == 0:  # n > 1 is never asked for, but LiteLLM and others may send it
                if whole and (text := _text_alone(choice)):
                    return [Token(text=text)]
                return self._choice(choice)
        return []

    def _choice(self, choice: chunks.Choice) -> list[Event]:
        events = self._delta(choice.delta) if choice.delta is not None else []
        if choice.finish_reason:
            self._finish_reason, self.ending = choice.finish_reason, True
            events += self._flush()
            if choice.finish_reason in _FAILED_FINISH_REASONS:
                self._fail(choice.finish_reason)
        return events

    def _delta(self, delta: chunks.Delta) -> list[Event]:
        events: list[Event] = []
        thought = delta.reasoning_content or delta.reasoning
        if thought and (thought := self._surrogates.push("reasoning", thought)):
            events.append(Reasoning(text=thought))
        text = (delta.content or "") + (delta.refusal or "")
        if text and (text := self._surrogates.push("answer", text)):
            events.append(Token(text=text))
        for call in delta.tool_calls or ():
            function = call.function or chunks.Function()
            channel = f"tool {call.index}"
            arguments = self._surrogates.push(channel, function.arguments or "")
            events.append(ToolCall(index=call.index, id=call.id, name=function.name, arguments=arguments))
        return events

    def _flush(self) -> list[Event]:
        """Half a character that waits for its other half will never get it."""
        thought, text = self._surrogates.flush("reasoning"), self._surrogates.flush("answer")
        return [*([Reasoning(text=thought)] if thought else []), *([Token(text=text)] if text else [])]

    def _fail(self, error: Any) -> list[Event]:
        code = error.get("code") if isinstance(error, dict) else None
        if _is_one_of(code, _QUOTA_CODES):
            self._failure = quota_spent()
        elif _is_one_of(code, _CALLERS_FAULT_CODES):
            self._failure = Failure("upstream_rejected", _message_for(str(code)), status=400)
        else:
            self._failure = Failure("upstream_failed")
        self.ending = self.complete = True
        return []

    def eof(self) -> Verdict:
        """Return the verdict; without a finish_reason the answer was cut off."""
        usage = usage_of(self._usage)
        if self._failure is not None:
            return Verdict(reason="error", finish_reason=self._finish_reason, failure=self._failure, usage=usage)
        if not self._finish_reason:
            return failed("upstream_truncated", usage=usage)
        return Verdict(reason="done", finish_reason=self._finish_reason, usage=usage)

    def stop_request(self) -> Request | None:
        """Return None: closing the connection stops the answer."""
        return None


def _text_alone(choice: chunks.Choice) -> str | None:
    """Return the text of a choice that holds nothing else, as nearly all do; None = it does, or holds none.

    One call in place of three and a search for half characters.
    """
    delta = choice.delta
    if delta is None or choice.finish_reason or delta.tool_calls:
        return None
    if delta.reasoning_content or delta.reasoning or delta.refusal:
        return None
    return delta.content


def auth_headers(auth_header: str, api_key: str | None) -> dict[str, str]:
    """Return the request headers; the key is a bearer token only in `Authorization`."""
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    if api_key:
        headers[auth_header] = f"Bearer {api_key}" if auth_header.lower() == "authorization" else api_key
    return headers


def usage_of(details: dict[str, Any] | None) -> Usage | None:
    """Return the upstream's counts, None where it told none; all zero counts as unknown."""
    if not details:
        return None
    counts = [details.get(key) for key in ("prompt_tokens", "completion_tokens", "total_tokens")]
    prompt, completion, total = (count if type(count) is int and 0 <= count <= MAX_COUNT else None for count in counts)
    if not (prompt or completion or total):
        return None
    if total is None and prompt is not None and completion is not None:
        total = prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total, exact=True, details=details)


def _is_one_of(value: Any, known: set[str]) -> bool:
    return isinstance(value, str) and value in known


def _callers_field(parameter: str) -> bool:
    return parameter.split("[")[0].split(".")[0] in {*Options.__struct_fields__, "messages", "user"}


def _message_for(code: str) -> str:
    if code == "content_filter":
        return "The upstream's content filter refused the prompt."
    return "The prompt is longer than the upstream accepts."
