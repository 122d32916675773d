"""examples/answer.jsx, in the real React (with StrictMode, which runs every effect twice) in a real browser."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import CuttingProxy, Model
from tests.live import ROOT, Relay, wait_until
from tests.real.servers import HERE, NODE

MODULES = HERE / "node_modules"
EXAMPLE = Path(ROOT) / "examples" / "answer.jsx"


@pytest.fixture(scope="module")
def script() -> str:
    """React, the example and client.js as one script, as a bundler of today makes it."""
    command = [
        NODE,
        MODULES / "esbuild" / "bin" / "esbuild",
        HERE / "react_page.jsx",
        "--bundle",
        "--format=esm",
        "--jsx=automatic",
    ]
    environment = {"NODE_PATH": str(MODULES), "PATH": os.environ["PATH"]}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def open_react(open_page: OpenPage, url: str, script: str) -> Page:
    page = open_page("about:blank")
    html = '<!doctype html><div id="root"></div><script type="module" src="/react.js"></script>'
    page.route("**/react", lambda route: route.fulfill(content_type="text/html", body=html))
    page.route("**/react.js", lambda route: route.fulfill(content_type="text/javascript", body=script))
    page.goto(f"{url}/react")
    return page


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 25


def test_an_answer_comes_whole_through_a_cut(
    open_page: OpenPage,
    model: Model,
    proxy: CuttingProxy,
    script: str,
) -> None:
    page = open_react(open_page, proxy.url, script)
    call = model.next()
    call.token("Hel")
    expect(page.locator("article")).to_have_text(re.compile("^Hel "))
    proxy.cut()
    call.token("lo 世界")
    expect(page.locator("article")).to_have_text(re.compile("^Hello 世界 "))
    call.end()
    expect(page.locator("small")).to_have_text("done")
    assert len(model.calls) == 1


def test_its_button_stops_the_upstream(
    open_page: OpenPage,
    server: Relay,
    model: Model,
    script: str,
) -> None:
    page = open_react(open_page, server.url, script)
    call = model.next()
    call.token("1 2 3")
    page.get_by_role("button", name="Stop").click()
    assert call.call.await_close()
    expect(page.locator("small")).to_have_text("stopped")
    wait_until(lambda: server.counts()["unfinished"] == 0, "nothing runs on")
