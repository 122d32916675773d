"""Connections between client and relay that break at any byte: whoever comes back has everything, once."""

import contextlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import pytest

from tests.faults.cases import (
    POSITIONS,
    SLOTS,
    Event,
    Model,
    checked_end,
    side_by_side,
    text_of,
    tokens_of,
    whole_events,
)
from tests.faults.conftest import RelayOf
from tests.faults.proxy import TO_CLIENT, TO_SERVER, Fault, Proxy
from tests.live import Relay, scripted
from tests.web.client import HeadCut, Response, request

WAYS = [(way, format_name) for way in ("query", "json", "form") for format_name in ("sse", "ndjson")]
BREAKING = {"cut", "reset", "half-close"}


@dataclass(frozen=True)
class Case:
    """One run, and what happens to its subscriber's first connections."""

    number: int
    way: str  # of asking
    format_name: str
    faults: tuple[Fault, ...] = ()

    @property
    def prompt(self) -> str:
        """What makes this run unlike all others."""
        return f"case-{self.number}"


class Subscriber:
    """Asks, and comes back with its last id until it has the end."""

    def __init__(self, url: str, case: Case) -> None:
        self.events: list[Event] = []
        self._case = case
        self._url = url
        self._run_id: str | None = None

    def follow(self) -> None:
        """Raise AssertionError where a connection that nothing breaks does not bring the rest."""
        for _ in range(1 + sum(fault.kind in BREAKING for fault in self._case.faults)):
            with contextlib.suppress(OSError, HeadCut), self._ask() as response:
                assert response.status in {200, 400}  # 400: half of the request arrived
                if response.status == 200:
                    self._take(response)
            if self.events and self.events[-1][1] == "end":
                return
        raise AssertionError(f"the end did not come, only {self.events}")

    def _take(self, response: Response) -> None:
        assert self._run_id in {None, response.headers["x-run-id"]}
        self._run_id = response.headers["x-run-id"]
        data = b"".join(response.chunks()) + response.rest  # `rest`: of a chunk that was cut
        self.events += whole_events(self._case.format_name, data)
        assert not response.complete or self.events[-1][1] == "end"  # a cut never passes for an ending

    def _ask(self) -> Response:
        case, query = self._case, f"format={self._case.format_name}"
        if self.events and case.number % 2:
            return request(f"{self._url}/runs/{self._run_id}/events?{query}&after={self.events[-1][0]}")
        if self.events:
            last_id = f"{self._run_id}.{self.events[-1][0]}"
            return request(f"{self._url}/stream?{query}&prompt={case.prompt}", headers={"Last-Event-ID": last_id})
        ask = {"idempotency_key": f"key-{case.number}", "prompt": case.prompt}
        if case.way == "json":
            return request(f"{self._url}/stream?{query}", "POST", json_body=ask)
        if case.way == "form":  # the prompt last: half of this body is a whole form with another prompt
            return request(f"{self._url}/stream?{query}", "POST", body=urlencode(ask).encode())
        return request(f"{self._url}/stream?{query}&{urlencode(ask)}")


@pytest.fixture(scope="module")
def model() -> Model:
    """The upstream's script."""
    return Model()


@pytest.fixture(scope="module")
def _server(clean_relay: RelayOf, model: Model) -> Iterator[Relay]:
    with scripted(model) as upstream:
        with clean_relay(UPSTREAM="openai", UPSTREAM_URL=upstream.url, UPSTREAM_MODEL="m", MAX_TRIES="1") as server:
            yield server


@pytest.fixture(scope="module")
def proxies(_server: Relay) -> Iterator[list[Proxy]]:
    """A proxy in front of the relay for each slot."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Proxy(_server.port)) for _ in range(SLOTS)]


@pytest.fixture(scope="module")
def lengths(proxies: list[Proxy]) -> dict[tuple[str, str], dict[str, int]]:
    """How many bytes go either way, for each way to ask."""
    found = {}
    for number, way in enumerate(WAYS):
        Subscriber(proxies[0].url, Case(number, *way)).follow()
        found[way] = proxies[0].links[-1].passed
    return found


numbers = itertools.count(10_000)


def random_cases(kind: str, lengths: dict[tuple[str, str], dict[str, int]]) -> list[Case]:
    chance, cases = random.Random(kind), []
    for _ in range(POSITIONS):
        way = chance.choice(WAYS)
        direction = chance.choice([TO_CLIENT, TO_CLIENT, TO_SERVER])
        first = 0 if direction == TO_CLIENT or chance.random() < 0.5 else lengths[way][direction] - 40  # in a body
        faults = [Fault(kind, direction, chance.randint(first, lengths[way][direction]))]
        if chance.random() < 0.3:  # the next connection breaks too
            faults.append(Fault(kind, TO_CLIENT, chance.randint(0, 800)))
        cases.append(Case(next(numbers), *way, tuple(faults)))
    return cases


@pytest.mark.parametrize("kind", ["cut", "reset", "half-close", "delay", "trickle"])
def test_whoever_comes_back_has_everything_once(
    kind: str, proxies: list[Proxy], model: Model, lengths: dict[tuple[str, str], dict[str, int]]
) -> None:
    cases = random_cases(kind, lengths)
    model.calls.clear()
    links_before = [len(proxy.links) for proxy in proxies]

    def do(slot: int, case: Case) -> None:
        proxies[slot].faults.clear()
        proxies[slot].faults.extend(case.faults)
        subscriber = Subscriber(proxies[slot].url, case)
        subscriber.follow()
        assert checked_end(subscriber.events)["reason"] == "done"
        assert text_of(subscriber.events) == "".join(tokens_of(case.prompt))

    side_by_side(cases, do)
    assert model.calls == {case.prompt: 1 for case in cases}  # one call each, and none for half a prompt
    links = [link for proxy, before in zip(proxies, links_before, strict=True) for link in proxy.links[before:]]
    happened = sum(link.happened.is_set() for link in links)
    assert happened >= POSITIONS * 0.9  # a few positions lie behind the last byte of a shorter answer
