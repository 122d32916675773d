"""The page's form with JavaScript switched off: pages from the server alone."""

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import Model
from tests.live import Relay

XSS = "<img src=x onerror=alert(1)>"


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox").fill(prompt)
    page.get_by_role("button", name="Send").click(no_wait_after=True)


def test_a_question_gets_a_page(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url, java_script_enabled=False)
    ask(page, "Hi")
    call = model.next()
    call.token(f"Hello {XSS}")
    call.end()
    expect(page.locator(".answer .text")).to_have_text(f"Hello {XSS}")
    expect(page.locator(".note")).to_have_count(0)
    expect(page.locator(".question")).to_have_text("Hi")


def test_a_reload_asks_nothing_again(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url, java_script_enabled=False)
    ask(page, "Hi")
    call = model.next()
    call.token("Hello")
    call.end()
    expect(page.locator(".answer .text")).to_have_text("Hello")
    page.reload()
    expect(page.locator(".answer .text")).to_have_text("Hello")
    assert len(model.calls) == 1


def test_a_long_answer_refreshes_itself(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url, java_script_enabled=False)
    ask(page, "Tell me more")
    call = model.next()
    call.token("Once upon a time ")
    expect(page.locator(".answer .text")).to_have_text("Once upon a time")
    expect(page.locator(".note")).to_have_text("Answering… this page refreshes itself.")
    call.token("they lived.")
    expect(page.locator(".answer .text")).to_have_text("Once upon a time they lived.")
    call.end()
    expect(page.locator(".note")).to_have_count(0)
    assert len(model.calls) == 1


def test_the_conversation_goes_on(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url, java_script_enabled=False)
    ask(page, "One")
    first = model.next()
    first.token("1")
    first.end()
    expect(page.locator(".answer .text")).to_have_text("1")
    ask(page, "Two")
    second = model.next()
    assert [message["content"] for message in second.messages] == ["One", "1", "Two"]
    second.token("2")
    second.end()
    expect(page.locator(".answer .text")).to_have_text("2")


def test_a_failure_is_said(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url, java_script_enabled=False)
    ask(page, "Hi")
    call = model.next()
    call.token("Hel")
    call.break_off()
    expect(page.get_by_role("alert")).to_have_text("The upstream's answer was cut off before its end.")
    expect(page.locator(".answer .text")).to_have_text("Hel")
