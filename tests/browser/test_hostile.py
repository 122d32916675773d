"""static/markdown.js under attack: no text that a model can write takes much longer to show than an ordinary one."""

from playwright.sync_api import Page

from tests.browser.conftest import OpenPage
from tests.browser.rendering import open_sheet
from tests.browser.test_rendering import DOCUMENTS
from tests.live import Relay

SIZE = 100_000
TIMES_ORDINARY = 12  # what is linear stays below 5 here; the square of anything is beyond 30

TEXTS = {
    "links that never close": "[a](" * (SIZE // 4),
    "brackets": "[" * SIZE,
    "spaces where an address ends": ("[a](" + " " * 2000) * (SIZE // 2004),
    "titles that never end": ("[a](x " + '" ' * 1000) * (SIZE // 2006),
    "addresses that end in parentheses": ("http://a" + ")" * 2000 + " ") * (SIZE // 2009),
    "addresses that end in points": ("http://" + "." * 2000 + "a ") * (SIZE // 2009),
    "an address": "http://" + "a" * SIZE,
    "emphasis within emphasis": "*a **b " * (SIZE // 7),
    "stars": "*" * SIZE,
    "code": "` " * (SIZE // 2),
    "quotes within quotes": "> " * (SIZE // 2),
    "lists within lists": "\n".join("  " * (line % 13) + "- x" for line in range(SIZE // 16)),
    "lists on a line": "- " * (SIZE // 2),
    "fences": "```\n" * (SIZE // 4),
    "an open fence": "```\n" + "`" * SIZE,
    "white space": (" " * 199 + "\n") * (SIZE // 200),
    "a row": "|a|\n|-|\n" + "|" * SIZE,
    "rows": "|a|b|\n|-|-|\n" + "|1|2|\n" * (SIZE // 6),
    "what may become a table": ("|" + "a" * 240 + "\n" + "- " * 120 + "x\n") * (SIZE // 490),
    "a line of a megabyte": "x" * 1_000_000,
}

# Of each text: how long it takes to read and to lay out, in small pieces and in large ones.
TIME = """(text) => {
    let longest = 0;
    for (const piece of [4, 1024]) {
        const { root, markdown } = kit.open();
        const began = performance.now();
        for (let at = 0; at < text.length; at += piece) markdown.write(text.slice(at, at + piece));
        markdown.end();
        root.getBoundingClientRect();
        longest = Math.max(longest, performance.now() - began);
    }
    kit.article.replaceChildren();
    return longest;
}"""


def time_of(page: Page, text: str) -> float:
    """Return milliseconds per character."""
    return float(page.evaluate(TIME, text)) / len(text)


def test_no_text_takes_much_longer_than_another(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    ordinary = "\n\n".join(DOCUMENTS)
    ordinary *= SIZE // len(ordinary)
    time_of(page, ordinary)  # compiles it
    usual = time_of(page, ordinary)
    times = {name: time_of(page, text) / usual for name, text in TEXTS.items()}
    print({name: round(time, 1) for name, time in times.items()})
    assert {name: time for name, time in times.items() if time > TIMES_ORDINARY} == {}


def test_what_is_slow_to_lay_out_is_bounded(open_page: OpenPage, server: Relay) -> None:
    """Elements in a paragraph, cells in a row, rows in a table; what is beyond is still there to be read."""
    page = open_sheet(open_page, server)
    marks = ["`a` ", "*a* ", "[a](https://b.c) ", "https://b.c "]
    found = page.evaluate(
        """(marks) => marks.map((mark) => {
            const root = kit.render([mark.repeat(1100)]);
            return [root.querySelectorAll("p > *").length, root.textContent.endsWith(mark.repeat(100))];
        })""",
        marks,
    )
    assert found == [[1000, True]] * len(marks)
    cells, last = page.evaluate(
        """() => {
            const root = kit.render(["|a|\\n|-|\\n" + "|b".repeat(1000) + "|"]), row = root.querySelector("tbody tr");
            return [row.cells.length, row.lastChild.textContent];
        }"""
    )
    assert cells == 251
    assert last == "b" + "|b" * 749 + "|"
    rows, words, boxes = page.evaluate(
        """() => {
            const root = kit.render(["|a|\\n|-|\\n" + "|b|\\n".repeat(1200)]);
            return [[...root.querySelectorAll("tbody")].map((body) => body.rows.length),
                    root.textContent, root.querySelectorAll("div.table").length];
        }"""
    )
    assert (rows, words, boxes) == ([500, 500, 200], "a" + "b" * 1200, 1)
