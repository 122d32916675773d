"""examples/websocket.html: many turns on one socket, on one screen."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import CuttingProxy, Model
from tests.live import ROOT, Relay

EXAMPLE = Path(ROOT) / "examples" / "websocket.html"


def open_example(open_page: OpenPage, url: str) -> Page:
    """Open the example as if the relay's origin hosted it.

    In a document that really came from there: sockets to this machine are closed to what the test made up.
    """
    page = open_page(f"{url}/healthz")
    page.set_content(EXAMPLE.read_text())
    return page


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox").fill(prompt)
    page.get_by_role("textbox").press("Enter")


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 50


def test_turns_follow_each_other_on_one_socket(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_example(open_page, server.url)
    opened: list[str] = []
    page.on("websocket", lambda socket: opened.append(socket.url))
    for prompt, said in (("你好 & goodbye", 1), ("And then?", 3)):
        ask(page, prompt)
        call = model.next()
        assert len(call.messages) == said
        assert call.messages[-1]["content"] == prompt
        for so_far, token in [("Hel", "Hel"), ("Hello 👋", "lo 👋")]:
            call.token(token)
            expect(page.locator("#answer")).to_have_text(so_far)
        call.end()
        expect(page.locator("#state")).to_have_text("done")
    assert opened == [f"ws://127.0.0.1:{server.port}/ws"]


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
    ask(page, "Again")  # in the same conversation, although on another socket
    call = model.next()
    assert [message["content"] for message in call.messages] == ["Hi", "Hello", "Again"]
    call.end()
    expect(page.locator("#state")).to_have_text("done")
    assert len(model.calls) == 2


def test_stop_means_stop(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_example(open_page, server.url)
    ask(page, "Hi")
    call = model.next()
    call.token("Hel")
    expect(page.locator("#answer")).to_have_text("Hel")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state")).to_have_text("stopped")


def test_a_failure_is_said_and_the_next_question_is_answered(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_example(open_page, server.url)
    ask(page, "Hi")
    model.next().break_off()
    expect(page.locator("#state")).to_have_text("The upstream's answer was cut off before its end.")
    ask(page, "Hi again")
    call = model.next()
    call.token("Hello")
    call.end()
    expect(page.locator("#answer")).to_have_text("Hello")
    expect(page.locator("#state")).to_have_text("done")
