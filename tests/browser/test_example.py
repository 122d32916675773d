"""examples/*.html: the whole idea on one screen, with EventSource, and with fetch and NDJSON."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import CuttingProxy, Model
from tests.live import ROOT, Relay

OpenExample = Callable[[str], Page]


@pytest.fixture(params=["eventsource.html", "ndjson.html"])
def open_example(open_page: OpenPage, request: pytest.FixtureRequest) -> OpenExample:
    """Return a function that opens the example as if the relay's origin hosted it."""
    example = (ROOT / "examples" / request.param).read_text(encoding="utf-8")

    def open_example(url: str) -> Page:
        page = open_page("about:blank")
        page.route("**/example", lambda route: route.fulfill(content_type="text/html", body=example))
        page.goto(f"{url}/example")
        return page

    return open_example


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox").fill(prompt)
    page.get_by_role("textbox").press("Enter")


@pytest.mark.parametrize(("name", "lines"), [("eventsource.html", 30), ("ndjson.html", 55)])
def test_it_is_short(name: str, lines: int) -> None:
    assert len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()) <= lines


def test_it_shows_the_answer_and_stops(open_example: OpenExample, server: Relay, model: Model) -> None:
    page = open_example(server.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, "你好 & goodbye")
    call = model.next()
    assert call.messages[-1]["content"] == "你好 & goodbye"
    for so_far, token in [("Hel", "Hel"), ("Hello", "lo")]:
        call.token(token)
        expect(page.locator("#answer")).to_have_text(so_far)
    call.end()
    expect(page.locator("#state")).to_have_text("done")
    assert page.evaluate("typeof source === 'undefined' || source.readyState === EventSource.CLOSED")
    assert (len(asked), len(model.calls)) == (1 if "stream" in asked[0] else 2, 1)  # /stream, or /runs and its events


def test_a_long_event_arrives_whole(open_example: OpenExample, server: Relay, model: Model) -> None:
    page = open_example(server.url)
    ask(page, "Hi")
    call = model.next()
    text = "".join(f"{number} 早上好 👋\n" for number in range(4_000))  # more than a browser reads at a time
    call.token(text)
    call.end()
    expect(page.locator("#state")).to_have_text("done")
    assert page.locator("#answer").text_content() == text


def test_a_cut_costs_nothing(open_example: OpenExample, model: Model, proxy: CuttingProxy) -> None:
    page = open_example(proxy.url)
    ask(page, "Hi")
    call = model.next()
    call.token("Hel")
    expect(page.locator("#answer")).to_have_text("Hel")
    proxy.cut()
    call.token("lo")
    expect(page.locator("#answer")).to_have_text("Hello")
    call.end()
    expect(page.locator("#state")).to_have_text("done")
    assert len(model.calls) == 1


def test_a_failure_is_said(open_example: OpenExample, server: Relay, model: Model) -> None:
    page = open_example(server.url)
    ask(page, "Hi")
    model.next().break_off()
    expect(page.locator("#state")).to_have_text("The upstream's answer was cut off before its end.")


def test_a_refusal_is_said(open_example: OpenExample, server: Relay) -> None:
    page = open_example(server.url)
    ask(page, " ")
    expect(page.locator("#state")).to_have_text(re.compile(r"^(refused|'prompt' is empty\.)$"))
