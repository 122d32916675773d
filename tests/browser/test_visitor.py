"""The public page: its visitors ask without a key, stay who they are, and hold no token that is too old."""

import time
from collections.abc import Iterator

import pytest
import requests
from itsdangerous import TimestampSigner
from playwright.sync_api import Page, expect

from streaming.web import visitors
from tests.browser.conftest import OpenPage
from tests.browser.parts import Model, relay
from tests.browser.steps import answer, ask, complete
from tests.live import Relay

SECRET_KEY = "s" * 32


@pytest.fixture(scope="module")
def public(model: Model) -> Iterator[Relay]:
    settings = {"PUBLIC_PAGE": "1", "SECRET_KEY": SECRET_KEY, "RATE_LIMIT": "50/minute", "CHAT_WAIT_SECONDS": "5"}
    with relay(**model.settings(), **settings) as server:
        yield server


def converse(page: Page, model: Model, prompt: str) -> list[str]:
    """Ask and have it answered; return the conversation as it reached the model."""
    ask(page, prompt)
    call = model.next()
    call.token(f"{prompt}!")
    call.end()
    expect(answer(page)).to_have_text(f"{prompt}!")
    complete(page)
    return [message["content"] for message in call.messages]


class Then(TimestampSigner):
    """Signs as the relay did two days ago."""

    def get_timestamp(self) -> int:
        return int(time.time()) - 2 * visitors.TOKEN_SECONDS


def test_a_visitor_asks_and_is_the_same_one_after_a_reload_without_cookies(
    open_page: OpenPage, public: Relay, model: Model
) -> None:
    page = open_page(public.url)
    assert converse(page, model, "One") == ["One"]
    page.context.clear_cookies()  # a frame on another site never had one
    page.reload()
    assert converse(page, model, "Two") == ["One", "One!", "Two"]


def test_a_page_that_was_open_for_days_goes_on(open_page: OpenPage, public: Relay, model: Model) -> None:
    page = open_page(public.url)
    converse(page, model, "One")
    token = page.evaluate("JSON.parse(sessionStorage['sluice.visitor'])")
    old = Then(SECRET_KEY, salt=visitors._SALT, sep=".").sign(token.partition(".")[0]).decode()
    refused = requests.post(f"{public.url}/runs", json={"prompt": "x"}, headers={visitors.HEADER: old}, timeout=20)
    assert refused.status_code == 401
    page.evaluate("(token) => { sessionStorage['sluice.visitor'] = JSON.stringify(token) }", old)
    page.reload()
    assert converse(page, model, "Two") == ["One", "One!", "Two"]
    assert page.evaluate("JSON.parse(sessionStorage['sluice.visitor'])") not in {old, None}


def test_without_javascript_the_form_carries_it(open_page: OpenPage, public: Relay, model: Model) -> None:
    page = open_page(public.url, java_script_enabled=False)
    for asked, before in (("One", []), ("Two", ["One", "One!"])):
        page.get_by_role("textbox").fill(asked)
        page.get_by_role("button", name="Send").click(no_wait_after=True)
        call = model.next()
        assert [message["content"] for message in call.messages] == [*before, asked]
        call.token(f"{asked}!")
        call.end()
        expect(answer(page)).to_have_text(f"{asked}!")
