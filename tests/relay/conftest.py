"""What a test opened is closed after it, the newest first: an unclosed socket is a warning, and warnings are errors."""

from collections.abc import Iterator

import pytest

from tests.relay import support


@pytest.fixture(autouse=True)
def _everything_opened_is_closed() -> Iterator[None]:
    yield
    while support.to_close:
        support.to_close.pop().close()
