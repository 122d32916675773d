"""The page's form with JavaScript switched off: pages from the server alone."""

import re
import threading
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import Answering, Model, relay
from tests.browser.payloads import PAYLOADS
from tests.browser.test_access import axe, check  # noqa: F401  # the fixture
from tests.live import Relay

XSS = "<img src=x onerror=alert(1)>"


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox").fill(prompt)
    page.get_by_role("button", name="Send").click(no_wait_after=True)


def answered(page: Page, model: Model, prompt: str) -> Answering:
    """Ask and answer "One!" to "One"; return the call."""
    ask(page, prompt)
    call = model.next()
    call.token(f"{prompt}!")
    call.end()
    expect(page.locator(".answer .text").last).to_have_text(f"{prompt}!")
    expect(page.get_by_role("textbox")).to_be_visible()
    return call


@pytest.fixture
def page(open_page: OpenPage, server: Relay) -> Page:
    return open_page(server.url, java_script_enabled=False)


def test_a_question_gets_a_page(page: Page, model: Model) -> None:
    ask(page, "Hi")
    call = model.next()
    call.token(f"Hello {XSS}")
    call.end()
    expect(page.locator(".answer .text")).to_have_text(f"Hello {XSS}")
    expect(page.locator(".note")).to_have_count(0)
    expect(page.locator(".question")).to_have_text("Hi")


def test_nobodys_words_are_markup(page: Page, model: Model) -> None:
    """Each payload as question, thought and answer, where the server alone writes the page."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    words = "\n".join(payload.replace("\0", "") for payload in PAYLOADS)
    ask(page, words)
    call = model.next()
    call.think(words)
    call.token(words)
    call.end()
    expect(page.get_by_role("textbox")).to_be_visible()
    expect(page.locator(".answer .text")).to_contain_text("__proto__")
    for place in (".question", ".reasoning", ".answer .text"):
        assert page.locator(f"{place} > *").count() == 0, place
        assert (page.locator(place).text_content() or "").count("<script") == words.count("<script"), place
    assert page.locator("script, img, iframe, style, object, embed").count() == 0
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {urlsplit(page.url).netloc}


def test_a_reload_asks_nothing_again(page: Page, model: Model) -> None:
    answered(page, model, "Hi")
    page.reload()
    expect(page.locator(".answer .text")).to_have_text("Hi!")
    assert len(model.calls) == 1


def test_a_form_that_is_sent_twice_asks_once(server: Relay, model: Model) -> None:
    html = {"Accept": "text/html"}
    key = re.search(
        r'name="idempotency_key" value="([\w-]{20,})"', requests.get(server.url, headers=html, timeout=10).text
    )
    form = {"prompt": "Hi", "idempotency_key": key[1], "on_disconnect": "finish"}
    found: list[str] = []

    def send() -> None:
        response = requests.post(f"{server.url}/chat", data=form, headers=html, timeout=20, allow_redirects=False)
        found.append(response.headers["Location"])

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    model.next().end()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(model.calls) == 1
    keys = {
        re.search(r'name="idempotency_key" value="([\w-]+)"', requests.get(server.url, headers=html, timeout=10).text)[
            1
        ]
        for _ in range(3)
    }
    assert len(keys) == 3


def test_a_long_answer_refreshes_itself_and_can_be_stopped(page: Page, model: Model) -> None:
    ask(page, "Tell me more")
    call = model.next()
    call.token("Once upon a time ")
    expect(page.locator(".answer .text")).to_have_text("Once upon a time")
    expect(page.locator(".note")).to_have_text("Answering… this page refreshes itself.")
    expect(page.get_by_role("textbox")).to_have_count(0)  # a refresh would take what was typed
    call.token("they lived.")
    expect(page.locator(".answer .text")).to_have_text("Once upon a time they lived.")
    page.get_by_role("button", name="Stop").click(no_wait_after=True)
    assert call.call.await_close()
    expect(page.locator(".note")).to_have_text("Stopped.")
    expect(page.locator(".answer .text")).to_have_text("Once upon a time they lived.")
    assert answered(page, model, "And then?").messages[-2]["content"] == "Once upon a time they lived."
    assert len(model.calls) == 2


def test_the_conversation_goes_on_and_is_shown(page: Page, model: Model) -> None:
    answered(page, model, "One")
    first = page.url
    answered(page, model, "Two")
    third = answered(page, model, "Three")
    assert [message["content"] for message in third.messages] == ["One", "One!", "Two", "Two!", "Three"]
    expect(page.locator(".question")).to_have_text(["One", "Two", "Three"])
    expect(page.locator(".answer .text")).to_have_text(["One!", "Two!", "Three!"])
    page.goto(first)  # is still the page that it was
    expect(page.locator(".question")).to_have_text(["One"])


def test_the_newest_answer_is_in_view(page: Page, model: Model) -> None:
    ask(page, "One")
    call = model.next()
    call.token("line\n" * 200 + "the end")
    call.end()
    expect(page.get_by_role("textbox")).to_be_visible()
    seen, last = page.locator("#transcript").bounding_box(), page.locator(".answer .text").bounding_box()
    assert last["height"] > seen["height"]
    assert last["y"] + last["height"] <= seen["y"] + seen["height"]


def test_a_failure_is_said_and_the_conversation_goes_on(page: Page, model: Model) -> None:
    answered(page, model, "One")
    ask(page, "Two")
    call = model.next()
    call.token("Hel")
    call.break_off()
    expect(page.get_by_role("alert")).to_have_text("The upstream's answer was cut off before its end.")
    expect(page.locator(".answer .text").last).to_have_text("Hel")
    third = answered(page, model, "Three")
    assert [message["content"] for message in third.messages] == ["One", "One!", "Three"]
    expect(page.locator(".question")).to_have_text(["One", "Three"])


def test_a_refused_form_keeps_what_was_written(page: Page, model: Model) -> None:
    answered(page, model, "One")
    page.go_back()
    ask(page, "Two on an old form")
    expect(page.get_by_role("alert")).to_have_text("This form had been sent before. Send it again to ask.")
    expect(page.get_by_role("textbox")).to_have_value("Two on an old form")
    page.get_by_role("button", name="Send").click(no_wait_after=True)
    call = model.next()
    assert [message["content"] for message in call.messages] == ["Two on an old form"]
    call.end()


def test_a_forgotten_conversation_is_said(open_page: OpenPage, model: Model) -> None:
    with relay(**model.settings(), CONVERSATION_TTL_SECONDS="0.5") as server:
        page = open_page(server.url, java_script_enabled=False)
        answered(page, model, "One")
        page.wait_for_timeout(600)
        ask(page, "Two")
        expect(page.get_by_role("alert")).to_contain_text("The earlier conversation has expired.")
        assert [message["content"] for message in answered(page, model, "Two").messages] == ["Two"]


def test_every_page_is_accessible(open_page: OpenPage, server: Relay, model: Model, axe: str) -> None:  # noqa: F811
    page = open_page("about:blank")
    page.route("**/chat.js", lambda route: route.abort())  # axe itself is a script
    page.goto(server.url)
    check(page, axe)
    ask(page, "Hi")
    call = model.next()
    call.think("Let me see")
    call.token("Hello " * 500)
    expect(page.locator(".answer")).to_contain_text("Hello")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    call.break_off()
    expect(page.get_by_role("alert")).to_be_visible()
    check(page, axe)
    page.get_by_role("textbox").fill(" ")
    page.get_by_role("button", name="Send").click(no_wait_after=True)
    expect(page.get_by_role("alert")).to_contain_text("'prompt' is empty")
    check(page, axe)
