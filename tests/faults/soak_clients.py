"""The clients of the soak: each does one thing that people and networks do, and checks what it got."""

import json
import random
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.faults.cases import Event, text_of, whole_events
from tests.faults.soak_upstreams import OUTCOMES, Plan, Seen
from tests.live import WAIT_SECONDS, Relay, wait_until
from tests.web.client import Response, read_head, request

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
RESUMABLE = ("sse", "ndjson")
SILENCE_SECONDS = {"sse": WAIT_SECONDS, "ndjson": WAIT_SECONDS, "text": 60.0, "json": 60.0}  # two have no heartbeat
WRITE_TIMEOUT_SECONDS = 2


class LeftOut(Exception):
    """Nothing is wrong, but the client could not do its thing: why, in a word."""


@dataclass
class World:
    """What the clients share. `over` is set when no new ones shall begin."""

    server: Relay
    seen: Seen
    over: threading.Event = field(default_factory=threading.Event)
    done: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def plan(chance: random.Random, *hows: str, most: int = 300) -> Plan:
    return Plan(chance.choice(hows), chance.getrandbits(53), chance.randint(2, most))


def ask(
    world: World,
    plan: Plan,
    *,
    route: str = "/stream?format=sse",
    key: str | None = None,
    patience_seconds: float = WAIT_SECONDS,
    **more: Any,
) -> Response:
    """Begin a run. Without a conversation: those are kept, and would look like a leak."""
    upstream = more.setdefault("upstream", "good")
    if upstream is None:
        del more["upstream"]
    asked = (
        {"prompt": plan.prompt()} if upstream == "dify" else {"messages": [{"role": "user", "content": plan.prompt()}]}
    )
    headers = {"Idempotency-Key": key} if key else {}
    url, body = world.server.url + route, {**asked, **more}
    response = request(url, "POST", json_body=body, headers=headers, patience_seconds=patience_seconds)
    if response.status == 503:
        code = response.json().get("error", {}).get("code")
        response.close()
        assert code == "too_many_runs", f"503 {code}"
        raise LeftOut(code)
    return response


def get_json(world: World, target: str, *, method: str = "GET") -> Any:
    with request(world.server.url + target, method) as response:
        if response.status == 410:
            raise LeftOut("run_expired")
        assert response.status == 200, f"{method} {target.split('/')[-1]}: {response.status}"
        return response.json()


def check(plan: Plan, events: list[Event], *reasons: str) -> None:
    """Check a whole log: gapless, one end, and the text is what the upstream said, or where it was cut its beginning.

    `reasons`: what it may have come to instead of what the plan leads to.
    """
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1)), "events are missing or doubled"
    types = [type_ for _, type_, _ in events]
    assert types[0] == "start"
    assert types.count("end") == 1, f"{types.count('end')} ends"
    assert types[-1] == "end"
    end, text = events[-1][2], text_of(events)
    data = text.encode()
    assert end["digest"] == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}, "the digest is another text's"
    reason, code, whole = OUTCOMES[plan.how]
    said = "".join(plan.said())
    assert said.startswith(text), "the text is not what the upstream said"
    if end["reason"] in reasons:
        return
    assert (end["reason"], end["error"] and end["error"]["code"]) == (reason, code), f"{plan.how}: {end}"
    if whole or plan.how != "reset":  # a reset may destroy what was on its way
        assert text == said, "the text is not whole"


# -- clients -----------------------------------------------------------------------------------------------------------


def reader(world: World, chance: random.Random) -> None:
    """Reads to the end."""
    todo = plan(chance, "ok", "ok", "slow", "failing", "truncated", "reset", "hanging")
    name = chance.choice(["sse", "ndjson", "text", "json"])
    with ask(world, todo, route=f"/stream?format={name}", patience_seconds=SILENCE_SECONDS[name]) as response:
        body = response.body()
        happy = OUTCOMES[todo.how][0] == "done"
        if name == "json":
            answer = json.loads(body)
            assert (response.status == 200) == happy
            assert "".join(todo.said()).startswith(answer["text"])
        elif name == "text":
            assert response.complete == happy
            assert "".join(todo.said()).startswith(body.decode(errors="ignore"))
        else:
            assert response.complete
            check(todo, whole_events(name, body))
    world.seen.take(todo)


def cutter(world: World, chance: random.Random) -> None:
    """Is cut at any byte and comes back, in another format and on another route, until it has the end."""
    todo = plan(chance, "ok", "slow", "truncated", "failing")
    name, events, run_id = chance.choice(RESUMABLE), [], ""
    route, headers, response = f"/stream?format={name}", {}, None
    while not events or events[-1][1] != "end":
        if not run_id:
            response = ask(world, todo, route=route, on_disconnect=chance.choice(["grace", "finish"]))
            run_id = response.headers["x-run-id"]
        else:
            response = request(world.server.url + route, headers=headers)
        with response:
            if response.status == 410:
                raise LeftOut("run_expired")
            assert response.status == 200, str(response.status)
            events += whole_events(name, _some_of(response, chance))
        at, name = len(events), chance.choice(RESUMABLE)
        if chance.random() < 0.5:
            route, headers = f"/stream?format={name}", {"Last-Event-ID": f"{run_id}.{at}"}
        else:
            route, headers = f"/runs/{run_id}/events?format={name}&after={at}", {}
    check(todo, events)
    assert len(world.seen.take(todo)) == 1, "a resume asked the upstream again"


def _some_of(response: Response, chance: random.Random) -> bytes:
    """Read some of a body, or all, and leave with a FIN or an RST."""
    wanted, body = chance.choice([0, 100, 1000, 5000, 1 << 30]), b""
    for piece in response.chunks():
        body += piece
        if len(body) >= wanted:
            break
    if chance.random() < 0.5:
        response.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    return body[: chance.randint(0, len(body))] if len(body) > wanted else body


def stopper(world: World, chance: random.Random) -> None:
    """Stops the run somewhere."""
    upstream = chance.choice(["good", "dify"])
    todo = plan(chance, "slow", "hanging") if upstream == "dify" else plan(chance, "slow", "hanging", "mute")
    with ask(world, todo, upstream=upstream) as response:
        chunks = response.chunks()
        body = b"".join(next(chunks, b"") for _ in range(chance.randint(1, 3 if todo.how == "slow" else 1)))
        end = get_json(world, f"/runs/{response.headers['x-run-id']}/stop", method="POST")
        body += b"".join(chunks)
        assert response.complete
    check(todo, whole_events("sse", body), "stopped")
    assert whole_events("sse", body)[-1][2] == end
    for call in world.seen.take(todo):
        over = call.finished.is_set() or call.closed.wait(20)  # it may have said its last word before the stop came
        assert upstream == "dify" or over or end["reason"] != "stopped", "the upstream goes on"


def vanisher(world: World, chance: random.Random) -> None:
    """Asks for the run to be cancelled when it leaves, and leaves."""
    todo = plan(chance, "hanging", "mute")
    with ask(world, todo, on_disconnect="cancel") as response:
        next(response.chunks())
        if chance.random() < 0.5:
            response.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    snapshot: dict[str, Any] = {"end": None}

    def ended() -> bool:
        snapshot.update(get_json(world, f"/runs/{response.headers['x-run-id']}"))
        return snapshot["end"] is not None

    wait_until(ended, "the run of a client that left has ended")
    assert snapshot["end"]["reason"] in {"abandoned", "error"}, snapshot["end"]
    for call in world.seen.take(todo):
        assert call.closed.wait(20), "the upstream goes on"


def stuck(world: World, chance: random.Random) -> None:
    """Does not read, is dropped, comes back."""
    todo = Plan("big", chance.getrandbits(53), chance.randint(600, 700))
    with ask(world, todo, route="/runs", on_disconnect="finish") as made:
        run_id = made.json()["run_id"]
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(20)
        lazy.connect(("127.0.0.1", world.server.port))
        lazy.sendall(f"GET /runs/{run_id}/events?format=ndjson HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        world.over.wait(2.5 * WRITE_TIMEOUT_SECONDS)
        if world.over.is_set():
            raise LeftOut("over")
        response = read_head(lazy)
        if response.status == 410:
            raise LeftOut("run_expired")
        body = response.body()
        assert not response.complete, "a client that does not read was kept"
    events = whole_events("ndjson", body)
    with request(f"{world.server.url}/runs/{run_id}/events?format=sse&after={len(events)}") as back:
        if back.status == 410:
            raise LeftOut("run_expired")
        events += whole_events("sse", back.body())
    check(todo, events)
    world.seen.take(todo)


def repeater(world: World, chance: random.Random) -> None:
    """Sends the same key several times at once, and once with another question."""
    todo, key = plan(chance, "ok", "slow"), f"key-{chance.getrandbits(64)}"
    with ThreadPoolExecutor(3) as pool:
        responses = list(pool.map(lambda _: ask(world, todo, key=key), range(3)))
        bodies = list(pool.map(Response.body, responses))
    for response, body in zip(responses, bodies, strict=True):
        response.close()
        assert response.headers["x-run-id"] == responses[0].headers["x-run-id"], "a key began two runs"
        check(todo, whole_events("sse", body))
    with ask(world, plan(chance, "ok"), key=key) as other:
        assert other.status == 422
    assert len(world.seen.take(todo)) == 1, "a key asked the upstream twice"


def elsewhere(world: World, chance: random.Random) -> None:
    """Names no upstream: the first one is broken, the second one answers."""
    todo = plan(chance, "ok", "failing")
    with ask(world, todo, upstream=None) as response:
        check(todo, whole_events("sse", response.body()))
    world.seen.take(todo)


def unlucky(world: World, chance: random.Random) -> None:
    """Names the broken upstream."""
    with ask(world, plan(chance, "ok"), upstream="broken") as response:
        end = whole_events("sse", response.body())[-1][2]
    assert end["error"]["code"] in {"upstream_busy", "upstream_unreachable"}, end


def dify_reader(world: World, chance: random.Random) -> None:
    """Reads a Dify app's answer."""
    todo = plan(chance, "ok", "slow", most=60)
    with ask(world, todo, upstream="dify", route="/stream?format=ndjson") as response:
        check(todo, whole_events("ndjson", response.body()))
    world.seen.take(todo)


def waiter(world: World, chance: random.Random) -> None:
    """Waits for a whole answer, and comes back for it where it takes long."""
    todo = plan(chance, "ok", "slow")
    with ask(world, todo, route="/chat") as response:
        assert response.status in {200, 202}, str(response.status)
        if response.status == 200:
            assert response.json()["text"] == "".join(todo.said())
            world.seen.take(todo)
            return
    with request(f"{world.server.url}{response.headers['location']}/events?format=ndjson") as rest:
        if rest.status == 410:
            raise LeftOut("run_expired")
        check(todo, whole_events("ndjson", rest.body()))
    world.seen.take(todo)


JSON = "Content-Type: application/json\r\n"
NO_RUN = "x" * 26
BAD_INPUT = [
    (b"\x00\xff\x16\x03\x01 nonsense\r\n\r\n", {400}),
    (b"GET /stream?prompt=%ff HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    (b"HEAD /stream?prompt=a HTTP/1.1\r\nHost: x\r\n\r\n", {405}),
    (b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    (b"GET /stream?prompt=a&format=nope HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    (f"GET /runs/{NO_RUN} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), {404}),
    (f"GET /stream HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {NO_RUN}.x\r\n\r\n".encode(), {400, 200}),
    (f"POST /runs HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: 9\r\n\r\n{{prompt:1".encode(), {400}),
    (f"POST /runs HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: 12\r\n\r\n".encode() + b'{"promt":"a"', {400}),
    (b"POST /runs HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\nx", {415}),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414}),
]


def bad_input(world: World, chance: random.Random) -> None:
    """Sends what nobody should, and gets a refusal; or leaves in the middle of it."""
    data, statuses = chance.choice(BAD_INPUT)
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=20) as connection:
        if chance.random() < 0.3:
            connection.sendall(data[: chance.randint(0, len(data) - 1)])
            return
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR) if chance.random() < 0.1 else None
        response = read_head(connection)
        assert response.status in statuses, f"{data[:60]!r}: {response.status}"


CLIENTS: dict[Callable[[World, random.Random], None], int] = {
    reader: 20,
    cutter: 20,
    stopper: 8,
    vanisher: 8,
    stuck: 3,
    repeater: 5,
    elsewhere: 3,
    unlucky: 2,
    dify_reader: 8,
    waiter: 4,
    bad_input: 10,
}
"""Each kind and how often it comes."""
