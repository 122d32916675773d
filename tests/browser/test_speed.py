"""The page under the load of a fast model: what it shows is there with the next frame, and its reader can go on.

Times are printed. What else a machine does makes them longer, so the best of some tries counts.
"""

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import Model
from tests.browser.steps import answer, ask, complete
from tests.live import Relay

FIRST_TOKENS = 50
BURST = [*(["这是", " a", " **word**", " 。"] * 20)[:-1], "\n\n"] * 125  # 10,000 tokens
PACED_TOKENS = 1000
TOKENS_A_SECOND = 200
TRIES = 3
LONG_TRIES = 5  # of what takes long: another's work may last longer than three of them
WORK = """() => {
    const began = performance.now();
    for (let i = 0, x = 0; i < 2e7; i++) x = (x * 31 + i) | 0;
    return performance.now() - began;
}"""
WORK_MS = 150  # of that work, where nothing else is done: what `slower` is told of

# For each first token: frames that were drawn between the message and the text (0: it is in the next one), and how
# long that next frame took to come (ms). It is told when the event's handlers are through.
WATCH_FIRST_TOKENS = """() => {
    window.firsts = [];
    let frames = 0;
    const count = () => { frames += 1; requestAnimationFrame(count); };
    requestAnimationFrame(count);
    const Native = EventSource;
    window.EventSource = class extends Native {
        set onmessage(listener) {
            let came = false;
            super.onmessage = (event) => {
                const [then, began] = [frames, performance.now()];
                listener(event);
                if (came) return;
                came = true;
                const look = () => document.querySelector(".turn:last-child .text").textContent
                    ? firsts.push([frames - then, performance.now() - began])
                    : requestAnimationFrame(look);
                requestAnimationFrame(look);
            };
        }
    };
}"""


def test_the_first_token_is_in_the_next_frame(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    page.evaluate(WATCH_FIRST_TOKENS)
    for number in range(FIRST_TOKENS):
        ask(page, f"question {number}")
        call = model.next()
        call.token(f"**answer** {number}")
        expect(answer(page)).to_have_text(f"answer {number}")
        call.end()
        expect(page.locator(".turn.live")).to_have_count(0)
    found = page.evaluate("firsts")
    delays = sorted(delay for _, delay in found)
    p95 = delays[FIRST_TOKENS * 95 // 100]
    print(f"first token to frame: median {statistics.median(delays):.1f} ms, p95 {p95:.1f} ms")
    assert [frames for frames, _ in found] == [1] * FIRST_TOKENS


# The longest that anything else had to wait for its turn (ms), the most characters that came between two turns, and the
# frames of each second.
WATCH_TURNS = """() => {
    window.watched = { longest: 0, most: 0, seconds: [], keys: [] };
    let before = performance.now(), second = before, shown = 0, frames = 0, over = false;
    const text = document.querySelector(".answer .text"), length = () => text.textContent.length;
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
        const now = performance.now();
        watched.longest = Math.max(watched.longest, now - before);
        before = now;
        watched.most = Math.max(watched.most, length() - shown);
        shown = length();
        if (!over) setTimeout(() => port2.postMessage(0), 5);
    };
    port2.postMessage(0);
    const count = (now) => {
        frames += 1;
        if (now - second >= 1000) {
            watched.seconds.push(frames * 1000 / (now - second));
            [second, frames] = [now, 0];
        }
        if (!over) requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    new PerformanceObserver((list) => watched.keys.push(...list.getEntries().map(({ duration }) => duration)))
        .observe({ type: "event", durationThreshold: 16 });
    watched.stop = () => { over = true; };
}"""


def watched(page: Page) -> dict[str, Any]:
    """Return what was found since WATCH_TURNS, and watch no more."""
    return page.evaluate("() => { watched.stop(); return { ...watched, stop: null }; }")


def slow_down(page: Page, times: int) -> None:
    """Let the page be so many times slower than WORK_MS tells; what the machine is slower already is part of it."""
    took_ms = statistics.median(page.evaluate(WORK) for _ in range(5))
    rate = max(1.0, min(times, times * WORK_MS / took_ms))
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": rate})


def best_of(tries: int, fits: Callable[[dict[str, Any]], bool], measure: Callable[[], dict[str, Any]]) -> None:
    """Measure until it fits: what else the machine does only ever adds to a time."""
    found = []
    for _ in range(tries):
        found.append(measure())
        print(found[-1])
        if fits(found[-1]):
            return
    raise AssertionError(found)


def test_a_burst_leaves_room_for_the_reader(open_page: OpenPage, server: Relay, model: Model) -> None:
    """10,000 tokens in one read: all else has its turn again within 0.1 s, or, on a busy machine, before a third of it.

    Here they are 100 events: to a browser that is driven by a test each one costs 0.1 ms more than to a reader's.
    """

    def measure() -> dict[str, Any]:
        page = open_page(server.url)
        ask(page, "Hi")
        call = model.next()
        page.evaluate(WATCH_TURNS)
        call.tokens(["".join(BURST[at : at + 100]) for at in range(0, len(BURST), 100)])
        call.end()
        began = time.monotonic()
        whole = "".join(BURST).replace("**", "").replace("\n", "")
        page.wait_for_function("(whole) => document.querySelector('.answer .text').textContent === whole", arg=whole)
        found = watched(page) | {"seconds": time.monotonic() - began}
        page.close()
        return {
            "longest": round(found["longest"]),
            "share": round(found["most"] / len(whole), 2),
            "seconds": round(found["seconds"], 2),
        }

    best_of(TRIES, lambda found: found["longest"] < 100 or found["share"] < 1 / 3, measure)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("slower", "frames", "key_ms"), [(1, 50, 50), (4, 30, 100)])
def test_the_end_of_a_long_answer_is_as_smooth_as_its_beginning(
    open_page: OpenPage, server: Relay, model: Model, slower: int, frames: int, key_ms: int
) -> None:
    """200 tokens a second behind 8,000, while somebody writes, on a fast machine and on a slow one.

    `frames` a second at least and `key_ms` at most from key to paint, or, on a busy machine, hardly worse than with the
    first tokens.
    """

    def smoothness(before: int) -> tuple[float, float]:
        """Return the frames of the second slowest second (one may belong to somebody else), and the slowest key."""
        page = open_page(server.url)
        ask(page, "Hi")
        call = model.next()
        call.tokens([*BURST[:before], "**begin**"])
        expect(answer(page)).to_contain_text("begin")
        slow_down(page, slower)
        page.evaluate(WATCH_TURNS)
        speaking = threading.Thread(target=call.pace, args=(BURST[:PACED_TOKENS], 1 / TOKENS_A_SECOND))
        speaking.start()
        page.get_by_role("textbox").press_sequentially("x" * 30, delay=100)
        speaking.join()
        found = watched(page)
        call.end()
        complete(page)
        page.close()
        return round(sorted(found["seconds"])[1]), max(found["keys"], default=0)

    def measure() -> dict[str, Any]:
        return {"begin": smoothness(0), "end": smoothness(8000)}

    def fits(found: dict[str, Any]) -> bool:
        (begin_frames, begin_key), (end_frames, end_key) = found["begin"], found["end"]
        return end_frames >= min(frames, 0.7 * begin_frames) and end_key <= max(key_ms, 2 * begin_key)

    best_of(LONG_TRIES, fits, measure)


def test_what_was_shown_is_let_go(open_page: OpenPage, server: Relay, model: Model) -> None:
    page = open_page(server.url)
    cdp = page.context.new_cdp_session(page)

    def kept_after(answers: int) -> tuple[float, int, int]:
        for number in range(answers):
            ask(page, f"question {number}")
            call = model.next()
            call.think("Hm")
            call.tokens(BURST[:500])
            call.token("\n\n```\ncode\n```\n\n| a |\n|---|\n| b |\n")
            call.end()
            complete(page)
        page.get_by_role("link", name="New chat").click()
        expect(page.locator(".turn")).to_have_count(0)
        cdp.send("HeapProfiler.collectGarbage")
        cdp.send("HeapProfiler.collectGarbage")
        counters = cdp.send("Memory.getDOMCounters")
        return cdp.send("Runtime.getHeapUsage")["usedSize"], counters["nodes"], counters["jsEventListeners"]

    heap, nodes, listeners = kept_after(10)
    heap_later, nodes_later, listeners_later = kept_after(20)
    print(f"heap {heap / 1e6:.2f} MB, then {heap_later / 1e6:.2f}; nodes {nodes}, then {nodes_later}")
    assert heap_later <= heap * 1.1
    assert nodes_later <= nodes + 2 * 20  # what a textarea keeps of each question, to undo it
    assert listeners_later <= listeners
