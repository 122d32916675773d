"""The two ways to ask: the official client at the server itself, and other people's readers behind the relay."""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import requests
import sseclient

from tests.live import WAIT_SECONDS, Relay
from tests.real.servers import Aimock, LlamaCpp

ACCEPT = {
    "sse": "text/event-stream",
    "ndjson": "application/x-ndjson",
    "text": "text/plain",
    "json": "application/json",
}
GREEDY = {"temperature": 0}
TIMEOUT = (5, WAIT_SECONDS)
Event = dict[str, Any]


@dataclass
class Answer:
    """One whole answer, whoever told it. `finish` is the upstream's own word."""

    text: str
    reasoning: str = ""
    finish: str | None = None
    usage: dict[str, int] | None = None
    tool_calls: list[tuple[str, str]] = field(default_factory=list)  # name, arguments


@dataclass
class Relayed(Answer):
    """What the relay told beside the answer."""

    end: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    conversation_id: str = ""

    @property
    def code(self) -> str | None:
        """Return the failure's code."""
        return self.end["error"] and self.end["error"]["code"]


# -- at the server -----------------------------------------------------------------------------------------------------


def ask_directly(server: LlamaCpp | Aimock, *messages: str, **options: Any) -> Answer:
    """Return what the official client gets from the server. The messages are the user's and the model's in turn."""
    roles = ("user", "assistant")
    turns = [{"role": roles[number % 2], "content": text} for number, text in enumerate(messages)]
    client = openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0, timeout=WAIT_SECONDS)
    text, reasoning, answer = [], [], Answer("")
    calls: dict[int, list[str]] = {}
    with client.chat.completions.create(
        model=server.model,
        messages=turns,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
        **{**GREEDY, **options},
    ) as chunks:
        for chunk in chunks:
            answer.usage = chunk.usage.model_dump(exclude_none=True) if chunk.usage else answer.usage
            for choice in chunk.choices:
                text.append(choice.delta.content or "")
                reasoning.append(getattr(choice.delta, "reasoning_content", None) or "")
                answer.finish = choice.finish_reason or answer.finish
                for call in choice.delta.tool_calls or ():
                    pieces = calls.setdefault(call.index, [call.function.name, ""])
                    pieces[1] += call.function.arguments or ""
    answer.text, answer.reasoning = _joined(text), _joined(reasoning)
    answer.tool_calls = [(name, _joined([arguments])) for name, arguments in calls.values()]
    return answer


def _joined(pieces: Iterable[str]) -> str:
    """Join what the client got: it leaves a character that the server cut into two surrogates in halves."""
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16")


# -- behind the relay --------------------------------------------------------------------------------------------------


def post(relay: Relay, format_name: str, body: dict[str, Any]) -> requests.Response:
    """Ask over /stream."""
    body = {"options": GREEDY, **body}
    headers = {"Accept": ACCEPT[format_name]}
    return requests.post(f"{relay.url}/stream", json=body, headers=headers, stream=True, timeout=TIMEOUT)


def ask(relay: Relay, prompt: str, format_name: str = "sse", **fields: Any) -> Relayed:
    """Return the relayed answer, read in one of the formats; its digest and its usage are checked."""
    with post(relay, format_name, {"prompt": prompt, **fields}) as response:
        if format_name == "json":
            whole = response.json()
        elif format_name == "text":
            text = response.content.decode()
            # Plain text tells nothing but the text; the rest is the run's.
            whole = {**_json(relay, response.headers["X-Run-Id"]), "text": text}
        else:
            assert response.status_code == 200, response.text
            whole = fold(events(response))
    return relayed(whole)


def relayed(whole: dict[str, Any]) -> Relayed:
    """Return a relayed answer from the `json` format's object."""
    end, data = whole["end"], whole["text"].encode()
    assert end["digest"] == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}
    return Relayed(
        text=whole["text"],
        reasoning=whole["reasoning"],
        finish=end["finish_reason"],
        usage=end["usage"],
        tool_calls=[(call["name"], call["arguments"]) for call in whole["tool_calls"]],
        end=end,
        run_id=whole["run_id"],
        conversation_id=whole["conversation_id"],
    )


def _json(relay: Relay, run_id: str) -> dict[str, Any]:
    url = f"{relay.url}/runs/{run_id}/events"
    return requests.get(url, headers={"Accept": ACCEPT["json"]}, timeout=TIMEOUT).json()


def log_of(relay: Relay, run_id: str) -> list[Event]:
    """Follow a run from its beginning to its end, as NDJSON; return its events."""
    url = f"{relay.url}/runs/{run_id}/events"
    with requests.get(url, headers={"Accept": ACCEPT["ndjson"]}, stream=True, timeout=TIMEOUT) as response:
        return list(events(response))


def whole_run(relay: Relay, run_id: str) -> Relayed:
    """Wait for a run's end; return all of it."""
    return relayed(fold(log_of(relay, run_id)))


def stop(relay: Relay, run_id: str) -> requests.Response:
    """Stop a run."""
    return requests.post(f"{relay.url}/runs/{run_id}/stop", timeout=TIMEOUT)


def events(response: requests.Response) -> Iterator[Event]:
    """Yield the events of a stream as they come, each with `type`, and with `seq` (NDJSON) or `id` (SSE)."""
    if response.headers["Content-Type"].startswith("text/event-stream"):
        yield from sse_events(response.iter_content(None))
        return
    for line in response.iter_lines(None):
        event = json.loads(line)
        if event["type"] != "ping":
            yield event


def sse_events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events in the bytes of an SSE stream."""
    for event in sseclient.SSEClient(pieces).events():
        name = "token" if event.event == "message" else event.event
        yield {**json.loads(event.data), "type": name, "id": event.id}


def fold(stream: Iterable[Event]) -> dict[str, Any]:
    """Return the `json` format's object for a stream of events, as a client would put it together."""
    whole: dict[str, Any] = {"text": "", "reasoning": "", "tool_calls": [], "end": None}
    calls: dict[int, dict[str, Any]] = {}
    for event in stream:
        assert whole["end"] is None, "an event after the end"
        if event["type"] == "start":
            whole["run_id"], whole["conversation_id"] = event["run_id"], event["conversation_id"]
        elif event["type"] == "token":
            whole["text"] += event["text"]
        elif event["type"] == "reasoning":
            whole["reasoning"] += event["text"]
        elif event["type"] == "tool_call":
            call = calls.setdefault(event["index"], {"name": event["name"], "arguments": ""})
            call["arguments"] += event["arguments"]
        elif event["type"] == "end":
            whole["end"] = event
    assert whole["end"] is not None, "no end"
    whole["tool_calls"] = list(calls.values())
    return whole
