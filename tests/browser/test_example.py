"""examples/eventsource.html: the whole idea on one screen."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import CuttingProxy, Model
from tests.live import ROOT, Relay

EXAMPLE = Path(ROOT) / "examples" / "eventsource.html"


def open_example(open_page: OpenPage, url: str) -> Page:
    """Open the example as if the relay's origin hosted it."""
    page = open_page("about:blank")
    page.route("**/example", lambda route: route.fulfill(content_type="text/html", body=EXAMPLE.read_text()))
    page.goto(f"{url}/example")
    return page


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox").fill(prompt)
    page.get_by_role("textbox").press("Enter")


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 30


def test_it_shows_the_answer_and_stops(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_example(open_page, server.url)
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
    assert page.evaluate("source.readyState") == 2  # CLOSED: it does not come back
    assert len(asked) == len(model.calls) == 1


def test_a_cut_costs_nothing(open_page: OpenPage, model: Model, proxy: CuttingProxy) -> None:
    page = open_example(open_page, proxy.url)
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


def test_a_failure_is_said(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_example(open_page, server.url)
    ask(page, "Hi")
    model.next().break_off()
    expect(page.locator("#state")).to_have_text("The upstream's answer was cut off before its end.")
