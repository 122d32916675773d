"""What must be the same whatever the store: memory, Redis, a Redis Cluster.

Each test has two workers of one site, `here` and `there`. In memory they are one and the same.
"""

import itertools
import queue
from collections.abc import Callable, Iterator

import gevent
import pytest

from streaming.relay.run import Run
from streaming.relay.runs import Runs
from streaming.relay.store import Keys
from streaming.wire.ask import Ask
from streaming.wire.errors import Refusal
from streaming.wire.events import Entry
from tests.live import Call, ScriptedUpstream, scripted, wait_until
from tests.redis_server import redis_cluster, redis_server
from tests.relay.sites import Worker
from tests.relay.support import CALLER, DONE, FINISH, ended, token_chunk

SOON_SECONDS = 20.0
_numbers = itertools.count()


class Gates:
    """A script that sends what the test puts in; None ends the answer well."""

    def __init__(self) -> None:
        self.texts: queue.Queue[str | None] = queue.Queue()

    def __call__(self, call: Call) -> None:
        call.start()
        while (text := self.texts.get()) is not None:
            call.chunk(token_chunk(text))
        call.chunk(FINISH + DONE)
        call.finish()


@pytest.fixture(scope="module", params=["memory", "redis", "cluster"])
def redis_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "memory":
        yield None
    elif request.param == "redis":
        with redis_server() as server:
            yield server.url
    else:
        with redis_cluster() as cluster:
            yield cluster.url


@pytest.fixture
def gates() -> Iterator[Gates]:
    gates = Gates()
    yield gates
    for _ in range(10):
        gates.texts.put(None)  # nobody waits any more


@pytest.fixture
def upstream(gates: Gates) -> Iterator[ScriptedUpstream]:
    with scripted(gates) as upstream:
        yield upstream


Workers = Callable[..., tuple[Worker, Worker]]


@pytest.fixture
def workers(redis_url: str | None, upstream: ScriptedUpstream) -> Iterator[Workers]:
    opened: list[Worker] = []

    def open_both(**bounds: float) -> tuple[Worker, Worker]:
        opened.append(Worker(upstream.url, redis_url, **bounds))
        if redis_url is not None:
            opened.append(Worker(upstream.url, redis_url, **bounds))
        return opened[0], opened[-1]

    yield open_both
    for one in opened:
        one.close()


@pytest.fixture
def here_and_there(workers: Workers) -> tuple[Runs, Runs]:
    here, there = workers()
    return here.runs, there.runs


def everything(run: Run, after: int = 0) -> list[Entry]:
    cursor = run.follow(after)
    entries = []
    try:
        while not cursor.done:
            entries += cursor.read(SOON_SECONDS)
    finally:
        cursor.close()
    return entries


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys_here_and_there(workers: Workers) -> tuple[Keys, Keys]:
    space = f"space{next(_numbers)}"
    here, there = workers()
    return here.store.keys(space), there.store.keys(space)


def test_a_value_is_seen_everywhere_until_it_is_deleted(keys_here_and_there: tuple[Keys, Keys]) -> None:
    here, there = keys_here_and_there
    assert there.get("k") is None
    here.put("k", b"\xff\x00 value", 60)
    assert there.get("k") == here.get("k") == b"\xff\x00 value"
    there.put("k", b"", 60)
    assert here.get("k") == b""
    here.delete("k")
    assert there.get("k") is None
    here.delete("k")


def test_a_value_expires(keys_here_and_there: tuple[Keys, Keys]) -> None:
    here, there = keys_here_and_there
    here.put("k", b"v", 0.05)
    assert here.claim("c", b"v", 0.05) is None
    wait_until(lambda: there.get("k") is None and there.get("c") is None, "both have expired")
    assert there.claim("c", b"w", 60) is None


def test_of_many_that_claim_one_gets_it(keys_here_and_there: tuple[Keys, Keys]) -> None:
    values = [b"%d" % n for n in range(20)]
    claims = [gevent.spawn(keys_here_and_there[n % 2].claim, "k", value, 60) for n, value in enumerate(values)]
    answers = [claim.get() for claim in claims]
    (winner,) = [n for n, answer in enumerate(answers) if answer is None]
    assert set(answers) == {None, values[winner]}


def test_only_the_expected_value_is_deleted(keys_here_and_there: tuple[Keys, Keys]) -> None:
    here, there = keys_here_and_there
    here.put("k", b"mine", 60)
    there.delete("k", b"other")
    assert here.get("k") == b"mine"
    there.delete("k", b"mine")
    assert here.get("k") is None


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_the_same_everywhere_from_any_cursor(here_and_there: tuple[Runs, Runs], gates: Gates) -> None:
    here, there = here_and_there
    run = here.start(Ask(prompt="你好"), CALLER)
    other = there.get(run.id)
    early = gevent.spawn(everything, other)
    for n in range(30):
        gates.texts.put(f"{n} 👋")
        if n % 7 == 0:
            gevent.sleep(0.03)  # over several writes
    gates.texts.put(None)
    log = everything(run)
    assert [entry.seq for entry in log] == list(range(1, 34))
    assert early.get(timeout=SOON_SECONDS) == log
    for after in (0, 1, 15, 32):
        assert everything(there.get(run.id), after) == log[after:]
    assert ended(other) == run.end
    assert other.answer() == run.answer()
    assert other.turn.conversation_id == run.turn.conversation_id
    assert other.turn.context.messages[-1].text() == "你好"
    assert other.has(33)
    assert there.get(run.id).ended


def test_it_is_followed_while_it_is_silent_and_then_at_once(here_and_there: tuple[Runs, Runs], gates: Gates) -> None:
    here, there = here_and_there
    run = here.start(Ask(prompt="hi"), CALLER)
    cursor = there.get(run.id).follow(0)
    seen: list[str] = []
    while "upstream" not in seen:
        seen += [entry.type for entry in cursor.read(SOON_SECONDS)]
    for n in range(5):
        gates.texts.put(str(n))
        (entry,) = cursor.read(SOON_SECONDS)
        assert entry.data == b'{"text":"%d"}' % n
    cursor.close()
    gates.texts.put(None)
    ended(run)


def test_a_stop_from_anywhere_reaches_the_upstream(
    here_and_there: tuple[Runs, Runs], gates: Gates, upstream: ScriptedUpstream
) -> None:
    here, there = here_and_there
    run = here.start(Ask(prompt="hi"), CALLER)
    upstream.next_call()
    other = there.get(run.id)
    other.end_early("stopped")
    assert ended(other).reason == "stopped"
    assert ended(other) == ended(run)


def test_an_idempotency_key_begins_one_run_for_all(
    here_and_there: tuple[Runs, Runs], gates: Gates, upstream: ScriptedUpstream
) -> None:
    key = f"key{next(_numbers)}"
    ask = Ask(prompt="hi", idempotency_key=key)
    started = [gevent.spawn(here_and_there[n % 2].start, ask, CALLER) for n in range(10)]
    runs = [each.get(timeout=SOON_SECONDS) for each in started]
    assert len({run.id for run in runs}) == 1
    with pytest.raises(Refusal, match="idempotency_mismatch"):
        here_and_there[1].start(Ask(prompt="other", idempotency_key=key), CALLER)
    gates.texts.put(None)
    for run in runs:
        ended(run)
    assert len(upstream.calls) == 1


def test_a_conversation_goes_on_anywhere_with_one_run_at_a_time(
    here_and_there: tuple[Runs, Runs], gates: Gates, upstream: ScriptedUpstream
) -> None:
    here, there = here_and_there
    first = here.start(Ask(prompt="one"), CALLER)
    conversation_id = first.turn.conversation_id
    with pytest.raises(Refusal, match="conversation_busy"):
        there.start(Ask(prompt="two", conversation_id=conversation_id), CALLER)
    gates.texts.put("first answer")
    gates.texts.put(None)
    ended(there.get(first.id))
    second = there.start(Ask(prompt="two", conversation_id=conversation_id), CALLER)
    gates.texts.put(None)
    ended(second)
    assert b"first answer" in upstream.calls[-1].body
    with pytest.raises(Refusal, match="conversation_not_found"):
        there.start(Ask(prompt="x", conversation_id="unknown"), CALLER)


def test_whoever_follows_keeps_the_run_alive_wherever(workers: Workers, gates: Gates) -> None:
    here, there = workers(disconnect_grace_seconds=0.3)
    run = here.runs.start(Ask(prompt="hi"), CALLER)
    cursor = there.runs.get(run.id).follow(0)
    assert not run.wait_end(1.0)
    cursor.close()
    assert ended(run).reason == "abandoned"
    assert ended(there.runs.get(run.id)).reason == "abandoned"


def test_an_id_that_never_was_is_refused_everywhere(here_and_there: tuple[Runs, Runs]) -> None:
    here, there = here_and_there
    run = here.start(Ask(prompt="hi"), CALLER)
    for wrong in ("x", run.id[:-1] + ("A" if run.id[-1] != "A" else "B")):
        with pytest.raises(Refusal, match="run_not_found"):
            there.get(wrong)
    run.end_early("stopped")
    ended(run)


def test_an_ended_run_expires_everywhere(workers: Workers, gates: Gates) -> None:
    here, there = workers(run_ttl_seconds=0.5)
    gates.texts.put(None)
    ask = Ask(prompt="hi", idempotency_key=f"key{next(_numbers)}")
    run = here.runs.start(ask, CALLER)
    ended(run)

    def is_gone(runs: Runs) -> bool:
        try:
            runs.get(run.id)
        except Refusal as refusal:
            return refusal.code in {"run_not_found", "run_expired"}
        return False

    for runs in (here.runs, there.runs):
        wait_until(lambda runs=runs: is_gone(runs), "the run has expired")
    for runs in (here.runs, there.runs):
        with pytest.raises(Refusal, match="run_expired"):
            runs.start(ask, CALLER)  # never a new one
