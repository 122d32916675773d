"""A real browser in front of a real relay in front of an upstream that the test drives word by word.

Playwright does not go with gevent's patches, so these tests are a process of their own, without tests/conftest.py:

    pytest tests/browser --confcutdir=tests/browser
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests import redaction
from tests.browser.parts import CuttingProxy, Model, relay
from tests.live import WAIT_SECONDS, Relay, scripted

ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",  # several ports of one host are one site, and prove nothing
]
expect.set_options(timeout=WAIT_SECONDS * 1000)


def _chromium() -> str:
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path, "no Chromium: run scripts/ensure-chromium, or set CHROMIUM"
    return path


def launched(playwright: Playwright) -> Browser:
    """Start the browser. The caller closes it, or is a `with` block."""
    no_sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root Chromium does not start with it
    return playwright.chromium.launch(executable_path=_chromium(), args=ARGUMENTS + no_sandbox)


@pytest.fixture(autouse=True, scope="session")
def _nothing_secret_is_printed() -> Iterator[None]:
    yield
    assert redaction.leaks() == []


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, launched(playwright) as browser:
        yield browser


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Return a function that opens a URL in a context of its own; nothing may be refused by policy or thrown there."""
    with contextlib.ExitStack() as contexts:
        complaints: list[str] = []

        def open_page(url: str, **options: object) -> Page:
            context = contexts.enter_context(contextlib.closing(browser.new_context(**{"locale": "en-US", **options})))
            context.set_default_timeout(WAIT_SECONDS * 1000)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: "Security Policy" in message.text and complaints.append(message.text))
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            page.goto(url)
            return page

        yield open_page
        assert complaints == []


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with scripted(lambda call: model.serve(call)) as upstream:
        model = Model(upstream)
        yield model
        model.forget()


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[Relay]:
    with relay(**model.settings(), RETRY_MS="100", CHAT_WAIT_SECONDS="0.5", HEARTBEAT_SECONDS="0.5") as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(model: Model) -> Iterator[None]:
    """Let no test see the calls of another, nor leave a call open."""
    yield
    model.forget()


@pytest.fixture
def proxy(server: Relay) -> Iterator[CuttingProxy]:
    with contextlib.closing(CuttingProxy(server.port)) as proxy:
        yield proxy
