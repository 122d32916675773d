"""50 pages on one relay, each cut once in mid-answer: every one shows every character, and says how long it waited."""

import random
import statistics
import time

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.parts import Model
from tests.browser.steps import answer, ask, complete, shown
from tests.faults.proxy import TO_CLIENT, Fault, Proxy
from tests.live import WAIT_SECONDS, Relay

PAGES = 50
BEFORE, AFTER = "开始：**重点** 👩‍👩‍👧 ", ["naïve ", "𝄞 ", "你好，", "`code` "] * 10

# When the words that come after the cut are there: `came` (ms, Unix time).
WATCH = """() => {
    const watch = new MutationObserver(() => {
        if (!document.querySelector(".answer .text").textContent.includes("code")) return;
        watch.disconnect();
        window.came = performance.timeOrigin + performance.now();
    });
    watch.observe(document.getElementById("transcript"), { subtree: true, childList: true, characterData: true });
}"""


@pytest.mark.timeout(300)
def test_50_pages_each_cut_once(browser: Browser, server: Relay, model: Model) -> None:
    chance = random.Random(5)
    # Each is a site of its own: pages of one site share its six connections, and two of them the storage.
    with Proxy(server.port) as proxy, browser.new_context(locale="en-US") as context:
        pages = [context.new_page() for _ in range(PAGES)]
        for number, page in enumerate(pages):
            page.set_default_timeout(3 * WAIT_SECONDS * 1000)
            page.goto(f"http://page{number}.test:{proxy.port}")
            page.evaluate(WATCH)
            ask(page, f"question {number}")
        calls = [model.next() for _ in pages]
        for call in calls:
            call.token(BEFORE)
        for page in pages:
            expect(answer(page)).to_contain_text("重点")
        links = list(proxy.links)
        for link in links:
            place = link.passed[TO_CLIENT] + chance.randrange(1, 400)
            link.fault = Fault(chance.choice(["cut", "reset"]), TO_CLIENT, place)
        began = time.time()
        for token in AFTER:
            for call in calls:
                call.token(token)
        for call in calls:
            call.end()
        for page in pages:
            complete(page)
        delays = sorted(came - began * 1000 for came in (page.evaluate("came") for page in pages))
        whole = (BEFORE + "".join(AFTER)).replace("*", "").replace("`", "")
        assert [shown(page) for page in pages] == [whole] * PAGES
        assert sum(link.happened.is_set() for link in links) >= PAGES
        assert len(model.calls) == PAGES
        print(f"{PAGES} pages, each cut once: median {statistics.median(delays):.0f} ms, slowest {delays[-1]:.0f} ms")
