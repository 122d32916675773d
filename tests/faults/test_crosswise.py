"""One run in every format at once: begun through any face, followed through all of them, cut and resumed crosswise."""

import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import websocket

from tests.faults.cases import Event, checked_end, text_of, tokens_of, whole_events
from tests.faults.conftest import RelayOf
from tests.live import Call, Relay, scripted
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import request, sse_events

RUNS_A_FACE = 8
BEFORE_ALL_FOLLOW = 3  # tokens


class GatedModel:
    """The upstream's script: some tokens, and the rest when every subscriber of that run is there.

    Prompts without a gate are clean_relay's own, and are not counted.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.gates: dict[str, threading.Event] = {}

    def __call__(self, call: Call) -> None:
        prompt = json.loads(call.body)["messages"][-1]["content"]
        gate = self.gates.get(prompt)
        if gate is not None:
            self.calls[prompt] += 1
        tokens = [*map(token_chunk, tokens_of(prompt))]
        call.start()
        for token in tokens[:BEFORE_ALL_FOLLOW]:
            call.chunk(token)
        if gate is not None:
            gate.wait(60)
        for token in tokens[BEFORE_ALL_FOLLOW:]:
            call.chunk(token)
        call.chunk(FINISH + DONE)
        call.finish()


Begin = Callable[[Relay, str], str]  # returns the run's id; whoever asked has left


def by_post_runs(server: Relay, prompt: str) -> str:
    with request(f"{server.url}/runs", "POST", json_body={"prompt": prompt}) as made:
        run_id: str = made.json()["run_id"]
        return run_id


def by_stream(server: Relay, prompt: str) -> str:
    with request(f"{server.url}/stream", "POST", json_body={"prompt": prompt}) as response:
        next(response.chunks())
        return response.headers["x-run-id"]


def by_websocket(server: Relay, prompt: str) -> str:
    socket = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws", timeout=60)
    try:
        socket.send(json.dumps({"type": "ask", "prompt": prompt}))
        run_id: str = json.loads(socket.recv())["run_id"]
        return run_id
    finally:
        socket.shutdown()


def by_openai(server: Relay, prompt: str) -> str:
    ask = {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Idempotency-Key": prompt}  # without one, leaving would cancel it
    with request(f"{server.url}/v1/chat/completions", "POST", json_body=ask, headers=headers) as response:
        next(response.chunks())
        return response.headers["x-run-id"]


def by_ai_sdk(server: Relay, prompt: str) -> str:
    message = {"id": "1", "role": "user", "parts": [{"type": "text", "text": prompt}]}
    ask = {"id": f"chat-{prompt}-{'x' * 16}", "messages": [message], "trigger": "submit-message"}
    with request(f"{server.url}/api/chat", "POST", json_body=ask) as response:
        next(response.chunks())
        return response.headers["x-run-id"]


BEGINNINGS = [by_post_runs, by_stream, by_websocket, by_openai, by_ai_sdk]


class Hopper:
    """Follows in one native format, leaves after some events, and goes on in another one, until the end."""

    def __init__(self, server: Relay, run_id: str, chance: random.Random) -> None:
        self.events: list[Event] = []
        self.formats: set[str] = set()
        self._server, self._run_id, self._chance = server, run_id, chance

    def follow(self, joined: Callable[[], object]) -> None:
        """Follow to the end; `joined` is called when the first event is there."""
        while not self.events or self.events[-1][1] != "end":
            format_name = self._chance.choice(["sse", "ndjson", "ws"])
            self.formats.add(format_name)
            patience = self._chance.randint(1, 4)
            for event in itertools.islice(self._connection(format_name), patience):
                self.events.append(event)
                joined()
                if event[1] == "end":
                    return  # a WebSocket stays open

    def _connection(self, format_name: str) -> Iterator[Event]:
        after = self.events[-1][0] if self.events else 0
        return self._frames(after) if format_name == "ws" else self._response(format_name, after)

    def _response(self, format_name: str, after: int) -> Iterator[Event]:
        query = f"format={format_name}&after={after}"
        with request(f"{self._server.url}/runs/{self._run_id}/events?{query}") as response:
            assert response.status == 200
            for chunk in response.chunks():
                yield from whole_events(format_name, chunk)

    def _frames(self, after: int) -> Iterator[Event]:
        socket = websocket.create_connection(f"ws://127.0.0.1:{self._server.port}/ws", timeout=60)
        try:
            socket.send(json.dumps({"type": "follow", "run_id": self._run_id, "after": after, "ref": "here"}))
            while True:
                frame = json.loads(socket.recv())
                if "seq" in frame:
                    assert (frame.pop("run_id"), frame.pop("ref")) == (self._run_id, "here")
                    if frame["type"] == "start":
                        frame["run_id"] = self._run_id  # the event's own field has the frame's name
                    yield frame.pop("seq"), frame.pop("type"), frame
        finally:
            socket.shutdown()


class UiHopper:
    """Follows the AI SDK's stream, leaves after some chunks, and goes on at the index that comes next."""

    def __init__(self, server: Relay, run_id: str, chance: random.Random) -> None:
        self.chunks: list[dict[str, str]] = []
        self._url, self._chance = f"{server.url}/api/chat/{run_id}/stream", chance

    def follow(self, joined: Callable[[], object]) -> None:
        while not self.chunks or self.chunks[-1]["type"] != "finish":
            for chunk in itertools.islice(self._connection(), self._chance.randint(1, 6)):
                self.chunks.append(chunk)
                joined()

    def _connection(self) -> Iterator[dict[str, str]]:
        with request(f"{self._url}?startIndex={len(self.chunks)}") as response:
            assert response.status == 200
            for write in response.chunks():
                yield from (json.loads(event.data) for event in sse_events(write) if event.data != "[DONE]")

    def text(self) -> str:
        return "".join(chunk["delta"] for chunk in self.chunks if chunk["type"] == "text-delta")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("begin", BEGINNINGS, ids=lambda begin: begin.__name__)
def test_one_run_is_the_same_text_in_every_format_with_one_upstream_call(begin: Begin, clean_relay: RelayOf) -> None:
    model = GatedModel()
    with scripted(model) as upstream:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
        with clean_relay(DISCONNECT_GRACE_SECONDS="60", **settings) as server:
            prompts = [f"{begin.__name__}-{number}" for number in range(RUNS_A_FACE)]
            model.gates = {prompt: threading.Event() for prompt in prompts}
            hoppers = [followed_in_every_format(server, begin, prompt, model.gates[prompt]) for prompt in prompts]
            assert model.calls == dict.fromkeys(prompts, 1)
            assert set().union(*(hopper.formats for hopper in hoppers)) == {"sse", "ndjson", "ws"}


def followed_in_every_format(server: Relay, begin: Begin, prompt: str, gate: threading.Event) -> Hopper:
    run_id, expected = begin(server, prompt), "".join(tokens_of(prompt))
    chance = random.Random(prompt)
    hopper, ui_hopper = Hopper(server, run_id, chance), UiHopper(server, run_id, chance)
    there = [threading.Event() for _ in range(3)]

    def text() -> str:
        with request(f"{server.url}/runs/{run_id}/events?format=text") as response:
            pieces = []
            for piece in response.chunks():
                pieces.append(piece)
                there[2].set()
            assert response.complete
            return b"".join(pieces).decode()

    def json_answer() -> dict[str, object]:
        with request(f"{server.url}/runs/{run_id}/events?format=json") as response:
            answer: dict[str, object] = response.json()
            return answer

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(text), pool.submit(json_answer)]
        hops = [pool.submit(hopper.follow, there[0].set), pool.submit(ui_hopper.follow, there[1].set)]
        for event in there:
            assert event.wait(60)
        gate.set()
        for hop in hops:
            hop.result(60)
        plain, whole = (answer.result(60) for answer in answers)
    assert plain == ui_hopper.text() == text_of(hopper.events) == expected
    assert isinstance(whole, dict)
    assert whole["text"] == expected
    assert whole["end"] == checked_end(hopper.events)
    return hopper
