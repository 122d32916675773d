"""The chat page, as a person meets it: asking, stopping, trying again, and what a reload finds."""

import re

import pytest
import requests
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import Answering, Model
from tests.browser.steps import announced, answer, ask, button, complete, connection, shown
from tests.live import Relay, wait_until

PROMPTS = ("One", "Two", "Three")


def converse(page: Page, model: Model, *prompts: str) -> Answering:
    """Ask and answer "One!" to "One"; return the last call."""
    for prompt in prompts:
        ask(page, prompt)
        call = model.next()
        call.token(f"{prompt}!")
        call.end()
        expect(answer(page)).to_have_text(f"{prompt}!")
        complete(page)
    return call


def asked(call: Answering) -> list[str]:
    return [message["content"] for message in call.messages]


def test_tokens_appear_as_they_arrive(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    expect(page.locator(".question")).to_have_text("Hi")
    expect(page.locator(".greeting")).to_be_hidden()
    call = model.next()
    for so_far, token in [("Hel", "Hel"), ("Hello", "lo"), ("Hello 世", " 世"), ("Hello 世界👋", "界👋")]:
        call.token(token)  # the next one is not sent before the page shows this one
        expect(answer(page)).to_have_text(re.compile(f"^{so_far}$"))
        expect(button(page, "Stop")).to_be_visible()
        expect(connection(page)).to_have_text("Answering…")
    call.end()
    complete(page)
    expect(connection(page)).to_be_hidden()
    assert len(model.calls) == 1


def test_thinking_is_shown_apart(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Why?")
    call = model.next()
    call.think("Let me ")
    call.think("see")
    expect(page.locator("details .reasoning")).to_have_text("Let me see")
    call.token("Because.")
    call.end()
    complete(page)
    assert shown(page) == "Because."
    page.reload()
    expect(page.locator("details .reasoning")).to_have_text("Let me see")


def test_stop_closes_the_upstream_and_keeps_the_text(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Go on for ever")
    call = model.next()
    call.token("1 2 3")
    expect(answer(page)).to_have_text("1 2 3")
    button(page, "Stop").click()
    assert call.call.await_close()
    expect(page.locator(".note")).to_have_text("Stopped.")
    assert shown(page) == "1 2 3"
    again = converse(page, model, "And?")
    assert asked(again) == ["Go on for ever", "1 2 3", "And?"]


def test_stop_before_the_run_is_known_stops_it(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    held: list[Route] = []
    page.route("**/runs", lambda route: held.append(route), times=1)
    ask(page, "Hi")
    button(page, "Stop").click()
    expect(connection(page)).to_have_text("Stopping…")
    wait_until(lambda: page.wait_for_timeout(20) or held, "the question is on its way")
    held[0].continue_()
    expect(page.locator(".note")).to_have_text("Stopped.")  # perhaps before the upstream was asked


def test_a_new_chat_stops_a_question_that_is_on_its_way(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    held: list[Route] = []
    page.route("**/runs", lambda route: held.append(route), times=1)
    ask(page, "Hi")
    expect(connection(page)).to_have_text("Connecting…")
    page.get_by_role("link", name="New chat").click()
    wait_until(lambda: page.wait_for_timeout(20) or held, "the question is on its way")
    with page.expect_response("**/stop"):
        held[0].continue_()
    wait_until(lambda: server.counts()["unfinished"] == 0, "nothing runs on")
    expect(connection(page)).to_be_hidden()
    expect(page.locator(".turn")).to_have_count(0)


def test_a_stop_that_failed_is_said(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    page.route("**/stop", lambda route: route.abort(), times=1)
    button(page, "Stop").click()
    expect(connection(page)).to_have_text("Stopping failed; the answer goes on.")
    call.token("on")
    expect(answer(page)).to_have_text("on")
    button(page, "Stop").click()
    expect(page.locator(".note")).to_have_text("Stopped.")


def test_turns_share_a_conversation_over_a_reload(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    converse(page, model, "One")
    page.reload()
    assert asked(converse(page, model, "Two")) == ["One", "One!", "Two"]
    expect(page.locator(".answer")).to_have_count(2)


def test_the_transcript_survives_a_reload(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    converse(page, model, "One", "Two")
    ask(page, "Three")
    call = model.next()
    call.token("half")
    call.break_off()
    expect(page.get_by_role("alert")).to_be_visible()
    requests_made: list[str] = []
    page.on("request", lambda request: requests_made.append(request.url))
    page.reload()
    expect(page.locator(".question")).to_have_text(list(PROMPTS))
    expect(page.locator(".answer .text")).to_have_text(["One!", "Two!", "half"])
    expect(page.locator(".note")).to_contain_text("cut off before its end")
    expect(page.get_by_role("alert")).to_have_count(0)  # it is no news
    expect(announced(page)).to_be_empty()
    assert not any("/runs" in url for url in requests_made)


def test_regenerate_replaces_the_last_answer(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    converse(page, model, "One", "Two")
    expect(button(page, "Regenerate")).to_have_count(1)
    button(page, "Regenerate").click()
    expect(button(page, "Stop")).to_be_focused()
    again = model.next()
    assert asked(again) == ["One", "One!", "Two"]
    again.token("Better")
    again.end()
    expect(answer(page)).to_have_text("Better")
    complete(page)
    expect(page.get_by_role("textbox")).to_be_focused()
    expect(page.locator(".answer .text")).to_have_text(["One!", "Better"])
    assert asked(converse(page, model, "Three")) == ["One", "One!", "Two", "Better", "Three"]


def test_a_failed_regeneration_can_be_retried(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    converse(page, model, "One")
    button(page, "Regenerate").click()
    model.next().break_off()
    button(page, "Retry").click()
    again = model.next()
    assert asked(again) == ["One"]
    again.token("Better")
    again.end()
    complete(page)
    assert asked(converse(page, model, "Two")) == ["One", "Better", "Two"]


def test_regenerating_what_was_stopped_before_its_first_word(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    converse(page, model, "One")
    ask(page, "Two")
    call = model.next()
    button(page, "Stop").click()
    assert call.call.await_close()
    button(page, "Regenerate").click()
    again = model.next()
    assert asked(again) == ["One", "One!", "Two"]
    again.end()
    complete(page)


def test_the_last_question_can_be_edited_and_the_draft_comes_back(
    open_page: OpenPage, server: Relay, model: Model
) -> None:
    page = open_page(server.url)
    converse(page, model, "One", "Two")
    box = page.get_by_role("textbox")
    box.fill("a draft")
    expect(button(page, "Edit")).to_have_count(1)
    button(page, "Edit").click()
    expect(box).to_have_value("Two")
    expect(box).to_be_focused()
    expect(page.get_by_text("Editing your last question")).to_be_visible()
    button(page, "Cancel").click()
    expect(box).to_have_value("a draft")
    button(page, "Edit").click()
    box.fill("Two and a half")
    page.reload()
    expect(box).to_have_value("Two and a half")
    box.press("Escape")
    expect(box).to_have_value("a draft")
    button(page, "Edit").click()
    box.fill("Two and a half")
    box.press("Enter")
    call = model.next()
    assert asked(call) == ["One", "One!", "Two and a half"]
    expect(box).to_have_value("a draft")
    call.token("2.5")
    call.end()
    complete(page)
    expect(page.locator(".question")).to_have_text(["One", "Two and a half"])


def test_a_draft_survives_reloads_answers_and_refusals(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    box = page.get_by_role("textbox")
    box.fill("你好\nhalf a thought")
    page.reload()
    expect(box).to_have_value("你好\nhalf a thought")
    box.press("Enter")
    expect(box).to_have_value("")
    box.fill("the next one")
    box.press("Enter")  # one at a time
    expect(box).to_have_value("the next one")
    call = model.next()
    call.token("Hello")
    call.end()
    complete(page)
    expect(box).to_have_value("the next one")
    page.get_by_role("link", name="New chat").click()
    expect(box).to_have_value("the next one")


def test_a_new_chat_begins_anew_and_stops_the_old_run(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    converse(page, model, "One")
    ask(page, "Two")
    call = model.next()
    call.token("half")
    expect(answer(page)).to_have_text("half")
    page.get_by_role("link", name="New chat").click()
    assert call.call.await_close()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator(".greeting")).to_be_visible()
    expect(page.get_by_role("textbox")).to_be_focused()
    expect(connection(page)).to_be_hidden()
    assert asked(converse(page, model, "Three")) == ["Three"]
    page.reload()
    expect(page.locator(".question")).to_have_text(["Three"])


def test_a_forgotten_conversation_begins_anew_and_says_so(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)

    def forget(route: Route) -> None:
        route.continue_(post_data=route.request.post_data_json | {"conversation_id": "forgotten"})

    converse(page, model, "One")
    page.route("**/runs", forget, times=1)
    with page.expect_response(lambda response: response.url.endswith("/runs") and response.ok):
        ask(page, "Two")
    call = model.next()
    assert asked(call) == ["Two"]
    call.token("Two!")
    call.end()
    complete(page)
    hint = page.get_by_text("The earlier conversation has expired")
    expect(hint).to_be_visible()
    page.reload()
    expect(hint).to_be_visible()
    assert asked(converse(page, model, "Three")) == ["Two", "Two!", "Three"]


def test_a_refused_start_can_be_tried_again(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    refusal = {"error": {"code": "too_many_runs", "message": "This relay is at its limit.", "request_id": "1"}}
    page.route("**/runs", lambda route: route.fulfill(status=503, json=refusal), times=1)
    ask(page, "Hi")
    expect(page.get_by_role("alert")).to_contain_text("This relay is at its limit.")
    assert model.calls == []
    page.reload()  # is no reason to ask again
    button(page, "Retry").click()
    call = model.next()
    call.token("Hello")
    call.end()
    expect(answer(page)).to_have_text("Hello")
    expect(page.locator(".note")).to_have_count(0)
    assert len(model.calls) == 1


def test_an_error_end_is_shown_and_can_be_retried(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    call.token("Hel")
    call.break_off()
    expect(page.get_by_role("alert")).to_contain_text("The upstream's answer was cut off before its end.")
    expect(answer(page)).to_have_text("Hel")
    button(page, "Retry").click()
    again = model.next()
    assert asked(again) == ["Hi"]
    again.token("Hello")
    again.end()
    expect(answer(page)).to_have_text("Hello")
    expect(page.locator(".note")).to_have_count(0)


@pytest.mark.parametrize("secure", [True, False], ids=["clipboard", "without"])
def test_messages_are_copied_as_they_were_written(
    open_page: OpenPage, server: Relay, model: Model, secure: bool
) -> None:
    page = open_page("about:blank")
    if not secure:  # as over http:// from another machine
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(server.url)
    ask(page, "it's\n你好")
    call = model.next()
    call.token("**half")
    expect(answer(page)).to_contain_text("half")
    as_curl, copy = page.locator(".asked button").last, page.locator(".actions:not(.asked) button").first

    def copied(button: Locator) -> str:
        button.click()
        expect(button).to_have_text("Copied")
        if secure:
            return page.evaluate("navigator.clipboard.readText()")
        box = page.get_by_role("textbox")
        box.fill("")
        box.press("ControlOrMeta+v")
        return box.input_value()

    assert copied(copy) == "**half"
    call.token(" done**\n\n- `x`")
    call.end()
    complete(page)
    expect(copy).to_have_text("Copy")
    assert copied(copy) == "**half done**\n\n- `x`"
    assert copied(as_curl) == f"curl -N {server.url}/stream --data-urlencode 'prompt=it'\\''s\n你好'"


def test_too_little_storage_drops_the_oldest_turns(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page("about:blank")
    page.add_init_script(
        """const set = Storage.prototype.setItem;
        Storage.prototype.setItem = function (key, text) {
            if (text.length > 1500) throw new DOMException("full", "QuotaExceededError");
            set.call(this, key, text);
        };"""
    )
    page.goto(server.url)
    converse(page, model, "One", "Two", "Three", "Four")
    expect(page.locator(".question")).to_have_count(4)
    page.reload()
    kept = page.locator(".question").all_text_contents()
    assert kept in (["Three", "Four"], ["Four"], ["Two", "Three", "Four"])
    assert asked(converse(page, model, "Five")) == [
        "One",
        "One!",
        "Two",
        "Two!",
        "Three",
        "Three!",
        "Four",
        "Four!",
        "Five",
    ]


def test_the_first_load_is_small_and_all_from_here(open_page: OpenPage, server: Relay) -> None:
    page = open_page("about:blank")
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    sizes: dict[str, float] = {}
    urls: list[str] = []
    client.on("Network.requestWillBeSent", lambda event: urls.append(event["request"]["url"]))
    client.on("Network.loadingFailed", lambda event: urls.append(event["errorText"]))
    client.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    page.goto(server.url, wait_until="networkidle")
    urls = [url for url in urls if not url.startswith("data:")]
    assert all(url.startswith(server.url) for url in urls)
    assert len(urls) <= 8
    print("first load:", sum(sizes.values()), "bytes with headers in", len(urls), "requests")
    assert sum(sizes.values()) <= 30 * 1024


def test_a_second_load_transfers_the_page_alone(server: Relay) -> None:
    for name in ("chat.js", "chat.css"):
        first = requests.get(f"{server.url}/static/{name}", timeout=10)
        assert first.headers["Content-Encoding"] == "gzip"
        assert first.headers["Cache-Control"] == "no-cache"
        again = requests.get(first.url, headers={"If-None-Match": first.headers["ETag"]}, timeout=10)
        assert (again.status_code, again.content) == (304, b"")
        plain = requests.get(first.url, headers={"Accept-Encoding": "identity"}, timeout=10)
        assert plain.content == first.content
