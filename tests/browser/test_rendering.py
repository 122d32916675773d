"""static/markdown.js and inline.js: what a model writes becomes elements as it comes, none of them dangerous."""

import random
import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.payloads import PAYLOADS
from tests.browser.rendering import open_sheet
from tests.live import Relay

# What models write, well formed: it may be cut anywhere, and no marker of it ever shows.
DOCUMENTS = [
    """\
## 快速开始

先安装依赖，**注意：**版本要对。然后运行 `make run`：

1. 克隆仓库
   - 用 *SSH* 或者 HTTPS
   - 见[文档](https://example.com/a_b(1)?x=1&y=2 "标题")。
2. 启动

   ```bash
   make run  # 注释 ``` 不是结尾
   ```

3. 完成 ✅ 👩‍👩‍👧‍👦

| 变量 | 默认值 | 说明 |
|:-----|:------:|-----:|
| `PORT` | 8000 | 端口 `a\\|b` |
| HOST | | **必填**<br>两行 |

> 引用里也有 **粗体**
> 和第二行

---

详见 https://example.com/x。谢谢！
""",
    """\
Here's a *short* answer: `snake_case_name` is **not** italic, nor is 2*3*4 or a_b_c.

### Steps

* **First**: do this
* ***Second***: do that
    * nested, with ~~old~~ new
- [x] done
- [ ] open

```python
def f(*args, **kwargs):
\treturn "```" if args else None

```

The formula \\(a_1 * b_2 * c\\) stays, and so does this one:

\\[
x^2 * y * z
\\]

Costs are $5 and $PATH is set; see [1] and list[0]. Mail [us](mailto:me@example.com).
""",
    "~~~\n~~~\n````md\n```js\n1\n```\n````\n> ```\n> in a quote\n> ```\n\n- > - deep\n\n  back\n",
    "line one\nline two  \nline three\\\nline four\n\n\n5) five\n6) six\n\n***\n\n__init__ and _this_ & <b>html</b>",
]

ELEMENTS = {
    # Words that look like markers.
    "snake_case_name a__b__c _d_e f_": "<p>snake_case_name a__b__c <em>d_e f</></>",
    "𝐀_b_ c": "<p>𝐀_b_ c</>",
    "2*3*4 and a*(b+c)": "<p>2*3*4 and a*(b+c)</>",
    "3 * 4 * 5, ~50%, ~~gone~~": "<p>3 * 4 * 5, ~50%, <del>gone</></>",
    "see [1], list[0], [ ] and [^2]": "<p>see [1], list[0], [ ] and [^2]</>",
    "$PATH and $HOME, US$ 5": "<p>$PATH and $HOME, US$ 5</>",
    "\\*no\\* \\_no\\_ \\# C:\\dir \\{1\\}": "<p>*no* _no_ # C:\\dir \\{1\\}</>",
    "#hash #tag": "<p>#hash #tag</>",
    "It was in\n1990. Then": "<p>It was in⏎1990. Then</>",
    "&amp; <b>x</b><!-- y -->": "<p>&amp; <b>x</b><!-- y --></>",
    # Emphasis and code.
    "*a* _b_ **c** __d__ ***e***": "<p><em>a</> <em>b</> <strong>c</> <strong>d</> <em><strong>e</></></>",
    "**a *b* c**": "<p><strong>a <em>b</> c</></>",
    "**a *b** c": "<p><strong>a <em.unclosed>*b</></> c</>",
    "`a``b` ``c`d`` `*e*`": "<p><code>a``b</> <code>c`d</> <code>*e*</></>",
    # What is never closed is as it was written.
    "f(**kwargs)\n\nnext": "<p>f(<strong.unclosed>**kwargs)</></><p>next</>",
    "*a and **b": "<p><em.unclosed>*a and <strong.unclosed>**b</></></>",
    "a `b and **c**": "<p>a <code.unclosed>`b and **c**</></>",
    # Formulas and line breaks.
    "\\(^*x^*\\) $$^*a^*$$ \\[^*p^*\\] *d*": "<p>\\(^*x^*\\) $$^*a^*$$ \\[^*p^*\\] <em>d</></>",
    "$$\nx*y*z\n$$\nnext": "<div.code@latex><pre><code>x*y*z</></></><p>next</>",
    "a<br>b<br/>c<br />d<bro>": "<p>a⏎b⏎c⏎d<bro></>",
    # Links.
    "[a](http://b.c/d_(e)_f)": "<p><a →http://b.c/d_(e)_f>a</></>",
    '[**a**](<https://b.c> "d")': "<p><a →https://b.c/><strong>a</></></>",
    "[](http://b.c/)": "<p><a →http://b.c/>http://b.c/</></>",
    "[[1]](https://b.c/)": "<p><a →https://b.c/>[1]</></>",
    "[a https://b.c/ ![d](https://e.f/)](https://g.h/)": "<p><a →https://g.h/>a https://b.c/ ![d](https://e.f/)</></>",
    "[a](/b) [a](b) [a](javascript:b)": "<p>[a](/b) [a](b) [a](javascript:b)</>",
    "![a](https://b.c/d.png)": "<p><a.image →https://b.c/d.png>a</></>",
    "![a](d.png)": "<p>![a](d.png)</>",
    "http://a.b/c_d?e=f. (https://g.h/)": "<p><a →http://a.b/c_d?e=f>http://a.b/c_d?e=f</>. (<a →https://g.h/>https://g.h/</>)</>",
    "见https://a.b/c，然后": "<p>见<a →https://a.b/c>https://a.b/c</>，然后</>",
    "**https://a.b/**": "<p><strong><a →https://a.b/>https://a.b/</></></>",
    "xhttp://a.b https:// http://.": "<p>xhttp://a.b https:// http://.</>",
    # Headings make an outline, whatever the levels.
    "### a\n# b\n### c\n##### d": "<h2.level-3>a</><h2.level-1>b</><h3.level-3>c</><h4.level-5>d</>",
    # Lists.
    "1. a\n  - b\n    - c\n  - d\n2. e": "<ol><li>a<ul><li>b<ul><li>c</></></><li>d</></></><li>e</></>",
    "- a\n\n  b\n\n- c\nd\n\ne": "<ul><li>a<p>b</></><li>c⏎d</></><p>e</>",
    "3. a\n\n```\nb\n```\n\n4. c": "<ol #3><li>a</></><div.code><pre><code>b</></></><ol #4><li>c</></>",
    "1. a\n   ```js\n   b\n     c\nd\n   ```\n2. e": (
        "<ol><li>a<div.code@js><pre><code>b⏎  c⏎d</></></></><li>e</></>"
    ),
    "- [x] a\n- [ ] b\n- [c] d": "<ul><li.task>☑ a</><li.task>☐ b</><li>[c] d</></>",
    "- a\n1. b": "<ul><li>a</></><ol><li>b</></>",
    "* **a**\n* *b*": "<ul><li><strong>a</></><li><em>b</></></>",
    # Rules, quotes, code.
    "a\n***\n- - -\n": "<p>a</><hr></><hr></>",
    "> a\nb\n> > c\n\nd": "<blockquote><p>a⏎b</><blockquote><p>c</></></><p>d</>",
    "> ```\n> a\nb": "<blockquote><div.code><pre><code>a</></></></><p>b</>",
    "```c++ x\n\na```\n\n`````\nb": "<div.code@c++><pre><code>⏎a```⏎</></></><p>b</>",
    "~~~\n```\n~~~\n``` `a` ```": "<div.code><pre><code>```</></></><p><code> `a` </></>",
    "```\r\na\r\n```\r\nb\r\n": "<div.code><pre><code>a</></></><p>b</>",
    "```\na\n``": "<div.code><pre><code>a⏎``</></></>",
    # Tables are tables once the line under their header proves it.
    "| a | b |\n|---|:-:|\n| 1 |\n|| `x\\|y` |\nc": (
        "<div.table><table><thead><tr><th>a </><th.center>b </></></>"
        "<tbody><tr><td>1 </></><tr><td></><td.center><code>x|y</> </></></></></><p>c</>"
    ),
    "a:\n| b |\n| - |\n| **c |": (
        "<p>a:</><div.table><table><thead><tr><th>b </></></>"
        "<tbody><tr><td><strong.unclosed>**c </></></></></></>"
    ),
    "|x| is a norm\n|y| too\n| z |": "<p>|x| is a norm⏎|y| too⏎| z |</>",
}  # fmt: skip

# commonmark-spec#650 and its like: emphasis beside full-width punctuation, in three languages without spaces.
BOLD = [
    "**テスト。**テスト", "**テスト**。テスト", "**テスト、**テスト", "**テスト**、テスト", "**テスト？**テスト",
    "**テスト**？テスト", "。**。テスト**テスト", "、**、テスト、**テスト", "！**テスト！**テスト",
    "これは**「重要」**です", "これは**私のやりたかったこと。**だからするの", "**重点：**后面",
    "前面**“引号”**后面", "前面**（注）**后面", "前面**《书名》**后面", "**1. 标题：**内容",
    "他说：**“你好！”**，然后走了", "**价格（含税）：**100元", "使用**`code`**时", "这是**[链接](https://a.b/)**吗",
    "**注意!**后面", "前面**(a)**后面", "**마크다운(Markdown)**을 쓰세요", "**강조**는", "“**内**”外",
    "**完成…**还有", "全角**ＡＢＣ。**半角",
]  # fmt: skip

FUZZ = [
    *(
        "*",
        "**",
        "***",
        "_",
        "__",
        "~~",
        "`",
        "``",
        "```",
        "~~~",
        "-",
        "+",
        ">",
        "|",
        "||",
        "[",
        "]",
        "![",
        "](",
        ")",
        "<",
    ),
    *("<br>", "\\", "\\(", "\\)", "\\[", "$$", "$", "#", "##", "---", ":", "!", "?", "h", "https:"),
    *("\n", "\n", "\n\n", "\r\n", " ", "  ", "    ", "\t", "- ", "1. ", "22) ", "> ", "# ", "```js\n", "[x] "),
    *("| a | b |\n|---|---|\n", "http://a.b/c", "[t](http://u.v)", "重点", "：", "“", "”", "👋", "👩‍👩‍👧", "é", "w"),
]

# Feeds pieces and watches: nodes come at the end, texts grow at their end. All else is the marker that is put before
# what was not closed.
WATCH = """(texts) => texts.map((pieces) => {
    const { root, markdown } = kit.open();
    const wrong = [];
    const observer = new MutationObserver(() => {});
    observer.observe(root, { childList: true, characterData: true, characterDataOldValue: true, subtree: true });
    const check = () => {
        const texts = new Map();
        for (const { type, target, oldValue, removedNodes, nextSibling, previousSibling } of observer.takeRecords()) {
            if (removedNodes.length) wrong.push("removed");
            const isMark = target.className === "unclosed" && previousSibling === null;
            if (type === "childList" && nextSibling !== null && !isMark) wrong.push("inserted");
            if (type === "characterData") texts.set(target, [...(texts.get(target) ?? []), oldValue]);
        }
        for (const [node, values] of texts)
            values.concat(node.data).reduce((a, b) => (b.startsWith(a) || wrong.push(`${a} became ${b}`), b));
        const surrogates = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        while (surrogates.nextNode()) if (!surrogates.currentNode.data.isWellFormed()) wrong.push("half a character");
    };
    for (const piece of pieces) {
        markdown.write(piece);
        check();
    }
    markdown.end();
    check();
    return [kit.inside(root), wrong];
})"""


def pieces_of(text: str, dice: random.Random) -> list[str]:
    pieces = []
    while text:
        length = dice.choice([1, 2, 3, 5, 20])
        pieces.append(text[:length])
        text = text[length:]
    return pieces


def test_markdown_becomes_elements(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    sources = list(ELEMENTS)
    shown = page.evaluate("(sources) => sources.map((source) => kit.inside(kit.render([source])))", sources)
    assert dict(zip(sources, shown, strict=True)) == ELEMENTS


def test_pieces_make_no_difference_and_nothing_is_taken_back(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    dice = random.Random(7)
    fuzz = ["".join(dice.choices(FUZZ, k=dice.randint(1, 40))) for _ in range(150)]
    for text in [*DOCUMENTS, *ELEMENTS, *fuzz]:
        cuts = [[text], list(text), pieces_of(text, dice)]
        (whole, wrong), *others = page.evaluate(WATCH, cuts)
        assert wrong == [], text
        assert others == [[whole, []]] * 2, text


def test_no_character_is_lost(open_page: OpenPage, server: Relay) -> None:
    """Whatever is taken for a marker, each word between is shown, in its place."""
    page = open_sheet(open_page, server)
    dice = random.Random(11)
    marks = [mark for mark in FUZZ if not re.search(r"[a-z]|重点|👋|```|~~~|\$\$|\\\[", mark)]
    words = [f"W{letter}" for letter in "abcdefghijklmnopqrst"]
    texts = ["".join("".join(dice.choices(marks, k=dice.randint(0, 3))) + word for word in words) for _ in range(300)]
    shown = page.evaluate("(texts) => texts.map((text) => kit.render([text]).textContent)", texts)
    for text, words_of in zip(texts, shown, strict=True):
        assert re.findall(r"W[a-t]", words_of) == words, text


def test_no_marker_flashes(open_page: OpenPage, server: Relay) -> None:
    """At each character what is shown is a beginning of what will be."""
    page = open_sheet(open_page, server)
    flashes = page.evaluate(
        """(texts) => texts.flatMap((text) => {
            const end = kit.render([text]).textContent;
            const { root, markdown } = kit.open();
            return [...text].map((character) => (markdown.write(character), root.textContent))
                .filter((shown) => !end.startsWith(shown));
        })""",
        DOCUMENTS,
    )
    assert flashes == []


def test_words_do_not_wait(open_page: OpenPage, server: Relay) -> None:
    """Only what may be a marker is held back; code and emphasis show from their first character on."""
    page = open_sheet(open_page, server)
    shown = page.evaluate(
        """(pieces) => {
            const { root, markdown } = kit.open();
            return pieces.map((piece) => (markdown.write(piece), root.textContent));
        }""",
        ["你", "好,", " I", " ", "am", " **", "b", "old", "*", "*", "\n\n```", "py\n", "x", "\n", "``", "`", "\n", "Q"],
    )
    bold = "你好, I am bold"
    assert shown == [
        *("你", "你好,", "你好, I", "你好, I ", "你好, I am", "你好, I am ", "你好, I am b", bold, bold, bold),
        *(bold, bold, f"{bold}x", f"{bold}x", f"{bold}x", f"{bold}x", f"{bold}x", f"{bold}xQ"),
    ]


def test_what_is_held_back_has_an_end(open_page: OpenPage, server: Relay) -> None:
    """A marker that never ends, a link that never closes: they hide some 2,000 characters at most."""
    page = open_sheet(open_page, server)
    marks = [*"-*_`~#>|[\\$< \t1h", "[a](", "![a](x", "http://", "http://a", "```a", "> ```\n> ", "- ", "|-"]
    shown = page.evaluate(
        """(marks) => marks.map((mark) => {
            const { root, markdown } = kit.open();
            for (let length = 0; length < 4000; length += mark.length) markdown.write(mark);
            for (let length = 0; length < 2500; length += 1) markdown.write("W");
            return root.textContent.includes("W");
        })""",
        marks,
    )
    assert [mark for mark, seen in zip(marks, shown, strict=True) if not seen] == []
    runs = [*"-*_`~#", *("```\n" + mark for mark in " `"), "> ```\n>  "]
    lengths = page.evaluate(
        """(runs) => runs.map((run) => {
            const { root, markdown } = kit.open();
            markdown.write(run);
            for (let length = 0; length < 4000; length += 1) markdown.write(run.at(-1));
            return root.textContent.length;
        })""",
        runs,
    )
    assert [run for run, length in zip(runs, lengths, strict=True) if length < 3500] == []


def test_nesting_has_an_end(open_page: OpenPage, server: Relay) -> None:
    """Browsers lay out by recursion: what is nested too deeply is text."""
    page = open_sheet(open_page, server)
    texts = [
        "> " * 500 + "x",
        "- " * 500 + "x",
        "\n".join("  " * depth + "- x" for depth in range(200)),
        "*x **x " * 500,
    ]
    depths = page.evaluate(
        """(texts) => texts.map((text) => {
            let node = kit.render([text]).querySelector(":not(:has(*))"), depth = 0;
            for (; node; node = node.parentNode) depth++;
            return depth;
        })""",
        texts,
    )
    assert max(depths) < 40


def test_bold_works_beside_full_width_punctuation(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    shown = page.evaluate(
        """(texts) => texts.map((text) => {
            const root = kit.render([...text]);
            return [[...root.querySelectorAll("strong:not(.unclosed)")].map((node) => node.textContent),
                    root.textContent.includes("*")];
        })""",
        BOLD,
    )
    for text, seen in zip(BOLD, shown, strict=True):
        bold = re.search(r"\*\*(.+?)\*\*", text)
        assert bold
        assert seen == [[re.sub(r"`|\[|\]\(.*\)", "", bold[1])], False], text


def test_a_long_answer_is_few_nodes(open_page: OpenPage, server: Relay) -> None:
    """40 KB in 10,000 tokens: text nodes hold up to 4 KB, never half an emoji."""
    page = open_sheet(open_page, server)
    paragraph = "这是一段**普通**的文字，with some `code` in it." + " Words and words and 👋 and 词语。" * 14
    text = "\n\n".join([paragraph] * 80)
    assert len(text.encode()) > 40_000
    count, longest, halves = page.evaluate(
        """(text) => {
            const root = kit.render([...text.match(/.{1,4}/gsu), "\\n\\n", "👋x".repeat(5000)]);
            const nodes = document.createTreeWalker(root, NodeFilter.SHOW_ALL);
            let count = 0, longest = 0, halves = 0;
            while (nodes.nextNode()) {
                count += 1;
                longest = Math.max(longest, nodes.currentNode.data?.length ?? 0);
                halves += nodes.currentNode.data?.isWellFormed() === false;
            }
            return [count, longest, halves];
        }""",
        text,
    )
    assert count < 2000
    assert longest <= 4097
    assert halves == 0


# -- safety -----------------------------------------------------------------------------------------------------------

# All that may ever be made of a model's words: these elements, with these attributes.
CHECK = """() => {
    window.unsafe = (root) => {
        const tags = new Set(("div p em strong del code a ul ol li blockquote pre button table thead tbody tr th td " +
            "hr h2 h3 h4 h5 h6 details summary span").split(" "));
        const names = new Set(("class href rel target tabindex role aria-label title type start data-language " +
            "data-status").split(" "));
        const wrong = [];
        for (const node of root.querySelectorAll("*")) {
            if (!tags.has(node.localName)) wrong.push(node.localName);
            for (const { name, value } of node.attributes) {
                if (!names.has(name)) wrong.push(`${node.localName} ${name}`);
                if (name === "class" && !/^[a-z0-9-]+$/.test(value)) wrong.push(`class ${value}`);
            }
            if (node.localName !== "a") continue;
            if (!["http:", "https:", "mailto:"].includes(node.protocol)) wrong.push(node.href);
            if (node.rel !== "noopener noreferrer nofollow" || node.target !== "_blank") wrong.push(`rel ${node.href}`);
        }
        return wrong;
    };
    window.refused = [];
    document.addEventListener("securitypolicyviolation", ({ violatedDirective }) => refused.push(violatedDirective));
}"""


def requests_of(page: Page) -> list[str]:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    return urls


def test_a_models_words_are_never_markup(open_page: OpenPage, server: Relay) -> None:
    """Each payload, cut at every character: no element, attribute or address but those above, no request, no dialog."""
    assert len(PAYLOADS) >= 60
    page = open_sheet(open_page, server)
    page.evaluate(CHECK)
    asked = requests_of(page)
    wrong = page.evaluate(
        """(payloads) => payloads.flatMap((payload) => {
            const characters = [...payload];
            return characters.flatMap((_, at) => unsafe(
                kit.render([characters.slice(0, at).join(""), characters.slice(at).join("")])));
        })""",
        PAYLOADS,
    )
    assert wrong == []
    assert page.evaluate("refused") == []
    assert asked == []


def test_whatever_else_an_upstream_sends_is_never_markup(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    page.evaluate(CHECK)
    asked = requests_of(page)
    wrong = page.evaluate(
        """async (payloads) => {
            const wrong = [];
            for (const payload of payloads) {
                const view = kit.show();
                view.append("old");
                view.replace(payload);
                view.reasoning(payload);
                view.step({ id: payload, kind: payload, name: payload, status: payload });
                view.toolCall({ index: 0, id: payload, name: payload, arguments: payload });
                view.file({ id: payload, kind: payload, url: payload });
                view.file({ id: payload, kind: payload, url: `https://a.b/${payload}` });
                await view.finish();
                wrong.push(...unsafe(view.element));
            }
            return wrong;
        }""",
        PAYLOADS,
    )
    assert wrong == []
    assert page.evaluate("refused") == []
    assert [url for url in asked if not url.startswith(f"{server.url}/static/")] == []  # colours for code


def test_markup_stays_text_to_the_character(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    for payload in (
        payload for payload in PAYLOADS if payload.startswith("<") and not re.search(r"[\n\r]|<br|`|\\", payload)
    ):
        assert page.evaluate("(payload) => kit.render([payload]).textContent", payload) == payload


def test_links_tell_nobody_where_they_come_from(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    page.evaluate("() => { kit.render(['[a](https://b.c) https://d.e ![f](https://g.h)']); }")
    links = page.get_by_role("link")
    expect(links).to_have_count(3)
    for link in links.all():
        expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
        expect(link).to_have_attribute("target", "_blank")


# -- looks ------------------------------------------------------------------------------------------------------------


def test_wide_things_scroll_in_a_box_of_their_own(open_page: OpenPage, server: Relay) -> None:
    """On a narrow screen the page never gets wider than it; the box can be scrolled by keyboard."""
    page = open_sheet(open_page, server, viewport={"width": 320, "height": 600})
    wide = "|" + " word |" * 30
    text = f"{wide}\n|{'-|' * 30}\n{wide}\n\n```\n{'x' * 500}\n```\n\n{'y' * 500} `{'z' * 500}`\n\n> - {'u' * 500}"
    page.evaluate("(text) => { kit.render([text]); }", text)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for box in (page.get_by_role("group", name="Table"), page.get_by_role("group", name="Code")):
        expect(box).to_have_attribute("tabindex", "0")  # Chromium would not need it
        box.focus()
        box.press("ArrowRight")
        page.wait_for_function("() => document.activeElement.scrollLeft > 0")


def test_newlines_are_seen_and_what_was_not_closed_looks_plain(open_page: OpenPage, server: Relay) -> None:
    page = open_sheet(open_page, server)
    page.evaluate(
        """() => {
            const body = document.createElement("div");
            body.className = "text";
            body.append(kit.render(["one\\ntwo **three"]));
            kit.article.replaceChildren(body);
        }"""
    )
    assert page.locator("p").inner_text() == "one\ntwo **three"
    weights = page.evaluate(
        "[...document.querySelectorAll('p, strong')].map((node) => getComputedStyle(node).fontWeight)"
    )
    assert weights[0] == weights[1]
