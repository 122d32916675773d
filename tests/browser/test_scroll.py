"""static/scroll.js: the end is followed while its reader is there, and nobody is dragged back."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.rendering import open_sheet
from tests.live import Relay

# `grow` adds lines as an answer does; `stream` does so with every frame. `writes` counts the positions that are set.
SETUP = """() => {
    const scroller = document.createElement("div");
    scroller.id = "scroller";
    scroller.tabIndex = 0;
    Object.assign(scroller.style, { height: "300px", overflowY: "auto", font: "16px/20px monospace" });
    const button = document.createElement("button");
    button.append("Latest");
    const box = document.createElement("textarea");
    const aside = document.createElement("p");
    aside.append("Aside");
    document.body.replaceChildren(scroller, button, box, aside);
    window.writes = 0;
    const { get, set } = Object.getOwnPropertyDescriptor(Element.prototype, "scrollTop");
    Object.defineProperty(scroller, "scrollTop", { get, set(top) { writes += 1; set.call(this, top); } });
    window.follower = new kit.EndFollower(scroller, button);
    window.grow = (lines) => {
        for (let line = 0; line < lines; line++) {
            const row = document.createElement("div");
            row.append("Words and words");
            scroller.append(row);
        }
        follower.painted();
    };
    window.stream = () => { grow(1); requestAnimationFrame(stream); };
    window.gap = () => scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
    grow(100);
}"""


@pytest.fixture
def page(open_page: OpenPage, server: Relay) -> Page:
    page = open_sheet(open_page, server)
    page.evaluate(SETUP)
    return page


def scroller(page: Page) -> Locator:
    return page.locator("#scroller")


def button(page: Page) -> Locator:
    return page.get_by_role("button", name="Latest", include_hidden=True)


def stays_for_a_while(page: Page) -> None:
    """Text comes with each frame, and what the reader sees does not move."""
    tops = page.evaluate(
        """async () => {
            const tops = [];
            for (let frame = 0; frame < 30; frame++) {
                await new Promise(requestAnimationFrame);
                tops.push(scroller.scrollTop);
            }
            return tops;
        }"""
    )
    assert max(tops) - min(tops) <= 1
    assert page.evaluate("gap()") > 300
    expect(button(page)).to_be_visible()


def settled(page: Page) -> None:
    page.evaluate("() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)))")


def test_the_end_is_followed(page: Page) -> None:
    expect(button(page)).to_be_hidden()
    for _ in range(3):
        page.evaluate("grow(20)")
        assert page.evaluate("gap()") <= 1
    settled(page)
    assert page.evaluate("grow(1), gap()") <= 1


def test_the_position_is_set_once_a_paint_and_not_at_all_for_who_has_left(page: Page) -> None:
    settled(page)
    assert page.evaluate("writes = 0, grow(5), writes") == 1
    page.evaluate("scroller.scrollTo(0, 500)")
    settled(page)
    assert page.evaluate("writes = 0, grow(5), writes") == 0


def test_the_wheel_leaves_even_by_a_little(page: Page) -> None:
    """10 pixels are well within what counts as the end: the next words must not drag the reader back."""
    scroller(page).hover()
    page.evaluate("stream()")
    page.mouse.wheel(0, -10)
    expect(button(page)).to_be_visible()
    stays_for_a_while(page)


def test_the_wheel_leaves_before_the_text_moves(page: Page) -> None:
    page.evaluate("scroller.dispatchEvent(new WheelEvent('wheel', { deltaY: 10 })), grow(20)")
    assert page.evaluate("gap()") <= 1
    page.evaluate("scroller.dispatchEvent(new WheelEvent('wheel', { deltaY: -10 })), grow(20)")
    assert page.evaluate("gap()") > 300


@pytest.mark.parametrize("key", ["PageUp", "ArrowUp", "Home", "Shift+Space"])
def test_the_keyboard_leaves(page: Page, key: str) -> None:
    scroller(page).focus()
    page.evaluate("stream()")
    page.keyboard.press(key)
    expect(button(page)).to_be_visible()
    page.wait_for_function(
        """async () => {
            const before = scroller.scrollTop;
            for (let frame = 0; frame < 10; frame++) await new Promise(requestAnimationFrame);
            return scroller.scrollTop === before;
        }"""
    )  # keys scroll smoothly
    stays_for_a_while(page)


def test_a_selection_leaves(page: Page) -> None:
    page.evaluate("stream()")
    page.evaluate("getSelection().selectAllChildren(scroller.lastChild)")
    expect(button(page)).to_be_visible()
    stays_for_a_while(page)
    assert page.evaluate("getSelection().toString()") == "Words and words"


def test_a_finger_leaves(page: Page) -> None:
    page.evaluate(
        """() => {
            const touch = (type, clientY) => scroller.dispatchEvent(new TouchEvent(type, {
                touches: [new Touch({ identifier: 1, target: scroller, clientY })] }));
            touch("touchstart", 100);
            touch("touchmove", 90);
            grow(1);
            window.upwards = gap();
            touch("touchmove", 105);
            grow(20);
        }"""
    )
    assert page.evaluate("upwards") <= 1
    assert page.evaluate("gap()") > 300
    expect(button(page)).to_be_visible()


def test_a_script_or_the_bar_leaves(page: Page) -> None:
    page.evaluate("scroller.scrollTo(0, 500)")
    settled(page)
    assert page.evaluate("grow(50), scroller.scrollTop") == 500
    expect(button(page)).to_be_visible()


def test_coming_near_the_end_is_coming_back(page: Page) -> None:
    scroller(page).hover()
    page.mouse.wheel(0, -500)
    expect(button(page)).to_be_visible()
    for away, back in [(100, False), (40, True)]:
        page.evaluate("(away) => scroller.scrollTo(0, scroller.scrollHeight - scroller.clientHeight - away)", away)
        settled(page)
        page.evaluate("grow(10)")
        assert (page.evaluate("gap()") <= 1) is back
    expect(button(page)).to_be_hidden()


def test_the_end_key_and_the_button_come_back(page: Page) -> None:
    scroller(page).focus()
    page.keyboard.press("Home")
    expect(button(page)).to_be_visible()
    page.evaluate("stream()")
    page.keyboard.press("End")
    expect(button(page)).to_be_hidden()
    page.wait_for_function("() => gap() <= 1")
    scroller(page).hover()
    page.mouse.wheel(0, -500)
    button(page).focus()
    button(page).press("Enter")
    expect(button(page)).to_be_hidden()
    page.wait_for_function("() => gap() <= 1")
    expect(scroller(page)).to_be_focused()  # not lost with the button


def test_what_does_not_scroll_the_text_does_not_leave(page: Page) -> None:
    page.locator("textarea").focus()
    page.keyboard.press("ArrowUp")
    page.evaluate("scroller.dispatchEvent(new WheelEvent('wheel', { deltaY: -100, ctrlKey: true }))")  # zooms
    page.evaluate("getSelection().selectAllChildren(document.querySelector('p'))")
    assert page.evaluate("getSelection().toString()") == "Aside"
    settled(page)
    assert page.evaluate("grow(20), gap()") <= 1


def test_a_text_that_fits_cannot_be_left(page: Page) -> None:
    page.evaluate("scroller.replaceChildren(), grow(3)")
    scroller(page).hover()
    page.mouse.wheel(0, -100)
    settled(page)
    page.evaluate("grow(100)")
    assert page.evaluate("gap()") <= 1


def test_a_keyboard_that_comes_up_hides_nothing(page: Page) -> None:
    page.evaluate("() => { scroller.style.height = '150px'; }")
    page.wait_for_function("() => scroller.clientHeight === 150 && gap() <= 1")
