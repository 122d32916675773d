"""What a caller may ask: one typed form for JSON bodies, HTML forms and query strings."""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from streaming.wire import jsontext
from streaming.wire.trace import Trace

# Each limit stops one request from costing more than a person's question can need; MAX_BODY_BYTES bounds the sum.
# Names end up in headers, log lines and other systems' keys, where a line break would begin something new.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_CONTROLS = r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"
Name = Annotated[str, Meta(min_length=1, max_length=256, pattern=_NO_CONTROLS)]
FlushMs = Annotated[int, Meta(ge=0, le=5000)]
StopText = Annotated[str, Meta(max_length=256)]
Parts = Annotated[list[dict[str, Any]], Meta(max_length=10_000)]
Content = str | Parts  # text, or OpenAI's content parts
T = TypeVar("T")


class Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One turn of a conversation, in OpenAI's shape."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Meta(max_length=256)] | None = None
    tool_calls: Annotated[list[dict[str, Any]], Meta(max_length=128)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None  # DeepSeek wants its thinking back beside tool calls

    def text(self) -> str:
        """Return the text alone, without images and other parts."""
        if not isinstance(self.content, list):
            return self.content or ""
        return "".join(part["text"] for part in self.content if isinstance(part.get("text"), str))


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call. Calls of tools of other types have another shape, which is not relayed."""

    type: Literal["function"]
    function: dict[str, Any]


class Options(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """What a caller may set about the generation: an allow-list, each with its cap. None = the upstream's default."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=131_072)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=131_072)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=4)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    reasoning_effort: Annotated[str, Meta(max_length=16)] | None = None
    verbosity: Annotated[str, Meta(max_length=16)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """One question to one upstream, as the caller put it. Defaults are what an absent field means."""

    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1, max_length=1000)] | None = None
    conversation_id: Name | None = None  # None begins a new conversation
    replace_last: bool = False  # the prompt takes the place of the conversation's last turn
    user: Name | None = None
    upstream: Name | None = None  # None = the first one configured
    model: Name | None = None  # one that the upstream lets callers choose; None = the configured one
    inputs: Annotated[dict[str, Any], Meta(max_length=256)] | None = None  # Dify
    files: Annotated[list[dict[str, Any]], Meta(max_length=20)] | None = None  # Dify
    options: Options | None = None
    on_disconnect: Literal["grace", "finish", "cancel"] = "grace"
    flush_ms: FlushMs | None = None  # for this response; None = the relay's setting
    idempotency_key: Name | None = None
    response_mode: Literal["streaming", "blocking"] | None = None  # Dify's word; blocking = one JSON answer


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What the relay adds to an ask before it goes to an upstream."""

    messages: list[Message]  # the whole conversation so far, the question last
    conversation_id: str | None = None  # the upstream's own, where it keeps conversations
    user: str
    request_id: str | None = None  # of the HTTP request that asked, for upstreams that note it
    trace: Trace | None = None  # in whose name the upstream is called


ALIASES = {"query": "prompt"}
_FIELDS = [*Ask.__struct_fields__, *ALIASES]
JSON_FIELDS = ("messages", "inputs", "files", "options")  # in a form or query string these are JSON text


class AskError(ValueError):
    """A field is missing, unknown, of the wrong type or out of range; the message names it.

    `field` is its path, such as messages[0].role, None where it is not a single one's fault.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        self.field = field
        super().__init__(message)


def from_json(value: Any) -> Ask:
    """Return the ask in a decoded JSON body. Raises AskError."""
    if not isinstance(value, dict):
        raise AskError("the body must be a JSON object")
    for name in value:
        if name not in _FIELDS:
            raise AskError(f"unknown field {_shown(name)}{_hint(name)}")
    return _convert(value, strict=True)


def from_pairs(pairs: Mapping[str, str]) -> Ask:
    """Return the ask in a form or query string; unknown names are ignored, empty ones count as absent.

    Raises AskError.
    """
    fields: dict[str, Any] = {}
    for name, text in pairs.items():
        if name not in _FIELDS or (text == "" and ALIASES.get(name, name) != "prompt"):
            continue
        if "\0" in text:
            raise AskError(f"field '{name}' holds a NUL character", name)
        fields[name] = _json_field(name, text) if name in JSON_FIELDS else text
    return _convert(fields, strict=False)


def _json_field(name: str, text: str) -> Any:
    try:
        return jsontext.strict(text.encode("utf-8", "surrogatepass"))
    except jsontext.NotJSON as error:
        raise AskError(f"field '{name}' must be JSON text here: it {error}") from None


def _convert(fields: dict[str, Any], *, strict: bool) -> Ask:
    for alias, name in ALIASES.items():
        if alias in fields:
            if name in fields:
                raise AskError(f"give '{name}' or '{alias}', not both")
            fields = {name: fields[alias], **{key: item for key, item in fields.items() if key != alias}}
    ask = checked(fields, Ask, strict=strict)
    _check(ask)
    return ask


def checked(value: Any, type_: type[T], *, strict: bool = True) -> T:
    """Return the value as a `type_`. Raises AskError, which names the field that is wrong."""
    try:
        return msgspec.convert(value, type_, strict=strict)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _named(str(error)) from None


def _named(message: str) -> AskError:
    """Turn msgspec's "Expected `int`, got `str` - at `$.options.seed`" into a sentence that begins with the field."""
    what, _, path = message.rpartition(" - at `$.")
    field = path.rstrip("`") if what else None
    if what.startswith("Expected `str` matching regex"):
        what = "control characters are not allowed"
    named = f"field '{field}': {what}" if field else message
    # In msgspec's messages a caller's own words stand as they are.
    return AskError(CONTROLS.sub("?", named if len(named) <= 256 else named[:256] + "…"), field)


def _check(ask: Ask) -> None:
    if ask.prompt is not None and ask.messages is not None:
        raise AskError("give 'prompt' or 'messages', not both")
    if ask.messages is not None and ask.conversation_id is not None:
        raise AskError("'messages' bring their own history: leave out 'conversation_id'")
    if ask.messages is not None and ask.replace_last:
        raise AskError("'replace_last' needs a 'prompt' and a 'conversation_id'")
    if ask.replace_last and ask.conversation_id is None:
        raise AskError("'replace_last' needs a 'conversation_id'")
    if ask.prompt is not None and not ask.prompt.strip():
        raise AskError("'prompt' is empty")
    if ask.prompt is None and ask.messages is None and ask.inputs is None:
        raise AskError("'prompt' is missing (or 'messages', or a Dify app's 'inputs')")


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, _FIELDS, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(_FIELDS)}"


def _shown(name: str) -> str:
    """Quote a caller's own word so that it cannot break a log line or a header."""
    return repr(name if len(name) <= 64 else name[:64] + "…")
