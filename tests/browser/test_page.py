"""The chat page, as a person meets it."""

import gzip
import re

import pytest
import requests
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import CuttingProxy, Model, relay
from tests.live import Relay, wait_until

XSS = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox").fill(prompt)
    page.get_by_role("textbox").press("Enter")


def answer(page: Page) -> Locator:
    return page.locator(".answer .text").last


def status(page: Page) -> Locator:
    return page.get_by_role("status")


def idle(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_tokens_appear_as_they_arrive(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    expect(page.locator(".question")).to_have_text("Hi")
    call = model.next()
    for so_far, token in [("Hel", "Hel"), ("Hello", "lo"), ("Hello\n世", "\n世"), ("Hello\n世界👋", "界👋")]:
        call.token(token)  # the next one is not sent before the page shows this one
        expect(answer(page)).to_have_text(re.compile(f"^{so_far}$"))
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
    call.end()
    expect(status(page)).to_have_text("Answer complete.")
    idle(page)
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
    expect(answer(page)).to_have_text("Because.")


def test_stop_closes_the_upstream_and_keeps_the_text(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Go on for ever")
    call = model.next()
    call.token("1 2 3")
    expect(answer(page)).to_have_text("1 2 3")
    page.get_by_role("button", name="Stop").click()
    assert call.call.await_close()
    expect(page.locator(".note")).to_have_text("Stopped.")
    expect(answer(page)).to_have_text("1 2 3")
    idle(page)


def test_a_cut_connection_loses_and_doubles_nothing(
    open_page: OpenPage, model: Model, proxy: CuttingProxy, server: Relay
) -> None:
    page = open_page(proxy.url)
    ask(page, "Hi")
    call = model.next()
    said = ""
    for round_ in range(3):
        call.token(f"seen {round_} ")
        said += f"seen {round_} "
        expect(answer(page)).to_have_text(said.strip())
        proxy.cut()
        call.token(f"unseen {round_} ")
        said += f"unseen {round_} "
    call.end()
    expect(status(page)).to_have_text("Answer complete.")
    assert answer(page).text_content() == said
    assert len(model.calls) == 1


def test_it_comes_back_where_eventsource_gives_up(open_page: OpenPage, model: Model, proxy: CuttingProxy) -> None:
    page = open_page(proxy.url)
    ask(page, "Hi")
    call = model.next()
    call.token("before ")
    expect(answer(page)).to_have_text("before")
    with page.expect_response(lambda response: response.url.endswith("/events") and response.status == 503):
        proxy.refusing = True
        proxy.cut()
    expect(status(page)).to_have_text("Connection lost, reconnecting…")
    call.token("after")
    proxy.refusing = False
    with page.expect_request(re.compile(r"/events\?after=3$")):
        call.end()
    expect(status(page)).to_have_text("Answer complete.")
    assert answer(page).text_content() == "before after"
    assert len(model.calls) == 1


def test_it_gives_up_at_last_and_retry_goes_on(open_page: OpenPage, model: Model, proxy: CuttingProxy) -> None:
    page = open_page("about:blank")
    page.clock.install()
    page.goto(proxy.url)
    ask(page, "Hi")
    call = model.next()
    call.token("before ")
    expect(answer(page)).to_have_text("before")
    proxy.refusing = True
    proxy.cut()
    retry = page.get_by_role("button", name="Retry")

    def gave_up() -> bool:
        page.clock.fast_forward(30_000)  # the longest wait between two tries
        return retry.is_visible()

    wait_until(gave_up, "the page gives up")
    expect(page.locator(".note")).to_contain_text("The connection is lost.")
    idle(page)
    call.token("after")
    proxy.refusing = False
    retry.click()
    call.end()
    expect(status(page)).to_have_text("Answer complete.")
    assert answer(page).text_content() == "before after"
    assert len(model.calls) == 1


def test_a_run_that_the_relay_lost_is_said_at_once(
    open_page: OpenPage, model: Model, server: Relay, proxy: CuttingProxy
) -> None:
    page = open_page(proxy.url)
    ask(page, "Hi")
    call = model.next()
    call.token("before")
    expect(answer(page)).to_have_text("before")
    with relay(**model.settings()) as restarted:
        proxy.port = restarted.port
        proxy.cut()
        expect(page.locator(".note")).to_contain_text("The relay no longer has this answer.")
        page.get_by_role("button", name="Retry").click()
        again = model.next()
        again.token("Hello")
        again.end()
        expect(status(page)).to_have_text("Answer complete.")
        assert answer(page).text_content() == "Hello"
        expect(page.locator(".answer")).to_have_count(1)


def test_a_refused_start_can_be_tried_again(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    refusal = {"error": {"code": "too_many_runs", "message": "This relay is at its limit.", "request_id": "1"}}
    page.route("**/runs", lambda route: route.fulfill(status=503, json=refusal), times=1)
    ask(page, "Hi")
    expect(page.locator(".note")).to_contain_text("This relay is at its limit.")
    assert model.calls == []
    page.get_by_role("button", name="Retry").click()
    call = model.next()
    call.token("Hello")
    call.end()
    expect(answer(page)).to_have_text("Hello")
    expect(page.locator(".note")).to_have_count(0)


def test_a_start_whose_answer_is_lost_is_repeated_with_its_key(
    open_page: OpenPage, server: Relay, model: Model
) -> None:
    page = open_page(server.url)

    def lose_answer(route: object) -> None:
        route.fetch()
        route.abort("connectionreset")

    page.route("**/runs", lose_answer, times=1)
    ask(page, "Hi")
    call = model.next()
    call.token("Hello")
    expect(answer(page)).to_have_text("Hello")
    call.end()
    expect(status(page)).to_have_text("Answer complete.")
    assert len(model.calls) == 1


def test_turns_share_a_conversation(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "My name is 小明")
    first = model.next()
    first.token("Hello 小明")
    first.end()
    idle(page)
    ask(page, "What is my name?")
    second = model.next()
    assert [message["content"] for message in second.messages] == ["My name is 小明", "Hello 小明", "What is my name?"]
    second.token("小明")
    second.end()
    expect(answer(page)).to_have_text("小明")
    expect(page.locator(".answer")).to_have_count(2)


def test_a_forgotten_conversation_begins_anew(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)

    def forget(route: object) -> None:
        body = route.request.post_data_json | {"conversation_id": "forgotten"}
        route.continue_(post_data=body)

    ask(page, "One")
    first = model.next()
    first.token("1")
    first.end()
    idle(page)
    page.route("**/runs", forget, times=1)
    ask(page, "Two")
    second = model.next()
    assert [message["content"] for message in second.messages] == ["Two"]
    second.token("2")
    second.end()
    expect(answer(page)).to_have_text("2")
    expect(page.get_by_text("The earlier conversation has expired")).to_be_visible()


def test_an_error_end_is_shown_and_can_be_retried(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    call.token("Hel")
    call.break_off()
    note = page.locator(".note.error")
    expect(note).to_contain_text("The upstream's answer was cut off before its end.")
    expect(status(page)).to_have_text("The upstream's answer was cut off before its end. ")
    expect(answer(page)).to_have_text("Hel")
    page.get_by_role("button", name="Retry").click()
    again = model.next()
    again.token("Hello")
    again.end()
    expect(answer(page)).to_have_text("Hello")
    expect(note).to_have_count(0)


def test_markup_stays_text(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, XSS)
    call = model.next()
    call.think(XSS)
    for character in XSS:
        call.token(character)
    call.end()
    expect(status(page)).to_have_text("Answer complete.")
    assert answer(page).text_content() == page.locator(".question").text_content() == XSS
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize("composing", [{"isComposing": True}, {"keyCode": 229}], ids=["composing", "safari"])
def test_enter_that_confirms_a_candidate_does_not_send(
    open_page: OpenPage, server: Relay, model: Model, composing: dict[str, object]
) -> None:
    page = open_page(server.url)
    box = page.get_by_role("textbox")
    box.fill("你好")
    left = box.evaluate(
        "(box, how) => box.dispatchEvent(new KeyboardEvent('keydown', "
        "{key: 'Enter', bubbles: true, cancelable: true, ...how}))",
        composing,
    )
    assert left  # to the input method: not prevented
    expect(box).to_have_value("你好")
    box.press("Shift+Enter")
    expect(box).to_have_value("你好\n")
    expect(page.locator(".question")).to_have_count(0)
    box.press("Enter")
    expect(page.locator(".question")).to_have_text("你好")
    model.next().end()
    idle(page)
    assert len(model.calls) == 1


def test_the_page_speaks_chinese(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url, locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    ask(page, "你好")
    expect(page.get_by_role("button", name="停止")).to_be_visible()
    model.next().end()
    expect(status(page)).to_have_text("回答完毕。")
    expect(page.get_by_role("button", name="发送")).to_be_visible()


FOLLOW = """async () => {
    const { Relay } = await import("/client.js");
    let source;
    class Doubling extends EventSource {  // every token comes twice, as from a relay that resumes too early
        set onmessage(take) {
            source = this;
            this.addEventListener("message", (event) => [take(event), take(event)]);
        }
    }
    const relay = new Relay(undefined, { EventSource: Doubling }), run = await relay.start({ prompt: "Hi" });
    let follower;
    const finished = new Promise((end) => (follower = relay.follow(run, { end: () => end(source.readyState) })));
    return { finished: finished.then((state) => [state, follower.text, follower.intact]) };
}"""


def test_the_transport_is_a_module_of_its_own(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    following = page.evaluate_handle(FOLLOW)
    call = model.next()
    call.token("Hello ")
    call.token("世界")
    call.end()
    closed = 2
    assert following.evaluate("({ finished }) => finished") == [closed, "Hello 世界", True]


def test_the_transport_may_be_imported_from_anywhere(server: Relay) -> None:
    response = requests.get(f"{server.url}/client.js", timeout=10)
    assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    again = requests.get(f"{server.url}/client.js", headers={"If-None-Match": response.headers["ETag"]}, timeout=10)
    assert again.status_code == 304


def test_a_reader_who_scrolled_up_stays_there(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    main = page.locator("main")
    ask(page, "Tell me more")
    call = model.next()
    call.token("line\n" * 200)
    page.wait_for_function("() => document.querySelector('main').scrollTop > 1000")  # the end is followed
    main.evaluate("main => main.scrollTo(0, 500)")
    call.token("and more\n" * 200)
    expect(answer(page)).to_contain_text("and more")
    page.evaluate("() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)))")
    assert main.evaluate("main => main.scrollTop") == 500
    call.end()


def test_the_first_load_is_small_and_all_from_here(open_page: OpenPage, server: Relay) -> None:
    page = open_page("about:blank")
    bodies: dict[str, bytes] = {}
    page.on("response", lambda response: bodies.update({response.url: response.body()}))
    response = page.goto(server.url, wait_until="networkidle")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert all(url.startswith(server.url) for url in bodies)
    assert len(bodies) <= 5
    assert sum(len(gzip.compress(body)) for body in bodies.values()) <= 12 * 1024
