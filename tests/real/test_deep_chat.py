"""examples/deep-chat.html, with the real deep-chat in a real browser."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import CuttingProxy, Model
from tests.live import ROOT, Relay, wait_until
from tests.real.servers import HERE

EXAMPLE = Path(ROOT) / "examples" / "deep-chat.html"
BUNDLE = HERE / "node_modules" / "deep-chat" / "dist" / "deepChat.bundle.js"


def open_chat(open_page: OpenPage, url: str) -> Page:
    page = open_page("about:blank")
    page.route("**/deepChat.bundle.js", lambda route: route.fulfill(path=BUNDLE, content_type="text/javascript"))
    page.route("**/chat", lambda route: route.fulfill(body=EXAMPLE.read_text(), content_type="text/html"))
    page.goto(f"{url}/chat")
    return page


def ask(page: Page, prompt: str) -> None:
    page.locator("#text-input").fill(prompt)
    page.locator("#text-input").press("Enter")


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 45


def test_turns_go_on_through_a_cut(open_page: OpenPage, model: Model, proxy: CuttingProxy) -> None:
    page = open_chat(open_page, proxy.url)
    answers = page.locator(".ai-message-text")
    ask(page, "你好")
    call = model.next()
    call.token("Hel")
    expect(answers.last).to_have_text("Hel")
    proxy.cut()
    call.token("lo 世界")
    expect(answers.last).to_have_text("Hello 世界")
    call.end()
    wait_until(lambda: page.locator("#text-input").is_editable(), "it can be asked again")
    ask(page, "And then?")
    call = model.next()
    assert [message["content"] for message in call.messages] == ["你好", "Hello 世界", "And then?"]
    call.token("The end.")
    call.end()
    expect(answers.last).to_have_text("The end.")
    assert len(model.calls) == 2


def test_its_stop_button_stops_the_upstream(open_page: OpenPage, model: Model, server: Relay) -> None:
    page = open_chat(open_page, server.url)
    ask(page, "Count")
    call = model.next()
    call.token("1 2 3")
    expect(page.locator(".ai-message-text").last).to_have_text("1 2 3")
    page.locator(".input-button").click()
    assert call.call.await_close()
    wait_until(lambda: server.counts()["unfinished"] == 0, "nothing runs on")


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_failure_is_shown_and_the_next_question_is_answered(
    open_page: OpenPage, model: Model, server: Relay, tokens: int
) -> None:
    page = open_chat(open_page, server.url)
    ask(page, "Hi")
    call = model.next()
    for _ in range(tokens):
        call.token("Half")
    call.break_off()
    expect(page.locator(".error-message-text")).to_have_text("The upstream's answer was cut off before its end.")
    ask(page, "Again")
    call = model.next()
    call.token("Whole")
    call.end()
    expect(page.locator(".ai-message-text").last).to_have_text("Whole")
