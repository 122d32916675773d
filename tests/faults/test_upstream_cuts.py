"""Connections between relay and upstream that break at any byte: every run ends honestly, and is never paid twice."""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cases import (
    POSITIONS,
    SLOTS,
    Event,
    Model,
    answer_pieces,
    checked_end,
    side_by_side,
    text_of,
    tokens_of,
    whole_events,
)
from tests.faults.conftest import RelayOf
from tests.faults.proxy import TO_CLIENT, TO_SERVER, Fault, Proxy
from tests.leaks import connections_to
from tests.live import Relay, scripted
from tests.web.client import request

numbers = itertools.count(10_000)


@dataclass(frozen=True)
class Case:
    """One run, and what happens to the relay's connection to the upstream."""

    number: int
    fault: Fault

    @property
    def prompt(self) -> str:
        """What makes this run unlike all others."""
        return f"case-{self.number}"


@dataclass
class Rig:
    """A relay with an upstream for each slot: the same model, behind a proxy of the slot's own."""

    server: Relay
    model: Model
    proxies: list[Proxy]

    def ask(self, slot: int, prompt: str) -> list[Event]:
        """Return all events of a new run."""
        ask = {"prompt": prompt, "upstream": f"u{slot}"}
        with request(f"{self.server.url}/stream?format=ndjson", "POST", json_body=ask) as response:
            assert response.status == 200
            data = response.body()
            assert response.complete
        return whole_events("ndjson", data)

    def mend(self, slot: int) -> None:
        """Make a call that nothing breaks: it must not suffer from the one before it. It closes the breaker too."""
        prompt = f"mend-{next(numbers)}"
        self.proxies[slot].faults.clear()
        events = self.ask(slot, prompt)
        assert checked_end(events)["reason"] == "done"
        assert text_of(events) == "".join(tokens_of(prompt))
        assert self.model.calls[prompt] == 1


RigOf = Callable[..., contextlib.AbstractContextManager[Rig]]


@pytest.fixture(scope="module")
def rig_of(clean_relay: RelayOf, tmp_path_factory: pytest.TempPathFactory) -> RigOf:
    """`with rig_of(slots, **settings) as rig`."""

    @contextlib.contextmanager
    def make(slots: int = SLOTS, *, keep: bool = False, listening: bool = True, **settings: str) -> Iterator[Rig]:
        model = Model(keep=keep)
        with scripted(model) as upstream, contextlib.ExitStack() as stack:
            warm_up = stack.enter_context(Proxy(upstream.port))
            proxies = [stack.enter_context(Proxy(upstream.port, listening=listening)) for _ in range(slots)]
            ports = [*(proxy.port for proxy in proxies), warm_up.port]
            file = tmp_path_factory.mktemp("upstreams") / "upstreams.toml"
            write_upstreams(file, ports, first=slots)
            with clean_relay(kept_to=ports if keep else (), UPSTREAMS_FILE=str(file), **settings) as server:
                yield Rig(server, model, proxies)

    return make


def write_upstreams(file: Path, ports: list[int], first: int) -> None:
    """Name the upstreams u0, u1…; `first` is the one that answers asks that name none."""
    order = sorted(enumerate(ports), key=lambda pair: pair[0] != first)
    file.write_text(
        "".join(
            f'[[upstream]]\nname = "u{n}"\ndialect = "openai"\nurl = "http://127.0.0.1:{port}/v1"\nmodel = "m"\n'
            for n, port in order
        )
    )


def received(prompt: str, position: int) -> tuple[str, bool]:
    """Return the text in the first `position` bytes of the upstream's answer, and whether they hold its finish."""
    head, *chunks = answer_pieces(prompt)
    texts, at = [], len(head)
    for text, chunk in zip(tokens_of(prompt), chunks, strict=False):
        at += len(chunk)
        if at - len("\r\n") > position:  # the chunk's own line end tells nothing more
            return "".join(texts), False
        texts.append(text)
    return "".join(texts), at + len(chunks[len(texts)]) - len("\r\n") <= position


def check(events: list[Event], case: Case, rig: Rig) -> None:
    """Check that the run ended as the bytes that were passed on say."""
    fault, end, calls = case.fault, checked_end(events), rig.model.calls[case.prompt]
    text, whole = text_of(events), "".join(tokens_of(case.prompt))
    assert calls <= 1
    if fault.kind in {"delay", "trickle"} or (fault.kind == "half-close" and fault.direction == TO_SERVER and calls):
        expected, done = whole, True  # half a connection is enough once the whole request is there
    elif fault.direction == TO_SERVER:
        expected, done = "", False
    else:
        expected, done = received(case.prompt, fault.position)
    if fault.kind == "reset":  # what the relay has not read yet is lost with the connection
        assert expected.startswith(text)
        done = done and end["reason"] == "done"
    else:
        assert text == expected
    if done:
        assert (end["reason"], end["finish_reason"], text) == ("done", "stop", whole)
    else:
        check_truncated(end)


def check_truncated(end: dict[str, Any]) -> None:
    assert (end["reason"], end["error"]["code"]) == ("error", "upstream_truncated")
    assert (end["error"]["retryable"], end["usage"]["exact"]) == (True, False)


@pytest.fixture(scope="module")
def rig(rig_of: RigOf) -> Iterator[Rig]:
    """A rig whose connections are used once: whatever is left open at the end was left by mistake."""
    with rig_of(MAX_TRIES="1") as each:
        yield each


@pytest.fixture(scope="module")
def request_length(rig: Rig) -> int:
    """How many bytes the relay sends."""
    rig.ask(0, f"case-{next(numbers)}")
    return rig.proxies[0].links[-1].passed[TO_SERVER]


def random_fault(kind: str, prompt: str, request_length: int, chance: random.Random) -> Fault:
    direction = chance.choice([TO_CLIENT, TO_CLIENT, TO_CLIENT, TO_SERVER])
    length = request_length if direction == TO_SERVER else sum(map(len, answer_pieces(prompt)))
    return Fault(kind, direction, chance.randint(0, length))


@pytest.mark.parametrize("kind", ["cut", "reset", "half-close", "delay", "trickle"])
def test_a_call_cut_anywhere_ends_honestly_and_is_made_once(kind: str, rig: Rig, request_length: int) -> None:
    chance, cases = random.Random(kind), []
    for number in itertools.islice(numbers, POSITIONS):
        cases.append(Case(number, random_fault(kind, f"case-{number}", request_length, chance)))

    def do(slot: int, case: Case) -> None:
        proxy = rig.proxies[slot]
        links_before = len(proxy.links)
        proxy.faults.append(case.fault)
        events = rig.ask(slot, case.prompt)
        assert len(proxy.links) == links_before + 1  # one connection: nothing was tried again
        check(events, case, rig)
        if [type_ for _, type_, _ in events][1] != "upstream":  # never accepted: the breaker counts
            rig.mend(slot)

    side_by_side(cases, do)


def test_a_call_that_stalls_anywhere_ends_at_the_idle_timeout(rig_of: RigOf, request_length: int) -> None:
    chance, slots = random.Random("stall"), 40
    with rig_of(slots, MAX_TRIES="1", IDLE_TIMEOUT_SECONDS="2") as rig:
        cases = [
            Case(number, random_fault("stall", f"case-{number}", request_length - 1, chance))
            for number in itertools.islice(numbers, slots)
        ]

        def do(slot: int, case: Case) -> None:
            rig.proxies[slot].faults.append(case.fault)
            events = rig.ask(slot, case.prompt)
            end = checked_end(events)
            text, done = received(case.prompt, case.fault.position)
            if case.fault.direction == TO_SERVER:
                text, done = "", False
            assert text_of(events) == text
            if done:
                assert end["reason"] == "done"
            else:
                assert (end["reason"], end["error"]["code"]) == ("error", "upstream_timeout")

        side_by_side(cases, do, slots)


def test_a_kept_connection_that_breaks_is_replaced_only_while_no_byte_has_come(
    rig_of: RigOf, request_length: int
) -> None:
    """A first answer leaves the connection open; `position` is counted from there."""
    chance = random.Random("kept")
    with rig_of(keep=True, MAX_TRIES="1") as rig:
        cases = []
        for number, kind in zip(itertools.islice(numbers, 150), itertools.cycle(["cut", "reset"]), strict=False):
            answer_length = sum(len(piece) for piece in answer_pieces(f"case-{number}", keep=True))
            position = chance.choice([0, 1, 8, chance.randint(0, answer_length)])
            in_request = Fault(kind, TO_SERVER, chance.randint(1, request_length))
            cases.append(Case(number, chance.choice([in_request, Fault(kind, TO_CLIENT, position)])))

        def do(slot: int, case: Case) -> None:
            proxy, fault, first = rig.proxies[slot], case.fault, f"past-{case.number}"
            answer_length = sum(len(piece) for piece in answer_pieces(first, keep=True))
            behind = request_length if fault.direction == TO_SERVER else answer_length
            for link in proxy.links:
                link.reset()  # the one before it must not be used again
            proxy.faults.append(Fault(fault.kind, fault.direction, behind + fault.position))
            assert checked_end(rig.ask(slot, first))["reason"] == "done"
            end = checked_end(rig.ask(slot, case.prompt))
            calls = rig.model.calls
            assert calls[first] == 1
            if fault.direction == TO_SERVER or fault.position == 0:
                assert (end["reason"], calls[case.prompt] <= 2) == ("done", True)
            # A reset may take the first bytes with it before the relay could see them.
            elif fault.kind == "cut" or fault.position > len("HTTP/1.1 200 OK\r\n"):
                assert calls[case.prompt] == 1
            if end["reason"] != "done":
                check_truncated(end)

        side_by_side(cases, do)
        happened = sum(link.happened.is_set() for proxy in rig.proxies for link in proxy.links)
        assert happened >= len(cases) * 0.9
        for proxy in rig.proxies:  # one is kept for the next call, the broken ones are not
            assert len(connections_to(rig.server, proxy.port)) <= 1


def test_a_refused_connection_is_tried_again_and_a_broken_one_is_not(rig_of: RigOf) -> None:
    with rig_of(12, listening=False, MAX_TRIES="2") as rig:

        def never_there(slot: int) -> None:
            end = checked_end(rig.ask(slot, f"refused-{slot}"))
            assert (end["reason"], end["error"]["code"]) == ("error", "upstream_unreachable")
            assert end["timing"]["total"] >= 1000  # the wait before the second try
            assert rig.model.calls[f"refused-{slot}"] == 0

        def there_soon(slot: int) -> None:
            ask = {"prompt": f"late-{slot}", "upstream": f"u{slot}"}
            with request(f"{rig.server.url}/stream?format=ndjson", "POST", json_body=ask) as response:
                first = next(response.chunks())
                for _ in range(5):  # the relay serves these after its first try, which needs nothing but a syscall
                    rig.server.counts()
                rig.proxies[slot].listen()
                events = whole_events("ndjson", first + response.body())
            assert checked_end(events)["reason"] == "done"
            assert rig.model.calls[f"late-{slot}"] == 1
            tries.append(events[1][2]["tries"])

        def broken(slot: int) -> None:
            rig.proxies[slot].listen()
            rig.proxies[slot].faults.append(Fault("cut", TO_CLIENT, slot - 8))
            check_truncated(checked_end(rig.ask(slot, f"broken-{slot}")))
            assert (rig.model.calls[f"broken-{slot}"], len(rig.proxies[slot].links)) == (1, 1)

        tries: list[int] = []
        side_by_side([*[never_there] * 4, *[there_soon] * 4, *[broken] * 4], lambda slot, do: do(slot), slots=12)
        assert 2 in tries
