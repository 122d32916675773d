"""What every relay of these tests must look like once it is left alone."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.leaks import nothing_kept
from tests.live import Relay, relay

RelayOf = Callable[..., AbstractContextManager[Relay]]


@pytest.fixture(scope="session")
def clean_relay() -> RelayOf:
    """`with clean_relay(**settings) as server`: fails if the relay keeps a run or a file that its tests caused.

    `kept_to`: see leaks.nothing_kept.
    """

    @contextmanager
    def run(kept_to: Collection[int] = (), **settings: str) -> Iterator[Relay]:
        with relay(**settings) as server, nothing_kept(server, kept_to):
            yield server

    return run
