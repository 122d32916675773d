"""How the page looks, as its address asks; and the policy that it is under."""

from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import Model
from tests.browser.payloads import PAYLOADS
from tests.browser.steps import answer, ask, complete
from tests.live import Relay

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
WHITE = "rgb(255, 255, 255)"
XSS = '<img src=x onerror="alert(1)"><script>alert(2)</script>"\'`{{7*7}}'

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@pytest.mark.parametrize(
    ("theme", "system", "dark"),
    [
        ("", "light", False),
        ("", "dark", True),
        ("auto", "dark", True),
        ("light", "dark", False),
        ("dark", "light", True),
    ],
)
def test_the_theme_is_the_systems_unless_asked_for(
    open_page: OpenPage, server: Relay, theme: str, system: str, dark: bool
) -> None:
    page = open_page(f"{server.url}/?theme={theme}", color_scheme=system)
    assert (page.evaluate(BACKGROUND) != WHITE) == dark
    scheme = page.evaluate("getComputedStyle(document.documentElement).colorScheme")
    assert ("dark" in scheme) == (theme != "light")  # scroll bars and fields follow


def test_an_accent_colours_the_buttons_from_the_first_paint(open_page: OpenPage, server: Relay) -> None:
    send = "getComputedStyle(document.getElementById('send'))"
    for given in ("e91e63", "%23E91E63", "f0e"):
        page = open_page(f"{server.url}/?accent={given}", java_script_enabled=False)
        wanted = "rgb(255, 0, 238)" if given == "f0e" else "rgb(233, 30, 99)"
        assert page.evaluate(f"{send}.backgroundColor") == wanted
    page = open_page(f"{server.url}/?accent=ffff00")
    assert page.evaluate(f"{send}.color") == "rgb(0, 0, 0)"
    usual = open_page(server.url).evaluate(f"{send}.backgroundColor")
    for nonsense in ("red;}body{display:none", "12345", "url(x)"):
        page = open_page(f"{server.url}/?accent={nonsense}")
        assert page.evaluate(f"{send}.backgroundColor") == usual


def test_title_and_greeting_are_text(open_page: OpenPage, server: Relay) -> None:
    response = requests.Request("GET", server.url, params={"title": XSS, "greeting": f"{XSS}\nline two"}).prepare()
    page = open_page(str(response.url))
    expect(page).to_have_title(XSS)
    assert page.get_by_role("heading").text_content() == XSS
    assert page.locator(".greeting").text_content() == f"{XSS}\nline two"
    assert page.locator("img, script:not([src])").count() == 0


def test_words_from_an_address_are_bounded(open_page: OpenPage, server: Relay) -> None:
    page = open_page(f"{server.url}/?title={'t' * 300}&greeting={'g' * 3000}")
    assert len(page.get_by_role("heading").text_content()) == 80
    assert len(page.locator(".greeting").text_content()) == 500


def test_the_look_stays_without_javascript(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(f"{server.url}/?lang=zh&theme=dark&title=Help", java_script_enabled=False, color_scheme="light")
    page.get_by_role("textbox").fill("你好")
    page.locator("#send").click(no_wait_after=True)
    call = model.next()
    call.token("好")
    call.end()
    expect(page.locator(".answer .text")).to_have_text("好")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.get_by_role("heading")).to_have_text("Help")
    assert page.evaluate(BACKGROUND) != WHITE
    page.get_by_role("link", name="新对话").click()
    expect(page.get_by_role("heading")).to_have_text("Help")


def test_markup_stays_text(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, XSS)
    call = model.next()
    call.think(XSS)
    for character in XSS:
        call.token(character)
    call.end()
    complete(page)
    assert page.locator(".question").text_content() == XSS
    assert "onerror" in answer(page).text_content()
    assert page.locator("main img, main script").count() == 0


def test_a_readers_words_are_never_markup(open_page: OpenPage, server: Relay, model: Model) -> None:
    """Each payload as a question, on the page and after a reload: one text node, no request to anywhere else."""
    page = open_page(server.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    questions = [payload.replace("\0", "").strip() for payload in PAYLOADS]
    box = "() => { for (const box of document.querySelectorAll('textarea')) box.value = ''; }"
    for number in range(0, len(questions), 10):
        page.evaluate(box)
        ask(page, "\n".join(questions[number : number + 10]))
        model.next().end()
        expect(page.locator(".turn.live")).to_have_count(0)
    for _ in range(2):
        shown = page.evaluate("[...document.querySelectorAll('.question .words')].map((words) => words.textContent)")
        assert "\n".join(shown) == "\n".join(questions)
        assert page.locator(".question .words > *").count() == 0
        page.reload()
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(server.url).netloc}


def test_every_page_has_the_exact_policy(server: Relay, model: Model) -> None:
    html = {"Accept": "text/html"}
    asked = requests.post(f"{server.url}/chat", data={"prompt": "Hi"}, headers=html, timeout=20, allow_redirects=False)
    model.next().end()
    pages = [
        requests.get(server.url, headers=html, timeout=10),
        requests.get(server.url + asked.headers["Location"], headers=html, timeout=10),
        requests.post(f"{server.url}/chat", data={"prompt": " "}, headers=html, timeout=10),
    ]
    assert [page.status_code for page in pages] == [200, 200, 400]
    for page in pages:
        assert page.headers["Content-Security-Policy"] == POLICY
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert "X-Frame-Options" not in page.headers
        assert "Accept-Language" in page.headers["Vary"]
        assert page.headers["Referrer-Policy"] == "same-origin"


def test_html_sinks_are_refused_by_the_browser(browser: Browser, server: Relay) -> None:
    page = browser.new_page()
    page.goto(server.url)
    refused = page.evaluate(
        """() => {
            const tries = [
                () => (document.body.innerHTML = "<p>x</p>"),
                () => document.write("<p>x</p>"),
                () => trustedTypes.createPolicy("mine", {}),
                () => (document.createElement("script").src = "/client.js"),
            ];
            return tries.map((attempt) => { try { attempt(); return ""; } catch (error) { return error.name; } });
        }"""
    )
    assert refused == ["TypeError"] * 4
    page.close()
