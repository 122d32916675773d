"""The servers that most tests share, and a relay before each. A test that breaks one starts its own."""

from collections.abc import Iterator

import pytest

from tests import live
from tests.browser.conftest import browser, fresh, model, open_page, proxy, server  # noqa: F401  # fixtures
from tests.real.servers import LlamaCpp, settings


@pytest.fixture(scope="session")
def llama() -> Iterator[LlamaCpp]:
    """llama.cpp, where a second request waits: one that is answered proves that the first has stopped."""
    with LlamaCpp() as engine:
        yield engine


@pytest.fixture(scope="session")
def relay(llama: LlamaCpp) -> Iterator[live.Relay]:
    """A relay before `llama`."""
    with live.relay(**settings(llama)) as before_llama:
        yield before_llama
