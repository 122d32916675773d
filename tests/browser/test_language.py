"""Languages of the page, and input methods that compose what is written."""

import pytest
from playwright.sync_api import CDPSession, Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import Model
from tests.browser.steps import announced, ask, button
from tests.live import Relay


def test_the_page_speaks_the_browsers_language(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url, locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.get_by_role("link", name="新对话")).to_be_visible()
    expect(page.get_by_role("textbox")).to_have_attribute("placeholder", "想问什么？")
    ask(page, "你好")
    expect(button(page, "停止")).to_be_visible()
    call = model.next()
    call.token("好")
    call.break_off()
    expect(page.get_by_role("alert")).to_contain_text("回答还没结束就被模型服务切断了。")
    button(page, "重试").click()
    model.next().end()
    expect(announced(page)).to_contain_text("回答完毕。")
    expect(button(page, "发送")).to_be_visible()


@pytest.mark.parametrize(
    ("asked", "locale", "lang"),
    [
        ("zh", "en-US", "zh-CN"),
        ("zh-TW", "en-US", "zh-CN"),
        ("en", "zh-CN", "en"),
        ("xx", "zh-CN", "zh-CN"),
        ("", "fr-FR", "en"),
    ],
)
def test_the_address_may_ask_for_a_language(
    open_page: OpenPage, server: Relay, asked: str, locale: str, lang: str
) -> None:
    page = open_page(f"{server.url}/?lang={asked}", locale=locale)
    expect(page.locator("html")).to_have_attribute("lang", lang)


def compose(cdp: CDPSession, text: str) -> None:
    """Let an input method show what it has so far, as Chromium's own tests do."""
    cdp.send("Input.imeSetComposition", {"text": text, "selectionStart": len(text), "selectionEnd": len(text)})


def nothing_sent(page: Page, value: str) -> None:
    expect(page.get_by_role("textbox")).to_have_value(value)
    expect(page.locator(".question")).to_have_count(0)


def test_enter_that_confirms_a_candidate_does_not_send(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    box = page.get_by_role("textbox")
    box.focus()
    cdp = page.context.new_cdp_session(page)
    compose(cdp, "ni h")
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
    cdp.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})
    cdp.send("Input.dispatchKeyEvent", {"type": "keyUp", **enter})
    nothing_sent(page, "ni h")
    cdp.send("Input.insertText", {"text": "你好"})  # the candidate is chosen: the composition ends
    nothing_sent(page, "你好")
    box.press("Shift+Enter")
    nothing_sent(page, "你好\n")
    box.press("Enter")
    expect(page.locator(".question")).to_have_text("你好")
    model.next().end()
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("before", "key"),
    [
        (["compositionstart"], {}),  # an engine that tells by its events alone
        ([], {"isComposing": True}),
        (["compositionstart", "compositionend"], {"keyCode": 229}),  # Safari's order
    ],
    ids=["flag", "isComposing", "safari"],
)
def test_every_sign_of_a_composition_counts(
    open_page: OpenPage, server: Relay, model: Model, before: list[str], key: dict[str, object]
) -> None:
    page = open_page(server.url)
    box = page.get_by_role("textbox")
    box.fill("你好")
    left_alone = box.evaluate(
        """(box, [before, key]) => {
            for (const type of before) box.dispatchEvent(new CompositionEvent(type, { bubbles: true }));
            const press = (name) => box.dispatchEvent(
                new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true, ...key }));
            return [press("Escape"), press("Enter")];
        }""",
        [before, key],
    )
    assert left_alone == [True, True]  # to the input method: not prevented
    nothing_sent(page, "你好")
    box.dispatch_event("compositionend")
    box.press("Enter")
    expect(page.locator(".question")).to_have_text("你好")
    model.next().end()
    assert len(model.calls) == 1


def test_escape_in_a_composition_stops_nothing(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    call.token("Hello")
    expect(page.locator(".answer")).to_contain_text("Hello")
    page.get_by_role("textbox").focus()
    compose(page.context.new_cdp_session(page), "ni h")
    page.keyboard.press("Escape")
    call.token(" world")
    call.end()
    expect(announced(page)).to_contain_text("Answer complete. Hello world")
