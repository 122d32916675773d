"""A blank page under the chat page's own policy, with the modules that show answers, for tests of each of them."""

import requests
from playwright.sync_api import Page

from tests.browser.conftest import OpenPage
from tests.live import Relay

SHEET = """<!doctype html>
<meta charset="utf-8">
<link rel="stylesheet" href="/static/page.css">
<link rel="stylesheet" href="/static/answer.css">
<div class="turn live"><article class="answer"></article></div>
"""

# `kit` is there for the tests' scripts. `tree` writes nodes down: <tag.class@language →address>…</>, ⏎ for a newline.
KIT = """async () => {
    const [{ Markdown }, { AnswerView, copyText }, { EndFollower }] = await Promise.all(
        ["markdown", "answer", "scroll"].map((name) => import(`/static/${name}.js`)));
    const texts = { thinking: "Thinking", steps: "Steps", code: "Code", table: "Table", copy: "Copy",
                    copied: "Copied", uncopied: "Copying failed" };
    const article = document.querySelector("article");
    const tree = (node) => {
        if (node.nodeType === Node.TEXT_NODE) return node.data.replaceAll("\\n", "⏎");
        if (node.matches("button")) return "";
        const { localName, className, dataset: { language }, href, start } = node;
        const marks = [className && `.${className}`, language && `@${language}`,
                       href && ` →${href}`, localName === "ol" && start !== 1 && ` #${start}`];
        return `<${localName}${marks.filter(Boolean).join("")}>${[...node.childNodes].map(tree).join("")}</>`;
    };
    const inside = (node) => [...node.childNodes].map(tree).join("");
    const open = () => {
        article.replaceChildren(document.createElement("div"));
        const root = article.firstChild;
        return { root, markdown: new Markdown(root, { texts, onCode() {} }) };
    };
    const render = (pieces) => {
        const { root, markdown } = open();
        for (const piece of pieces) markdown.write(piece);
        markdown.end();
        return root;
    };
    const show = (painted) => {
        const view = new AnswerView(texts, painted);
        article.replaceChildren(view.element);
        return view;
    };
    const frame = () => new Promise(requestAnimationFrame);
    window.kit = { EndFollower, copyText, texts, article, tree, inside, open, render, show, frame };
}"""


def open_sheet(open_page: OpenPage, server: Relay, **options: object) -> Page:
    """Open the page. Its policy refuses inline scripts and styles, other origins, and every way from text to HTML."""
    policy = requests.get(server.url, headers={"Accept": "text/html"}, timeout=10).headers["Content-Security-Policy"]
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    headers = {"Content-Security-Policy": policy, "Content-Type": "text/html"}
    page = open_page("about:blank", **options)
    page.route("**/sheet", lambda route: route.fulfill(headers=headers, body=SHEET))
    page.goto(f"{server.url}/sheet")
    page.evaluate(KIT)
    return page
