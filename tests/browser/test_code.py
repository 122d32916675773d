"""static/code.js: colours come late, load little, and never touch the text."""

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.rendering import open_sheet
from tests.live import Relay

SAMPLES = {
    "bash sh shell zsh console": 'for f in *; do echo "$f"; done # all',
    "cpp c c++ h hpp": "int main() { return 0; } // <end>",
    "css": "a:hover { color: #fff; } /* x */",
    "go golang": 'func main() { fmt.Println("hi") }',
    "java": "class A { int x = 1; }",
    "javascript js jsx mjs node": "const f = (x) => `a${x}` < 1; // &amp;",
    "json jsonc": '{"a": [1, true, null]}',
    "python py Python3": "def f():\n    return 'x'  # y",
    "sql postgresql": "SELECT a FROM b WHERE c = 'd';",
    "typescript ts tsx": "type A = { b: string };",
    "xml html svg vue": "<p class='a'>b &lt; <script>let c = 1;</script></p>",
    "yaml yml": "a: [1, true] # b",
}

HIGHLIGHT = """async ([text, language]) => {
    const { highlight } = await import("/static/code.js");
    const code = document.createElement("code");
    code.append(text);
    kit.article.replaceChildren(code);
    await highlight(code, language);
    const count = (selector) => code.querySelectorAll(selector).length;
    return [code.textContent, count("span[class^=hljs-]"), count(":not(span)")];
}"""


def scripts_of(page: Page) -> list[str]:
    names: list[str] = []
    page.on("request", lambda request: names.append(request.url.rpartition("/static/")[2]))
    return names


def test_colours_come_when_the_fence_closes(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    scripts = scripts_of(page)
    page.evaluate("() => { window.view = kit.show(); view.append('```python\\nreturn 1\\n``'); }")
    page.evaluate("() => new Promise((idle) => requestIdleCallback(idle))")
    assert page.locator("code span").count() == 0
    assert scripts == []
    page.evaluate("view.append('`\\n\\n')")
    expect(page.locator("code .hljs-keyword")).to_have_text("return")
    assert page.locator("code").text_content() == "return 1"
    loaded = [name.rpartition("/")[2] for name in scripts]
    assert sorted(loaded) == ["code.js", "core.min.js", "python.min.js"]
    page.evaluate("view.append('```py\\nreturn 2\\n```'), view.finish()")
    expect(page.locator("code .hljs-keyword")).to_have_count(2)
    assert len(scripts) == 3


def test_every_language_keeps_its_text(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    for names, text in SAMPLES.items():
        for name in names.split():
            shown, spans, others = page.evaluate(HIGHLIGHT, [text, name])
            assert (shown, others) == (text, 0), name
            assert spans > 0, name


def test_a_language_within_another_is_coloured_too(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    page.evaluate(HIGHLIGHT, [SAMPLES["javascript js jsx mjs node"], "js"])
    html = SAMPLES["xml html svg vue"]
    assert page.evaluate(HIGHLIGHT, [html, "html"])[0] == html
    expect(page.locator("code .hljs-keyword")).to_have_text("let")


def test_what_is_unknown_or_too_long_stays_as_it_is(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    scripts = scripts_of(page)
    for name, text in [("cobol", "MOVE 1 TO A."), ("__proto__", "x"), ("constructor", "x"), ("js", "let a;\n" * 3000)]:
        assert page.evaluate(HIGHLIGHT, [text, name]) == [text, 0, 0]
    assert scripts == ["code.js"]


def test_a_faulty_grammar_costs_no_text(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    faulty = "export default () => ({ __emitTokens(code, emitter) { emitter.addText(code.slice(1)); } });"
    page.route("**/sql.min.js", lambda route: route.fulfill(content_type="text/javascript", body=faulty))
    assert page.evaluate(HIGHLIGHT, ["SELECT 1", "sql"]) == ["SELECT 1", 0, 0]


def test_long_lines_stay_as_they_are(open_page: OpenPage, server: Relay) -> None:
    """C++'s grammar takes 13 s for a word of 49,000 letters, Java's minutes."""
    page = open_sheet(open_page, server)
    for length, coloured in [(250, True), (301, False)]:
        text = "return " + "x" * (length - 7) + "\nreturn"
        assert (page.evaluate(HIGHLIGHT, [text, "cpp"])[1] > 0) == coloured


def test_code_that_nests_without_end_stays_as_it_is(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    for text in ('"${' * 16_000, '"${' * 100):
        assert page.evaluate(HIGHLIGHT, [text, "bash"]) == [text, 0, 0]
    assert page.evaluate(HIGHLIGHT, ['"${' * 5, "bash"])[1] > 0


def test_selected_code_is_left_alone_until_it_is_not(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    selected = page.evaluate(
        """async () => {
            const { highlight } = await import("/static/code.js");
            const view = kit.show();
            view.append("before\\n\\n```py\\nreturn 1");
            const code = kit.article.querySelector("code");
            getSelection().selectAllChildren(code);
            let over = false;
            highlight(code, "python").then(() => (over = true));
            await import("/static/vendor/highlight.js-11.12.0/es/core.min.js");
            await import("/static/vendor/highlight.js-11.12.0/es/languages/python.min.js");
            const selected = [];
            for (const length of [6, 8]) {
                for (let turn = 0; turn < 10; turn++) await new Promise((turn) => setTimeout(turn));
                selected.push(getSelection().toString(), over);
                getSelection().setBaseAndExtent(code.firstChild, 0, code.firstChild, length);
            }
            for (let turn = 0; turn < 10; turn++) await new Promise((turn) => setTimeout(turn));
            selected.push(getSelection().toString(), over);
            getSelection().selectAllChildren(kit.article.querySelector("p"));
            return selected;
        }"""
    )
    assert selected == ["return 1", False, "return", False, "return 1", False]
    expect(page.locator("code .hljs-keyword")).to_have_text("return")
    assert page.evaluate("getSelection().toString()") == "before"


def test_colours_can_be_read_in_light_and_dark(open_page: OpenPage, server: Relay) -> None:
    """A contrast of 4.5 at least (WCAG 1.4.3), for every kind of word."""
    for scheme in ("light", "dark"):
        page = open_sheet(open_page, server, color_scheme=scheme)
        for names, text in SAMPLES.items():
            page.evaluate("() => kit.article.replaceChildren()")
            page.evaluate(
                "([text, name]) => kit.show().append('```' + name + '\\n' + text + '\\n```\\n')",
                [text, names.split()[0]],
            )
            expect(page.locator("code span").first).to_be_visible()
            colours = page.evaluate(
                """() => [...document.querySelectorAll("code span")].map((span) => [span.className,
                    getComputedStyle(span).color, getComputedStyle(span.closest(".code")).backgroundColor])"""
            )
            for name, front, back in colours:
                assert contrast(front, back) >= 4.5, (scheme, name, front, back)


def contrast(*colours: str) -> float:
    lights = []
    for colour in colours:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
