"""Every test process is patched as the served one is, before anything that opens sockets is imported."""

from gevent import monkey

monkey.patch_all()

import signal  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from tests import redaction  # noqa: E402
from tests.leaks import nothing_left_behind  # noqa: E402

collect_ignore = ["browser", "real"]  # processes of their own: a browser's client does not go with the patches

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A test run in a script's background ignores SIGINT, and so would all that it starts, `flask chat` too."""

LIVE = {"web", "faults"}  # their upstreams serve many tests; what their relays leave behind is checked at the end


@pytest.fixture(autouse=True, scope="session")
def _nothing_secret_is_printed() -> Iterator[None]:
    yield
    assert redaction.leaks() == []


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.path.parent.name in LIVE:
        yield
        return
    with nothing_left_behind():
        yield


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for localhost that vouches for itself."""
    folder = tmp_path_factory.mktemp("tls")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(folder / "key"), "-out", str(folder / "certificate"))
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    subprocess.run([*command, *files, *names], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())
    return both
