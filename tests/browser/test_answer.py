"""static/answer.js: an answer is painted at once, then frame by frame; its exact text is to be had at any time."""

import gzip

from playwright.sync_api import Page, expect

from streaming.web.joining import joined_modules
from tests.browser.conftest import OpenPage
from tests.browser.rendering import open_sheet
from tests.live import ROOT, Relay

# Frames come when the test draws them, and no timer comes in between.
BY_HAND = """() => {
    const planned = new Map();
    let number = 0;
    window.requestAnimationFrame = (work) => (planned.set(++number, work), number);
    window.cancelAnimationFrame = (number) => planned.delete(number);
    window.setTimeout = () => 0;
    window.draw = () => {
        const works = [...planned.values()];
        planned.clear();
        for (const work of works) work();
    };
    window.paints = 0;
    window.view = kit.show(() => (paints += 1));
    window.body = kit.article.querySelector(".text");
}"""

# Each look at the clock finds it 5 ms later.
SLOW_CLOCK = "() => { let now = 0; performance.now = () => (now += 5); }"


def by_hand(open_page: OpenPage, server: Relay) -> Page:
    page = open_sheet(open_page, server)
    page.evaluate(BY_HAND)
    return page


def test_the_first_words_show_at_once_and_then_once_a_frame(open_page: OpenPage, server: Relay) -> None:
    page = by_hand(open_page, server)
    shown = page.evaluate(
        """() => {
            const shown = [];
            const look = () => shown.push([body.textContent, paints]);
            for (const work of [() => view.append("Hello"), () => view.append(" a"), () => view.append(" b"), draw,
                                draw, draw, () => view.append(" c"), () => view.append(" d"), draw]) {
                work();
                look();
            }
            return shown;
        }"""
    )
    assert shown == [
        *(["Hello", 1], ["Hello", 1], ["Hello", 1], ["Hello a b", 2]),
        *(["Hello a b", 2], ["Hello a b", 2], ["Hello a b c", 3], ["Hello a b c", 3], ["Hello a b c d", 4]),
    ]


def test_a_burst_is_worked_off_a_little_a_frame(open_page: OpenPage, server: Relay) -> None:
    """10,000 tokens in one read: no paint works for long, and the end waits for the last of them."""
    page = by_hand(open_page, server)
    page.evaluate(SLOW_CLOCK)
    steps, ended, text = page.evaluate(
        """async () => {
            let ended = null, most = 0;
            for (let token = 0; token < 10000; token++) view.append("word ");
            view.finish().then(() => (ended = body.textContent.length));
            const lengths = [0, body.textContent.length];
            while (ended === null) {
                draw();
                lengths.push(body.textContent.length);
                await null;
            }
            return [lengths.slice(1).map((length, index) => length - lengths[index]), ended, view.source()];
        }"""
    )
    assert text == "word " * 10000
    assert ended == len(text)
    assert max(steps) <= 2 * 1024
    assert len(steps) >= len(text) / 2048


def test_laying_out_is_work_too(open_page: OpenPage, server: Relay) -> None:
    """It takes longer than reading: where it takes all of a paint's time, one piece is written in each."""
    page = by_hand(open_page, server)
    lengths = page.evaluate(
        """() => {
            let now = 0;
            performance.now = () => now;
            const measure = Element.prototype.getBoundingClientRect;
            Element.prototype.getBoundingClientRect = function () { now += 10; return measure.call(this); };
            view.append("word ".repeat(1000));
            const lengths = [body.textContent.length];
            for (let frame = 0; frame < 6; frame++) lengths.push((draw(), body.textContent.length));
            return lengths;
        }"""
    )
    assert lengths == [1024, 2048, 3072, 4096, 5000, 5000, 5000]


def test_input_comes_in_between(open_page: OpenPage, server: Relay) -> None:
    """While a burst is worked off, what else the page has to do gets its turn between frames."""
    page = open_sheet(open_page, server)
    page.evaluate(SLOW_CLOCK)
    turns = page.evaluate(
        """async () => {
            let turns = 0, over = false;
            const view = kit.show();
            view.append("word ".repeat(20000));
            view.finish().then(() => (over = true));
            while (!over) {
                await new Promise((turn) => setTimeout(turn));
                turns += 1;
            }
            return turns;
        }"""
    )
    assert turns >= 10


def test_a_hidden_tab_keeps_up_without_frames(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    page.evaluate(SLOW_CLOCK)
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { get: () => true });
            window.requestAnimationFrame = () => 1;
            window.paints = 0;
            window.view = kit.show(() => (paints += 1));
            view.append("first");
            view.append(", then all the rest".repeat(1000));
        }"""
    )
    page.wait_for_function("() => paints === 2", polling=50)
    assert page.evaluate("kit.article.textContent") == "first" + ", then all the rest" * 1000


def test_characters_that_come_in_halves_are_shown_whole(open_page: OpenPage, server: Relay) -> None:
    page = by_hand(open_page, server)
    text = "👋 **👩‍👩‍👧** `😀`\n\n😀\n\n```\n👋\n```"
    seen = page.evaluate(
        """(text) => {
            const seen = [];
            for (const half of text.split("")) {
                view.append(half);
                view.reasoning(half);
                draw();
                seen.push(body.textContent + kit.article.querySelector(".reasoning").textContent);
            }
            view.finish();
            draw();
            return [seen.every((shown) => shown.isWellFormed()), view.source(),
                    kit.article.querySelector(".reasoning").textContent, body.textContent];
        }""",
        text,
    )
    assert seen == [True, text, text, "👋 👩‍👩‍👧 😀😀👋"]


def test_a_replaced_answer_leaves_nothing(open_page: OpenPage, server: Relay) -> None:
    page = by_hand(open_page, server)
    page.evaluate(
        "view.append('- shown **bo'), view.append('ld**\\n\\nand pending'), view.replace('Not **that**.'), draw()"
    )
    assert page.evaluate("[kit.inside(body), view.source()]") == ["<p>Not <strong>that</>.</>", "Not **that**."]
    page.evaluate("view.append(' Really.'), view.finish(), draw(), draw()")
    assert page.evaluate("[body.textContent, view.source()]") == ["Not that. Really.", "Not **that**. Really."]


def test_the_source_is_exact_at_any_time(open_page: OpenPage, server: Relay) -> None:
    page = by_hand(open_page, server)
    text = "# T\r\n\r\n\t* a  \n`` ` ``\n\n| x |\n|-|\n[a](http://b"
    assert page.evaluate(
        "(text) => [...text].every((_, at) => (view.append(text[at]), view.source() === text.slice(0, at + 1)))", text
    )


def test_thinking_steps_and_tools_stand_before_the_answer_folded(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    page.evaluate(
        """() => {
            window.view = kit.show();
            view.append("Answer.");
            view.reasoning("Let me\\n");
            view.reasoning("**see**");
            view.step({ id: "1", kind: "node", name: "Search", status: "started" });
            view.step({ id: "2", kind: "thought", name: "", status: "started" });
            view.step({ id: "1", kind: "node", name: "Search", status: "finished" });
            view.step({ id: "3", kind: "node", name: "Rank", status: "failed" });
            view.toolCall({ index: 0, id: "c", name: "weather", arguments: '{"ci' });
            view.toolCall({ index: 0, id: null, name: null, arguments: 'ty":1}' });
        }"""
    )
    thinking, steps = page.locator("details.thinking"), page.locator("details.steps")
    expect(thinking.locator(".reasoning")).to_have_text("Let me\n**see**")
    expect(steps.locator("summary")).to_have_text("weather")
    expect(steps.locator("li")).to_have_text(["Search", "Rank", 'weather{"city":1}'])
    assert [item.get_attribute("data-status") for item in steps.locator("li").all()] == ["finished", "failed", None]
    for details in (thinking, steps):
        assert details.get_attribute("open") is None
    assert page.locator(".answer > div > *").evaluate_all("nodes => nodes.map((node) => node.className)") == [
        *("thinking", "steps", "text"),
    ]
    page.evaluate("view.finish()")
    expect(steps.locator("summary")).to_have_text("Steps (3)")


def test_files_are_links(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    page.evaluate(
        """(urls) => {
            const view = kit.show();
            for (const url of urls) view.file({ id: "1", kind: "image", url });
        }""",
        [
            "https://a.b/c/d.png?sign=1",
            "https://a.b/%E6%8A%A5%E5%91%8A.pdf",
            "https://a.b/%E6.pdf",
            "/files/7/preview",
            "javascript:alert(1)",
            "data:text/html,x",
            "http://[",
        ],
    )
    links = page.locator(".file a")
    expect(links).to_have_text(["d.png", "报告.pdf", "%E6.pdf", "image"])
    assert links.first.evaluate("link => link.href") == "https://a.b/c/d.png?sign=1"
    assert links.last.evaluate("link => link.href") == f"{server.url}/files/7/preview"
    expect(links.first).to_have_attribute("rel", "noopener noreferrer nofollow")


CODE = 'def f(x):\n\treturn "``` 👋"\n\n'


def test_the_button_copies_the_exact_code(open_page: OpenPage, server: Relay) -> None:
    """In mid-stream too. The last newline belongs to the fence: pasted into a terminal it would run the command."""
    page = open_sheet(open_page, server)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("(code) => { window.view = kit.show(); view.append('- Run:\\n\\n  ```py\\n  ' + code) }", "a < b")
    copy = page.get_by_role("button", name="Copy")
    copy.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "a < b"
    page.evaluate("(code) => { window.view = kit.show(); view.append('```py\\n' + code + '\\n```\\n'); }", CODE)
    copy.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == CODE
    expect(copy).to_be_visible()  # the label comes back


def test_copying_works_where_the_clipboard_may_not_be_used(open_page: OpenPage, server: Relay) -> None:
    """As on http:// in a LAN, and in frames that may not."""
    page = open_sheet(open_page, server)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """(code) => {
            window.clipboard = navigator.clipboard;
            Object.defineProperty(navigator, "clipboard", { value: undefined });
            kit.show().append("```\\n" + code);
        }""",
        CODE,
    )
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("clipboard.readText()") == CODE.rstrip("\n") + "\n"
    page.evaluate("() => { document.execCommand = () => false; kit.show().append('```\\nx'); }")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copying failed")).to_be_visible()


def test_a_selection_survives_the_words_that_follow(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    page.evaluate(
        """async () => {
            window.view = kit.show();
            view.append("One **two three\\n\\n- four\\n\\n```py\\nfive = 5");
            await kit.frame();
            const texts = document.createTreeWalker(kit.article.querySelector(".text"), NodeFilter.SHOW_TEXT);
            const first = texts.nextNode();
            let last = first;
            while (texts.nextNode()) last = texts.currentNode;
            getSelection().setBaseAndExtent(first, 1, last, 4);
        }"""
    )
    selected = page.evaluate("getSelection().toString()")
    assert selected.startswith("ne")
    assert selected.endswith("five")
    page.evaluate(
        """async () => {
            const tokens = [" + 5", "\\n", "```", "\\n", "six **seven", "** [eight](https://a.b)", "\\n| 9 |\\n|-|\\n"];
            for (const token of tokens) {
                view.append(token);
                await kit.frame();
            }
            await view.finish();
        }"""
    )
    assert page.evaluate("getSelection().toString()") == selected


def test_the_modules_are_small() -> None:
    """What the page loads to show answers, as it is sent; half of what the smallest of its peers weighs is for all."""
    static = ROOT / "static"
    shows = {name: joined_modules(static, name) for name in ("answer", "scroll")}
    assert sum(len(gzip.compress(script.encode())) for script in shows.values()) <= 11 * 1024
