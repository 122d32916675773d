"""One relay process for all tests of the web side, in front of an upstream whose script each test sets."""

from collections.abc import Iterator

import pytest

from tests.leaks import nothing_kept
from tests.live import Relay, ScriptedUpstream, relay, scripted, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.scripted_dify import Dify

SETTINGS = {
    "HEARTBEAT_SECONDS": "0.2",
    "DISCONNECT_GRACE_SECONDS": "20",
    "CHAT_WAIT_SECONDS": "0.5",
    "MAX_BODY_BYTES": "1MiB",
}


def quick(call: object) -> None:
    """Two tokens and a good end."""
    call.start()  # type: ignore[attr-defined]
    call.chunk(token_chunk("你好") + token_chunk(" 👋") + FINISH + DONE)  # type: ignore[attr-defined]
    call.finish()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def _upstream() -> Iterator[ScriptedUpstream]:
    with scripted(quick) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def _relay(_upstream: ScriptedUpstream) -> Iterator[Relay]:
    with relay(UPSTREAM="openai", UPSTREAM_URL=_upstream.url, UPSTREAM_MODEL="m", **SETTINGS) as server:
        with nothing_kept(server, kept_to=[_upstream.port]):
            yield server


@pytest.fixture
def upstream(_upstream: ScriptedUpstream) -> ScriptedUpstream:
    """The upstream, answering quickly until the test says otherwise; `calls` are this test's own.

    A call comes after the first byte: a test that leaves its stream early awaits it, or the next test would get it.
    """
    _upstream.script = quick
    _upstream.calls.clear()
    while not _upstream._arrived.empty():
        _upstream._arrived.get()
    return _upstream


@pytest.fixture
def server(_relay: Relay, upstream: ScriptedUpstream) -> Iterator[Relay]:
    """The relay in front of `upstream`. A test that leaves a run behind fails: nobody would stop it."""
    yield _relay
    wait_until(lambda: _relay.counts()["unfinished"] == 0, "every run has ended")


@pytest.fixture(scope="session")
def _dify() -> Dify:
    return Dify()


@pytest.fixture(scope="session")
def _dify_relay(_dify: Dify, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with scripted(_dify) as upstream:
        file = tmp_path_factory.mktemp("dify") / "upstreams.toml"
        app = f'[[upstream]]\nname = "app"\ndialect = "dify"\nurl = "{upstream.url}"\napi_key_env = "KEY"\n'
        file.write_text(app + '[[upstream]]\nname = "demo"\ndialect = "demo"\n')
        with relay(UPSTREAMS_FILE=str(file), KEY="app-1", MAX_UPLOAD_BYTES="3MiB", MAX_BODY_BYTES="64KiB") as server:
            with nothing_kept(server, kept_to=[upstream.port]):
                yield server


@pytest.fixture
def dify(_dify: Dify) -> Dify:
    """The Dify app behind `dify_server`, answering well until the test says otherwise."""
    _dify.reset()
    return _dify


@pytest.fixture
def dify_server(_dify_relay: Relay, dify: Dify) -> Iterator[Relay]:
    """A relay in front of a Dify app named `app` and of the demo. Its files: 3 MiB."""
    yield _dify_relay
    wait_until(lambda: _dify_relay.counts()["unfinished"] == 0, "every run has ended")
