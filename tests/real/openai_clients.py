"""OpenAI's official clients, each asked once: what they got, or what they raised, in the same form."""

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

import openai

from tests.live import WAIT_SECONDS
from tests.real.servers import HERE, NODE

CLIENTS = ("python", "node")
WAYS = ("object", "stream", "helper")  # one object, chunks, and chunks that the client itself puts together


@dataclass
class Outcome:
    """What one call came to. `tool_calls` are (id, name, arguments); `error` is {name, status, code}."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    usage: dict[str, Any] | None = None
    tool_calls: list[tuple[str, str, str]] = field(default_factory=list)
    id: str | None = None
    model: str | None = None
    conversation_id: str | None = None
    message: dict[str, Any] | None = None  # as the caller sends it back in its next request
    error: dict[str, Any] | None = None

    def joined(self) -> "Outcome":
        """Join what the client got: it leaves a character that a server cut into two surrogates in halves."""
        self.text, self.reasoning = _joined(self.text), _joined(self.reasoning)
        self.tool_calls = [(id_, name, _joined(arguments)) for id_, name, arguments in self.tool_calls]
        self.usage = self.usage and {name: value for name, value in self.usage.items() if value is not None}
        return self


def _joined(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def ask(
    client: str, how: str, url: str, key: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Outcome:
    """Return what the client makes of the server at `url`, which ends in /v1."""
    return (_python if client == "python" else _node)(how, url, key, body, headers or {}).joined()


def models(client: str, url: str) -> list[str]:
    """Return the ids of the models that the client finds."""
    if client == "node":
        return _run_node({"how": "models", "baseURL": url, "apiKey": "x"})["ids"]
    with openai.OpenAI(base_url=url, api_key="x") as python:
        return [python.models.retrieve(model.id).id for model in python.models.list()]


# -- Node --------------------------------------------------------------------------------------------------------------


def _node(how: str, url: str, key: str, body: dict[str, Any], headers: dict[str, str]) -> Outcome:
    order = {"how": how, "baseURL": url, "apiKey": key, "body": body, "options": {"headers": headers}}
    told = _run_node(order)
    told["tool_calls"] = [tuple(call) for call in told["tool_calls"]]
    return Outcome(**told)


def _run_node(order: dict[str, Any]) -> dict[str, Any]:
    script = HERE / "openai_client.mjs"
    done = subprocess.run(
        [NODE, script], input=json.dumps(order), capture_output=True, text=True, timeout=3 * WAIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


# -- Python ------------------------------------------------------------------------------------------------------------


def _python(how: str, url: str, key: str, body: dict[str, Any], headers: dict[str, str]) -> Outcome:
    outcome = Outcome()
    with openai.OpenAI(base_url=url, api_key=key, timeout=WAIT_SECONDS) as client:
        chat = client.chat.completions
        try:
            if how == "object":
                return _of_object(chat.create(**body, extra_headers=headers))
            if how == "helper":
                with chat.stream(**body, extra_headers=headers) as stream:
                    return _of_object(stream.get_final_completion())
            with chat.create(**body, stream=True, extra_headers=headers) as chunks:
                _of_stream(chunks, outcome, leave=how == "leave")
        except (openai.OpenAIError, ValueError) as error:
            name, status, code = type(error).__name__, getattr(error, "status_code", None), getattr(error, "code", None)
            outcome.error = {"name": name, "status": status, "code": code}
    return outcome


def _of_object(completion: Any) -> Outcome:
    (choice,) = completion.choices
    return Outcome(
        text=choice.message.content or "",
        reasoning=getattr(choice.message, "reasoning_content", None) or "",
        finish=choice.finish_reason,
        usage=completion.usage and completion.usage.model_dump(),
        tool_calls=[(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()],
        id=completion.id,
        model=completion.model,
        conversation_id=getattr(completion, "conversation_id", None),
        message=choice.message.model_dump(),
    )


def _of_stream(chunks: Any, outcome: Outcome, *, leave: bool) -> None:
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        outcome.id, outcome.model = outcome.id or chunk.id, outcome.model or chunk.model
        outcome.conversation_id = outcome.conversation_id or getattr(chunk, "conversation_id", None)
        outcome.usage = chunk.usage.model_dump() if chunk.usage else outcome.usage
        for choice in chunk.choices:
            outcome.text += choice.delta.content or ""
            outcome.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            outcome.finish = choice.finish_reason or outcome.finish
            for call in choice.delta.tool_calls or ():
                pieces = calls.setdefault(call.index, [call.id, call.function.name, ""])
                pieces[2] += call.function.arguments or ""
        if leave and outcome.text:
            break
    outcome.tool_calls = [(id_, name, arguments) for id_, name, arguments in calls.values()]
