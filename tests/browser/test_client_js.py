"""static/client.js in Node, where fetch takes EventSource's place. NODE names another than Playwright's own."""

import json
import os
import random
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import playwright
import pytest

from tests.browser.parts import CuttingProxy, Model
from tests.faults.proxy import TO_CLIENT, Fault, Proxy
from tests.live import ROOT, WAIT_SECONDS, Call, Relay, free_port, relay, scripted

NODE = os.environ.get("NODE") or Path(playwright.__file__).parent / "driver" / "node"
FOLLOW = Path(__file__).parent / "follow.mjs"
CLIENTS = 200
TOKENS = ["你好", " 👩‍👩‍👧", "\n", "naïve ", "𝄞"] * 4


class Node:
    """follow.mjs as a process of its own; `lines()` waits for its end."""

    def __init__(self, url: str, *prompts: str, **options: Any) -> None:
        asks = [{"prompt": prompt} for prompt in prompts]
        how = {"client": f"{ROOT}/static/client.js", "url": url, "asks": asks, **options}
        self.process = subprocess.Popen([NODE, FOLLOW, json.dumps(how)], stdout=subprocess.PIPE, text=True)

    def lines(self) -> list[dict[str, Any]]:
        out, _ = self.process.communicate(timeout=240)
        assert self.process.returncode == 0
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def node(server: Relay) -> Iterator[Callable[..., Node]]:
    """Return a function that starts the client; none outlives the test."""
    started: list[Node] = []

    def start(*prompts: str, url: str = server.url, **options: Any) -> Node:
        started.append(Node(url, *prompts, **options))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


StartNode = Callable[..., Node]


def test_it_follows_to_the_end_and_leaves_nothing_behind(node: StartNode, model: Model) -> None:
    client = node("Hi")
    call = model.next()
    for token in TOKENS:
        call.token(token)
    call.end()
    (line,) = client.lines()  # the process ended by itself: no timer and no connection is left
    assert line | {"ms": 0} == {
        "reason": "done",
        "text": "".join(TOKENS),
        "intact": True,
        "states": ["connecting", "live"],
        "pieces": len(TOKENS),
        "ms": 0,
    }


def test_it_survives_cuts_and_a_routers_503(node: StartNode, model: Model, proxy: CuttingProxy) -> None:
    client = node("Hi", url=proxy.url)
    call = model.next()
    call.token("before ")
    assert call.call.connection  # the token is on its way; the cut may come before or behind it
    proxy.refusing = True
    proxy.cut()
    call.token("meanwhile ")
    call.token("after")
    call.end()
    assert proxy.refused.wait(WAIT_SECONDS)
    proxy.refusing = False
    (line,) = client.lines()
    assert (line["text"], line["intact"]) == ("before meanwhile after", True)
    assert len(model.calls) == 1


def test_it_stops(node: StartNode, model: Model) -> None:
    client = node("Go on for ever", stopAfter=1)
    call = model.next()
    call.token("1 2 3")
    assert call.call.await_close()
    (line,) = client.lines()
    assert (line["reason"], line["text"], line["intact"]) == ("stopped", "1 2 3", True)


def test_it_says_why_it_was_refused(node: StartNode) -> None:
    (line,) = node("").lines()
    assert (line["code"], line["status"]) == ("bad_request", 400)


def test_nobody_there_is_said_after_some_tries(node: StartNode) -> None:
    (line,) = node("Hi", url=f"http://127.0.0.1:{free_port()}").lines()
    assert (line["code"], line["status"]) == ("unreachable", 0)


def sse(*events: tuple[int, str, str]) -> bytes:
    return "".join(f"id: {seq}\nevent: {type_}\ndata: {data}\n\n" for seq, type_, data in events).encode()


RUN = {"run_id": "r", "events_url": "/runs/r/events", "stop_url": "/runs/r/stop", "conversation_id": None}
END = (9, "end", '{"reason":"done","digest":null}')


def test_what_comes_twice_counts_once(node: StartNode) -> None:
    """As from a relay that resumes too early."""
    tokens = [(seq, "token", json.dumps({"text": text})) for seq, text in enumerate("abc", start=1)]
    answers = [sse(*tokens[:2]), sse(*tokens, END)]

    def early(call: Call) -> None:
        if call.method == "POST":
            call.answer(201, json.dumps(RUN).encode())
        elif call.path.endswith("/runs/r"):
            call.answer(200, b"{}")
        else:
            call.start()
            call.chunk(answers.pop(0))
            call.finish()

    with scripted(early) as server:
        (line,) = node("Hi", url=server.url.removesuffix("/v1")).lines()
    assert (line["text"], line["pieces"]) == ("abc", 3)


def test_headers_go_with_every_request(node: StartNode) -> None:
    """A relay stands behind something that asks who comes."""
    heads: list[dict[str, str]] = []

    def gate(call: Call) -> None:
        heads.append({"path": call.path, **call.headers})
        if call.method == "POST":
            call.answer(201, json.dumps(RUN).encode())
        else:
            call.start()
            call.chunk(b'id: 1\ndata: {"text":"x"}\n\n: ping\n\n' + sse(END))
            call.finish()

    with scripted(gate) as server:
        (line,) = node("Hi", url=server.url.removesuffix("/v1"), headers={"Authorization": "Bearer k"}).lines()
    assert (line["text"], line["intact"]) == ("x", None)
    assert [(head["path"], head["authorization"]) for head in heads] == [
        ("/runs", "Bearer k"),
        ("/runs/r/events", "Bearer k"),
    ]
    assert heads[0]["idempotency-key"]


@pytest.mark.timeout(300)
def test_200_clients_each_cut_once(node: StartNode, model: Model) -> None:
    said, chance = "".join(TOKENS), random.Random(5)
    settings = model.settings() | {"RETRY_MS": "100"}
    with scripted(quick) as upstream, relay(**settings | {"UPSTREAM_URL": upstream.url}) as many:
        with Proxy(many.port) as proxy:
            kinds = ["cut", "reset"] * (CLIENTS // 2)
            proxy.faults.extend(Fault(kind, TO_CLIENT, chance.randrange(1, 1000)) for kind in kinds)
            lines = node(*["Hi"] * CLIENTS, url=many.url, through=proxy.url).lines()
            happened = sum(link.happened.is_set() for link in proxy.links)
        assert [(line.get("reason"), line.get("text"), line.get("intact")) for line in lines] == [
            ("done", said, True)
        ] * CLIENTS
        assert happened >= CLIENTS * 3 // 4
        assert len(upstream.calls) == CLIENTS
    delays = sorted(line["ms"] for line in lines)
    print(f"{CLIENTS} Node clients, {happened} cuts: median {statistics.median(delays)} ms, slowest {delays[-1]} ms")


def quick(call: Call) -> None:
    """Say everything at once."""
    call.start()
    for token in TOKENS:
        chunk = {"choices": [{"index": 0, "delta": {"content": token}}]}
        call.chunk(f"data: {json.dumps(chunk)}\n\n".encode())
    call.chunk(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    call.finish()
