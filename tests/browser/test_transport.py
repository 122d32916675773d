"""The page's transport over a network that breaks: nothing lost, nothing doubled, nothing asked twice."""

import contextlib
import random
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import CuttingProxy, Model, relay
from tests.browser.steps import answer, ask, button, complete, connection, shown
from tests.faults.proxy import TO_CLIENT, Fault, Proxy
from tests.live import Relay, wait_until

TEXT = "好的：**重点**后面 👩‍👩‍👧 naïve 𝄞 \\u2028 \n\n```py\nprint('你好')\n```\n"
CUTS = 200
FOLLOWING_AT_ONCE = 5  # a browser opens six connections to one origin

FOLLOW_ALL = """async ([runs, atOnce]) => {
    const relay = new Relay(), found = [];
    const one = (run) => new Promise((done) => {
        const pieces = [];
        const follower = relay.follow(run, {
            token: ({ text }) => pieces.push(text),
            end: () => done([pieces.join(""), follower.answer.text, follower.intact]),
            state: (state) => ["lost", "gone"].includes(state) && done([state]),
        });
    });
    const worker = async () => { for (let run; (run = runs.pop()); ) found.push(await one(run)); };
    await Promise.all(Array.from({ length: atOnce }, worker));
    return found;
}"""


@pytest.fixture
def broken(server: Relay) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def whole_response(server: Relay, events_url: str) -> bytes:
    """Return every byte that one who follows the ended run gets."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port)) as client:
        client.sendall(f"GET {events_url} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.timeout(300)  # hundreds of connections, each with its wait
def test_cuts_at_200_positions(open_page: OpenPage, server: Relay, model: Model, broken: Proxy) -> None:
    page = open_page(broken.url)
    page.evaluate("async () => Object.assign(window, await import('/client.js'))")
    runs = []
    for _ in range(CUTS // 2):
        runs.append(requests.post(f"{server.url}/runs", json={"prompt": "Hi"}, timeout=20).json())
        call = model.next()
        for piece in range(0, len(TEXT), 16):
            call.token(TEXT[piece : piece + 16])
        call.end()
    wait_until(lambda: server.counts()["unfinished"] == 0, "all runs have ended")
    response = whole_response(server, runs[0]["events_url"])
    body = response.index(b"\r\n\r\n")
    chance = random.Random(5)
    for link in broken.links:
        link.reset()  # no connection of the page's loading is left to be used again
    loading = len(broken.links)
    broken.faults.extend(
        Fault(chance.choice(["cut", "reset"]), TO_CLIENT, chance.randrange(body, len(response))) for _ in range(CUTS)
    )
    found = page.evaluate(FOLLOW_ALL, [runs, FOLLOWING_AT_ONCE])
    assert found == [[TEXT, TEXT, True]] * len(runs)
    assert sum(link.happened.is_set() for link in broken.links[loading:]) >= CUTS // 2
    assert len(model.calls) == len(runs)


def test_a_cut_answer_goes_on_where_it_was(open_page: OpenPage, model: Model, proxy: CuttingProxy) -> None:
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
    complete(page)
    assert shown(page) == said
    assert len(model.calls) == 1


def test_a_routers_503_is_outlasted(open_page: OpenPage, model: Model, proxy: CuttingProxy) -> None:
    page = open_page(proxy.url)
    ask(page, "Hi")
    call = model.next()
    call.token("before ")
    expect(answer(page)).to_have_text("before")
    with page.expect_response(lambda response: response.url.endswith("/events") and response.status == 503):
        proxy.refusing = True
        proxy.cut()
    expect(connection(page)).to_contain_text("Connection lost, reconnecting…")
    expect(connection(page)).to_contain_text("(3)")  # it goes on trying, and says so
    call.token("after")
    proxy.refusing = False
    with page.expect_request(re.compile(r"/events\?after=3$")):
        call.end()
    complete(page)
    assert shown(page) == "before after"
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
    retry = button(page, "Retry")

    def gave_up() -> bool:
        page.clock.fast_forward(30_000)  # the longest wait between two tries
        return retry.is_visible()

    wait_until(gave_up, "the page gives up")
    expect(page.get_by_role("alert")).to_contain_text("The connection is lost.")
    expect(button(page, "Send")).to_be_visible()
    call.token("after")
    proxy.refusing = False
    retry.click()
    call.end()
    complete(page)
    assert shown(page) == "before after"
    assert len(model.calls) == 1


def test_an_answer_that_ends_without_an_end_was_cut(open_page: OpenPage, model: Model) -> None:
    with relay(**model.settings(), RETRY_MS="100", STREAM_MAX_SECONDS="0.3") as server:
        page = open_page(server.url)
        bodies: list[str] = []
        page.on("requestfinished", lambda request: "/events" in request.url and bodies.append(request.url))
        ask(page, "Hi")
        call = model.next()
        call.token("before ")
        expect(answer(page)).to_have_text("before")
        wait_until(lambda: page.wait_for_timeout(20) or len(bodies) >= 2, "two responses came to a clean end")
        expect(button(page, "Stop")).to_be_visible()
        call.token("after")
        call.end()
        complete(page)
        assert shown(page) == "before after"


def test_a_connection_that_died_without_a_sign_is_made_anew(open_page: OpenPage, model: Model, broken: Proxy) -> None:
    page = open_page("about:blank")
    page.clock.install()
    page.goto(broken.url)
    ask(page, "Hi")
    call = model.next()
    call.token("before ")
    expect(answer(page)).to_have_text("before")
    passed = [link.passed[TO_CLIENT] for link in broken.links]
    call.token("and ")
    expect(answer(page)).to_have_text("before and")
    streaming = max(zip(broken.links, passed, strict=True), key=lambda each: each[0].passed[TO_CLIENT] - each[1])[0]
    streaming.fault = Fault("stall", TO_CLIENT, streaming.passed[TO_CLIENT])
    call.token("after")
    wait_until(streaming.happened.is_set, "the token was swallowed")
    with page.expect_request(re.compile(r"/events\?after=4$")):
        page.clock.fast_forward(60_000)
    call.end()
    complete(page)
    assert shown(page) == "before and after"


def test_offline_is_said_and_outlasted(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    call.token("before ")
    expect(answer(page)).to_have_text("before")
    page.context.set_offline(True)
    expect(connection(page)).to_contain_text("You are offline")
    call.token("meanwhile ")
    page.wait_for_timeout(1500)  # several tries fail
    expect(answer(page)).to_have_text("before")
    expect(connection(page)).to_contain_text("You are offline")
    page.context.set_offline(False)
    call.token("after")
    call.end()
    complete(page)
    assert shown(page) == "before meanwhile after"
    assert len(model.calls) == 1


def test_a_reload_shows_at_once_what_was_seen(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    call.token("before ")
    expect(answer(page)).to_have_text("before")
    page.route("**/runs/**", lambda route: route.abort())
    page.reload()
    expect(answer(page)).to_have_text("before")
    expect(connection(page)).to_have_attribute("data-state", "reconnecting")
    page.unroute("**/runs/**")
    call.token("after")
    call.end()
    complete(page)
    assert shown(page) == "before after"


def second_tab(context: BrowserContext, page: Page) -> Page:
    """Open the same page as a duplicate of the tab, which takes the session's storage with it."""
    with context.expect_page() as opened:
        page.evaluate("() => void window.open(location.href)")
    opened.value.wait_for_load_state()
    return opened.value


def test_a_reload_goes_on_in_mid_answer(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    said = ""
    for round_ in range(3):
        call.token(f"seen {round_} ")
        said += f"seen {round_} "
        expect(answer(page)).to_have_text(said.strip())
        page.reload()
        call.token(f"then {round_} ")
        said += f"then {round_} "
        expect(answer(page)).to_have_text(said.strip())
    expect(page.locator(".question")).to_have_text("Hi")
    call.end()
    complete(page)
    assert shown(page) == said
    assert len(model.calls) == 1


def test_a_second_tab_shows_the_same_and_stops_both(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    call.token("one ")
    expect(answer(page)).to_have_text("one")
    other = second_tab(page.context, page)
    expect(answer(other)).to_have_text("one")
    call.token("two")
    for tab in (page, other):
        expect(answer(tab)).to_have_text("one two")
    page.reload()
    button(other, "Stop").click()
    assert call.call.await_close()
    for tab in (page, other):
        expect(tab.locator(".note")).to_have_text("Stopped.")
        assert shown(tab) == "one two"
    assert len(model.calls) == 1


def test_stop_works_after_a_reload(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    ask(page, "Hi")
    call = model.next()
    call.token("one ")
    expect(answer(page)).to_have_text("one")
    page.reload()
    expect(answer(page)).to_have_text("one")
    button(page, "Stop").click()
    assert call.call.await_close()
    expect(page.locator(".note")).to_have_text("Stopped.")


def test_a_question_that_is_on_its_way_survives_a_reload(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    asked: list[Route] = []
    page.route("**/runs", lambda route: (asked.append(route), route.fetch()), times=1)  # its answer never arrives
    ask(page, "Hi")
    wait_until(lambda: page.wait_for_timeout(20) or asked, "the question is on its way")
    call = model.next()
    with page.expect_request("**/runs") as again:
        page.reload()
    assert again.value.headers["idempotency-key"] == asked[0].request.headers["idempotency-key"]
    call.token("Hello")
    call.end()
    complete(page)
    assert shown(page) == "Hello"
    assert len(model.calls) == 1


def test_a_start_whose_answer_is_lost_is_repeated_with_its_key(
    open_page: OpenPage, server: Relay, model: Model
) -> None:
    page = open_page(server.url)

    def lose_answer(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    page.route("**/runs", lose_answer, times=1)
    with page.expect_event("requestfailed"):
        ask(page, "Hi")
    call = model.next()
    call.token("Hello")
    expect(answer(page)).to_have_text("Hello")
    call.end()
    complete(page)
    assert len(model.calls) == 1


def test_one_question_is_sent_once(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    posts: list[str] = []
    page.on("request", lambda request: request.method == "POST" and posts.append(request.url))
    page.get_by_role("textbox").fill("Hi")
    page.evaluate("() => { const form = document.forms[0]; form.requestSubmit(); form.requestSubmit(); }")
    call = model.next()
    page.get_by_role("textbox").fill("Too early")
    page.get_by_role("textbox").press("Enter")
    expect(page.get_by_role("textbox")).to_have_value("Too early")  # nor is it lost
    call.token("Hello")
    call.end()
    complete(page)
    assert len(posts) == len(model.calls) == 1


def test_a_text_that_came_otherwise_is_read_again(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)

    def spoil(route: Route) -> None:
        response = route.fetch()  # the whole answer
        route.fulfill(response=response, body=response.text().replace("Hello", "Hallo"))

    page.route("**/events*", spoil)
    with page.expect_request(re.compile(r"/runs/[\w-]+\?mismatch=1$")):
        ask(page, "Hi")
        call = model.next()
        call.token("Hello")
        call.end()
    complete(page)
    assert shown(page) == "Hello"
    expect(page.locator(".note")).to_have_count(0)


def test_a_text_that_cannot_be_read_again_is_marked(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    page.route(
        "**/events*",
        lambda route: route.fulfill(
            response=(response := route.fetch()), body=response.text().replace("Hello", "Hallo")
        ),
    )
    page.route("**/runs/*?mismatch=1", lambda route: route.abort())
    ask(page, "Hi")
    call = model.next()
    call.token("Hello")
    call.end()
    expect(page.get_by_role("alert")).to_contain_text("This text is not exactly what was sent.")


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
        expect(page.get_by_role("alert")).to_contain_text("The relay no longer has this answer.")
        assert shown(page) == "before"
        page.reload()
        expect(page.locator(".note")).to_contain_text("The relay no longer has this answer.")
        assert shown(page) == "before"  # what was seen stays
        button(page, "Retry").click()
        again = model.next()
        again.token("Hello")
        again.end()
        complete(page)
        assert shown(page) == "Hello"
        expect(page.locator(".answer")).to_have_count(1)


def test_a_relay_that_goes_away_in_good_order_ends_what_ran(open_page: OpenPage, model: Model) -> None:
    """As far as a store in memory can promise: nothing that was sent is missing, and nobody waits for the rest."""
    with relay(**model.settings(), RETRY_MS="100", SHUTDOWN_GRACE_SECONDS="4") as server:
        page = open_page(server.url)
        ask(page, "Hi")
        call = model.next()
        call.token("before ")
        expect(answer(page)).to_have_text("before")
        server.process.terminate()
        call.token("after")
        expect(page.get_by_role("alert")).to_contain_text("The answer was interrupted.")
        assert shown(page) == "before after"
        expect(button(page, "Retry")).to_be_visible()


def test_a_relay_that_dies_leaves_what_was_seen(open_page: OpenPage, model: Model, proxy: CuttingProxy) -> None:
    with contextlib.ExitStack() as relays:
        first = relays.enter_context(relay(**model.settings(), RETRY_MS="100"))
        proxy.port = first.port
        page = open_page(proxy.url)
        ask(page, "Hi")
        call = model.next()
        call.token("before")
        expect(answer(page)).to_have_text("before")
        proxy.port = relays.enter_context(relay(**model.settings())).port
        first.kill()
        expect(page.get_by_role("alert")).to_contain_text("The relay no longer has this answer.")
        assert shown(page) == "before"


def test_blocked_storage_costs_no_more_than_the_reload(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page("about:blank")
    page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page.goto(server.url)
    for prompt in ("One", "Two"):
        ask(page, prompt)
        call = model.next()
        call.token(f"{prompt}!")
        call.end()
        complete(page)
    assert [message["content"] for message in call.messages] == ["One", "One!", "Two"]
    expect(page.locator(".answer")).to_have_count(2)
    kept = page.evaluate(
        """async () => {
            const { TabStore } = await import("/client.js"), store = new TabStore("mine");
            return [store.get("a"), store.set("a", { b: 1 }), store.get("a")];
        }"""
    )
    assert kept == [None, False, {"b": 1}]


def test_the_transport_may_be_imported_from_anywhere(server: Relay) -> None:
    response = requests.get(f"{server.url}/client.js", timeout=10)
    assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    again = requests.get(f"{server.url}/client.js", headers={"If-None-Match": response.headers["ETag"]}, timeout=10)
    assert again.status_code == 304


def test_handlers_that_throw_are_not_taken_for_cuts(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    following = page.evaluate_handle(
        """async () => {
            const { Relay } = await import("/client.js");
            const states = [], headers = { "X-Any": "1" };  // so that fetch reads the stream
            const relay = new Relay(undefined, { headers }), run = await relay.start({ prompt: "Hi" });
            addEventListener("error", (event) => event.preventDefault());
            const finished = new Promise((end) => relay.follow(run, {
                token: () => { throw new Error("mine"); },
                state: (state) => states.push(state),
                end,
            }));
            return { finished: finished.then(() => states) };
        }"""
    )
    call = model.next()
    call.token("one")
    call.token("two")
    call.end()
    assert following.evaluate("({ finished }) => finished") == ["connecting", "live", "ended"]
