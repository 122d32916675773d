"""The one-tag embed, on pages of another site that are strict, hostile, or not allowed to show the chat."""

import contextlib
import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import Model, relay
from tests.live import ROOT, Relay

EMBED_MAX_BYTES = 2500
HOST, OTHER = "host.test", "elsewhere.test"  # sites of their own: in a frame there the browser keeps nothing for us
SAME_SITE = "www.relay.test"
STRICT = (
    "default-src 'none'; style-src 'self'; script-src {relay}; frame-src {relay}; require-trusted-types-for 'script'"
)
STORAGE_IS_BLOCKED = """
  for (const name of ["sessionStorage", "localStorage"])
    Object.defineProperty(window, name, { get() { throw new DOMException("blocked", "SecurityError"); } });
  Object.defineProperty(Document.prototype, "cookie", { get: () => { throw new DOMException("", "SecurityError"); } });
"""

Site = Callable[..., str]


@pytest.fixture(scope="module")
def _pages() -> Iterator[tuple[dict[str, tuple[str, str]], int]]:
    """Pages by path, with their policies, and the port that serves them."""
    pages: dict[str, tuple[str, str]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            html, policy = pages.get(self.path, ("", ""))
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            if policy:
                self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield pages, http.server_address[1]
        http.shutdown()


@pytest.fixture
def site(_pages: tuple[dict[str, tuple[str, str]], int]) -> Site:
    """Return a function that puts a page on a site and returns its address."""
    pages, port = _pages

    def put(body: str, *, policy: str = "", host: str = HOST) -> str:
        path = f"/{len(pages)}"
        pages[path] = (f"<!doctype html><html lang=en><title>A shop</title><body>{body}", policy)
        return f"http://{host}:{port}{path}"

    return put


@pytest.fixture(scope="module")
def embedder(model: Model, _pages: tuple[dict[str, tuple[str, str]], int]) -> Iterator[Relay]:
    """A relay that the host's pages may show."""
    origins = f"http://{HOST}:{_pages[1]}, http://*.relay.test:{_pages[1]}"
    with relay(**model.settings(), EMBED_ORIGINS=origins, RETRY_MS="100") as server:
        yield server


def address(server: Relay) -> str:
    return f"http://relay.test:{server.port}"


def tag(server: Relay, attributes: str = "") -> str:
    return f'<script async src="{address(server)}/embed.js" {attributes}></script>'


def launcher(page: Page) -> None:
    page.locator("sluice-chat button").click()


def chat(page: Page, number: int = 0) -> FrameLocator:
    return page.locator("sluice-chat").nth(number).frame_locator("iframe")


def ask_in(frame: FrameLocator, model: Model, prompt: str, text: str) -> None:
    frame.get_by_role("textbox").fill(prompt)
    frame.get_by_role("textbox").press("Enter")
    said(frame, model, prompt, text)


def said(frame: FrameLocator, model: Model, prompt: str, text: str) -> None:
    answering = model.next()
    assert answering.messages[-1]["content"] == prompt
    answering.token(text)
    answering.end()
    expect(frame.locator(".answer .text").last).to_have_text(text)
    expect(frame.get_by_role("status")).to_contain_text("Answer complete.")


def test_it_is_small() -> None:
    assert len(gzip.compress((ROOT / "static" / "embed.js").read_bytes(), 9)) <= EMBED_MAX_BYTES


def test_one_tag_is_enough_on_a_strict_page_with_storage_and_cookies_blocked(
    open_page: OpenPage, site: Site, embedder: Relay, model: Model
) -> None:
    url = site(tag(embedder), policy=STRICT.format(relay=address(embedder)))
    page = open_page("about:blank")
    page.context.add_init_script(STORAGE_IS_BLOCKED)
    page.goto(url)
    expect(page.locator("sluice-chat iframe")).to_be_hidden()
    launcher(page)
    ask_in(chat(page), model, "hello", "hi 你好")
    ask_in(chat(page), model, "again", "still here")
    assert len(model.calls[-1].messages) == 3  # it went on with the conversation


def test_the_hosts_css_does_not_reach_it_and_it_moves_nothing(open_page: OpenPage, site: Site, embedder: Relay) -> None:
    rules = "* { all: unset !important; } body * { display: none !important; } sluice-chat { left: 0 !important; }"
    hostile = f"<style>{rules}</style>"
    shifts = """
      <script>
        window.shifts = 0;
        new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.shifts += entry.value; })
          .observe({ type: "layout-shift", buffered: true });
        window.before = new Set(Object.getOwnPropertyNames(window));
      </script>"""
    page = open_page(site(f"{hostile}{shifts}<p>Text</p>{tag(embedder)}"))
    button = page.locator("sluice-chat button")
    expect(button).to_be_visible()
    box, view = button.bounding_box(), page.viewport_size
    assert box is not None
    assert view is not None
    assert (box["width"], box["height"]) == (56, 56)
    assert box["x"] + box["width"] == view["width"] - 20
    launcher(page)
    expect(page.locator("sluice-chat iframe")).to_be_visible()
    assert page.evaluate("window.shifts") == 0
    added = page.evaluate("Object.getOwnPropertyNames(window).filter((name) => !window.before.has(name))")
    assert set(added) - {"before", "0"} == {"Sluice"}  # "0": the frame, as the browser lists it


def test_its_attributes_say_how_it_looks(open_page: OpenPage, site: Site, embedder: Relay) -> None:
    words = 'data-title="帮助" data-lang="zh" data-theme="dark" data-accent="#e91e63" data-greeting="有什么可以帮您？"'
    page = open_page(site(tag(embedder, f'{words} data-position="left" data-open="true"')))
    button, frame = page.locator("sluice-chat button"), chat(page)
    expect(button).to_have_attribute("aria-label", "关闭对话")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(button).to_have_css("background-color", "rgb(233, 30, 99)")
    box = button.bounding_box()
    assert box is not None
    assert box["x"] == 20
    expect(frame.get_by_role("heading")).to_have_text("帮助")
    expect(frame.locator(".greeting")).to_have_text("有什么可以帮您？")
    expect(frame.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate("document.activeElement === document.body")  # it opened by itself and took no focus


def test_the_hosts_code_opens_asks_resets_and_closes(
    open_page: OpenPage, site: Site, embedder: Relay, model: Model
) -> None:
    page = open_page(site(tag(embedder)))
    page.wait_for_function("window.Sluice")
    page.evaluate("Sluice.send('what does it cost?')")  # before the frame is there
    frame = chat(page)
    said(frame, model, "what does it cost?", "nothing")
    page.evaluate("Sluice.close()")
    expect(page.locator("sluice-chat iframe")).to_be_hidden()
    page.evaluate("Sluice.reset()")
    expect(frame.locator(".answer")).to_have_count(0)
    page.evaluate("Sluice.open()")
    expect(page.locator("sluice-chat iframe")).to_be_visible()
    expect(frame.get_by_role("textbox")).to_be_focused()
    frame.get_by_role("textbox").press("Escape")
    expect(page.locator("sluice-chat iframe")).to_be_hidden()
    assert page.evaluate("document.querySelector('sluice-chat').shadowRoot.activeElement?.tagName") == "BUTTON"


def test_other_origins_are_not_heard(open_page: OpenPage, site: Site, embedder: Relay, model: Model) -> None:
    """Neither in the host's page, where anybody's frame can post, nor in ours, which it finds if it is a plain one."""
    attacker = site(
        """<script>
          addEventListener("message", () => {
            parent.postMessage({ sluice: "close" }, "*");
            parent.frames[0].postMessage({ sluice: "send", text: "buy a thousand" }, "*");
            parent.postMessage("done", "*");
          });
        </script>""",
        host=OTHER,
    )
    plain = f'<iframe id="plain" src="{address(embedder)}/?embedded=1"></iframe>'
    page = open_page(site(f'{plain}<iframe id="attacker" src="{attacker}"></iframe>{tag(embedder)}'))
    launcher(page)
    frame = page.frame_locator("#plain")
    expect(frame.get_by_role("textbox")).to_be_visible()
    post = "(message) => document.getElementById('plain').contentWindow.postMessage(message, '*')"
    page.evaluate(post, {"sluice": "send", "text": "first"})
    said(frame, model, "first", "it listens")
    page.evaluate(
        """new Promise((resolve) => {
          addEventListener("message", ({ data }) => data === "done" && resolve());
          document.getElementById("attacker").contentWindow.postMessage("begin", "*");
        })"""
    )
    expect(page.locator("sluice-chat iframe")).to_be_visible()
    page.evaluate(post, {"sluice": "send", "text": "mine"})  # comes after theirs
    said(frame, model, "mine", "yours")
    expect(frame.locator(".question")).to_have_count(2)


def test_a_page_that_may_not_show_it_learns_which_setting_to_change(
    browser: Browser, site: Site, server: Relay
) -> None:
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        with page.expect_console_message(lambda message: "EMBED_ORIGINS" in message.text) as said:
            page.goto(site(tag(server, 'data-open="true"')))
        assert f"EMBED_ORIGINS={page.evaluate('location.origin')}" in said.value.text


@pytest.mark.timeout(180)
def test_two_chats_on_a_page_have_their_own_conversations_and_removal_leaves_nothing(
    open_page: OpenPage, site: Site, embedder: Relay, model: Model
) -> None:
    page = open_page(site(f"{tag(embedder)}{tag(embedder, 'data-position=left')}", host=SAME_SITE))
    expect(page.locator("sluice-chat")).to_have_count(2)
    for number, text in enumerate(("one", "two")):
        page.evaluate("(n) => document.querySelectorAll('sluice-chat')[n].open()", number)
        ask_in(chat(page, number), model, f"question {number}", text)
    page.reload()
    expect(page.locator("sluice-chat")).to_have_count(2)
    for number, text in enumerate(("one", "two")):
        page.evaluate("(n) => document.querySelectorAll('sluice-chat')[n].open()", number)
        expect(chat(page, number).locator(".answer .text")).to_have_text(text)
    listeners = """(async () => {
      let left = 0;
      const remove = window.removeEventListener;
      window.removeEventListener = function (...all) { left += 1; return remove.apply(this, all); };
      for (const chat of document.querySelectorAll("sluice-chat")) chat.remove();
      return left;
    })()"""
    assert page.evaluate(listeners) == 2
    assert page.frames == [page.main_frame]
