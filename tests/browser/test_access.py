"""The page for everybody: without a mouse, without sight, with large letters, in the dark, without motion."""

import hashlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import CuttingProxy, Model
from tests.browser.steps import announced, answer, ask, button, complete, connection
from tests.live import Relay, wait_until

# axe-core 4.14.1 from npm, MPL-2.0: checks the tests alone, and is never served.
AXE = Path(__file__).parent / "vendor" / "axe-core-4.14.1" / "axe.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

RICH = (
    "# Title\n\nSome **bold**, `code` and a [link](https://example.com/).\n\n- one\n- two\n\n> quoted\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint('a long line of code ' * 20)  # " + "x" * 200 + "\n```\n\n"
)


@pytest.fixture(scope="module")
def axe() -> str:
    script = AXE.read_bytes()
    assert hashlib.sha256(script).hexdigest() == AXE_SHA256
    return script.decode()


def check(page: Page, axe: str) -> None:
    """Fail on whatever axe finds, in what can be seen now. Its own waits are real: the page's clock may be ours."""
    page.evaluate(f"() => {{ {axe} }}")
    found = page.evaluate("() => axe.run({ resultTypes: ['violations'] }).then(({ violations }) => violations)")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def settled(page: Page) -> None:
    """Wait until everything that came is painted."""
    page.evaluate("() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)))")


def fits(page: Page) -> None:
    """Fail where anything makes the page scroll sideways."""
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(
        "() => { const { scrollWidth, clientWidth } = document.getElementById('transcript');"
        " return scrollWidth <= clientWidth; }"
    )


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_state_is_accessible(
    open_page: OpenPage, model: Model, proxy: CuttingProxy, axe: str, theme: str, language: str
) -> None:
    page = open_page(f"{proxy.url}/?lang={language}&theme={theme}&accent=e91e63")
    check(page, axe)  # empty
    ask(page, "Hi")
    call = model.next()
    call.think("Let me see")
    call.token(RICH)
    expect(page.locator("pre")).to_contain_text("print")
    check(page, axe)  # in mid-answer
    proxy.refusing = True
    proxy.cut()
    expect(connection(page)).to_have_attribute("data-state", "reconnecting")
    check(page, axe)
    proxy.refusing = False
    page.context.set_offline(True)
    expect(connection(page)).to_have_attribute("data-state", "offline")
    check(page, axe)
    page.context.set_offline(False)
    expect(connection(page)).to_have_attribute("data-state", "live")
    call.token("and more\n\n" * 100)
    call.break_off()
    expect(page.get_by_role("alert")).to_be_visible()
    check(page, axe)  # long, and failed
    page.locator(".asked button").first.click()
    expect(page.locator("#editing")).to_be_visible()
    check(page, axe)  # editing
    page.locator("#new-chat").click()
    ask(page, "Hi")
    model.next().end()
    expect(connection(page)).to_be_hidden()
    check(page, axe)  # complete


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_frame_is_accessible_in_the_systems_theme(
    open_page: OpenPage, server: Relay, model: Model, axe: str, scheme: str
) -> None:
    page = open_page(f"{server.url}/?embedded=1&title=Help&greeting=Hello", color_scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    check(page, axe)
    ask(page, "Hi")
    call = model.next()
    call.token(RICH)
    call.end()
    complete(page)
    settled(page)
    check(page, axe)


def test_everything_can_be_done_with_the_keyboard(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    keys = page.keyboard
    expect(page.get_by_role("textbox")).to_be_focused()
    keys.type("One")
    keys.press("Tab")
    expect(button(page, "Send")).to_be_focused()
    keys.press("Enter")
    expect(button(page, "Stop")).to_be_focused()
    call = model.next()
    call.token("line\n\n" * 100)
    expect(answer(page)).to_contain_text("line")
    keys.press("Enter")
    assert call.call.await_close()
    expect(page.get_by_role("textbox")).to_be_focused()
    page.get_by_role("log").focus()
    keys.press("Home")
    wait_until(lambda: page.get_by_role("log").evaluate("log => log.scrollTop") == 0, "it scrolls by keys")
    keys.press("Tab")
    expect(button(page, "Edit")).to_be_focused()
    keys.press("Enter")
    expect(page.get_by_role("textbox")).to_be_focused()
    expect(page.get_by_role("textbox")).to_have_value("One")
    keys.press("Escape")
    expect(page.get_by_role("textbox")).to_have_value("")
    button(page, "Regenerate").focus()
    keys.press("Enter")
    expect(button(page, "Stop")).to_be_focused()
    call = model.next()
    keys.press("Escape")
    assert call.call.await_close()
    expect(page.get_by_role("textbox")).to_be_focused()
    button(page, "Edit").focus()
    page.get_by_role("link", name="New chat").focus()
    keys.press("Enter")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_role("textbox")).to_be_focused()


WATCH_LIVE_REGIONS = """() => {
    window.said = [];
    const watch = (region) => new MutationObserver(() => said.push(region.textContent)).observe(
        region, { childList: true, characterData: true, subtree: true });
    document.querySelectorAll("[role=status], [role=alert], [aria-live]:not([aria-live=off])").forEach(watch);
}"""


def test_screen_readers_hear_little(open_page: OpenPage, model: Model, proxy: CuttingProxy) -> None:
    page = open_page(proxy.url)
    log = page.get_by_role("log")
    expect(log).to_have_attribute("aria-live", "off")
    page.evaluate(WATCH_LIVE_REGIONS)
    ask(page, "Hi")
    call = model.next()
    for number in range(100):
        call.token(f"{number} ")
    for round_ in range(3):
        proxy.cut()
        call.token(f"after cut {round_} ")
        expect(answer(page)).to_contain_text(f"after cut {round_}")
    call.token("and on " * 200)
    call.end()
    complete(page)
    said = page.evaluate("said")
    assert said[0] == "Answering…"
    assert said[-1].startswith("Answer complete. 0 1 2 3")
    assert len(said[-1]) <= 500
    assert len(said) <= 5
    assert len(set(said)) == len(said)


def test_an_error_is_an_alert_and_told_once(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    model.next().break_off()
    expect(page.get_by_role("alert")).to_contain_text("cut off before its end")
    expect(announced(page)).not_to_contain_text("cut off")


@pytest.mark.parametrize(("width", "height"), [(320, 568), (320, 256)], ids=["phone", "zoomed to 400 %"])
def test_nothing_scrolls_sideways(open_page: OpenPage, server: Relay, model: Model, width: int, height: int) -> None:
    title = "Donaudampfschifffahrtsgesellschaftskapitän"
    page = open_page(f"{server.url}/?title={title}&greeting={title * 3}", viewport={"width": width, "height": height})
    fits(page)
    ask(page, "x" * 500)
    call = model.next()
    call.token(RICH + "y" * 500)
    expect(answer(page)).to_contain_text("yyy")
    fits(page)
    assert page.locator("#transcript").bounding_box()["height"] > height / 4
    expect(page.get_by_role("textbox")).to_be_in_viewport(ratio=1)
    expect(button(page, "Stop")).to_be_in_viewport(ratio=1)
    call.break_off()
    expect(page.get_by_role("alert")).to_be_visible()
    fits(page)


def test_targets_are_large_enough(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    call.think("Hm")
    call.token(RICH)
    call.break_off()
    expect(page.get_by_role("alert")).to_be_visible()
    button(page, "Edit").click()
    seen = 0
    for target in page.locator("button:visible, header a, summary, textarea").all():
        box = target.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 24, target.evaluate("element => element.outerHTML")
        seen += 1
    assert seen >= 9


def test_reduced_motion_stops_all_of_it(open_page: OpenPage, server: Relay, model: Model) -> None:
    for motion, some in (("no-preference", True), ("reduce", False)):
        page = open_page(server.url, reduced_motion=motion)
        ask(page, "Hi")
        call = model.next()
        call.token("Hello")
        expect(answer(page)).to_have_text("Hello")
        assert bool(page.evaluate("document.getAnimations().length")) == some
        call.end()
        complete(page)


def test_forced_colours_leave_everything_visible(open_page: OpenPage, server: Relay, model: Model, axe: str) -> None:
    page = open_page(server.url, forced_colors="active")
    ask(page, "Hi")
    call = model.next()
    call.token("Hello")
    expect(answer(page)).to_have_text("Hello")
    for selector in (".question", "#stop", ".box"):
        width = page.locator(selector).evaluate("element => parseFloat(getComputedStyle(element).borderTopWidth)")
        assert width >= 1, selector
    check(page, axe)
    call.end()
    complete(page)


def test_a_reader_who_scrolled_up_stays_there(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    log = page.get_by_role("log")
    top, gap = "log => log.scrollTop", "log => log.scrollHeight - log.clientHeight - log.scrollTop"
    ask(page, "Tell me more")
    call = model.next()
    call.token("line\n\n" * 200)
    wait_until(lambda: log.evaluate(top) > 1000, "the end is followed")
    page.mouse.move(400, 300)
    page.mouse.wheel(0, -600)
    expect(button(page, "Jump to latest")).to_be_visible()
    wait_until(
        lambda: log.evaluate(top) == (page.wait_for_timeout(100), log.evaluate(top))[1], "the wheel stands still"
    )
    here = log.evaluate(top)
    for number in range(20):
        call.token("and more\n\n" * 10 + f"round {number}\n\n")
        expect(answer(page)).to_contain_text(f"round {number}")
        assert abs(log.evaluate(top) - here) <= 1
    button(page, "Jump to latest").click()
    expect(button(page, "Jump to latest")).to_be_hidden()
    log.evaluate("log => log.focus()")
    call.token("the end\n\n" * 30)
    wait_until(lambda: log.evaluate(gap) <= 1, "it is followed again")
    page.keyboard.press("Home")
    wait_until(lambda: log.evaluate(top) < here, "it scrolls by keys")
    page.keyboard.press("End")
    wait_until(lambda: log.evaluate(gap) <= 1, "it scrolls by keys")
    call.token("really the end\n\n" * 30)
    expect(answer(page)).to_contain_text("really")
    wait_until(lambda: log.evaluate(gap) <= 1, "End follows again")
    call.end()
    complete(page)


def test_the_box_stays_above_a_phones_keyboard(open_page: OpenPage, server: Relay) -> None:
    page = open_page(server.url, viewport={"width": 390, "height": 844})
    assert re.search("interactive-widget=resizes-content", page.locator("meta[name=viewport]").get_attribute("content"))
    page.set_viewport_size({"width": 390, "height": 400})  # what resizes-content does when the keyboard comes
    expect(page.get_by_role("textbox")).to_be_in_viewport(ratio=1)
    size = page.get_by_role("textbox").evaluate("box => parseFloat(getComputedStyle(box).fontSize)")
    assert size >= 16  # iOS zooms in on less
