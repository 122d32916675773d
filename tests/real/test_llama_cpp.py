"""The relay before llama.cpp, a real inference engine: what it relays is what the official client gets."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests import live
from tests.live import Relay
from tests.real import clients
from tests.real.clients import Event, ask, ask_directly, events, log_of, post, stop, whole_run
from tests.real.servers import LlamaCpp, settings

# The prompts that the model knows by heart, each with a piece of the answer that it must hold.
FINITE = {
    "早上好": "小王 👨‍👩‍👧!",
    "Hello": '```python\nprint("你好\\n")\n```',
    "想一想：1+1=?": "</think>",
}
STORY = "讲一个很长的故事"  # its answer never ends
NOTICE_SECONDS = 2.0  # a second to notice that a reader left, and one to hang up on the upstream
STOP_SECONDS = 1.0


@pytest.mark.parametrize("format_name", clients.ACCEPT)
@pytest.mark.parametrize("prompt", FINITE)
def test_relayed_text_is_what_the_official_client_gets(
    llama: LlamaCpp, relay: Relay, prompt: str, format_name: str
) -> None:
    direct = ask_directly(llama, prompt)
    mark = llama.mark()
    relayed = ask(relay, prompt, format_name)
    assert FINITE[prompt] in direct.text
    assert relayed.text == direct.text
    assert relayed.end["reason"] == "done"
    assert relayed.finish == direct.finish == "stop"
    assert direct.usage is None  # this server never tells it in a stream
    assert relayed.end["usage"]["exact"] is False
    assert llama.calls(mark) == 1


def test_the_fallback_without_streaming_gives_the_same_text(llama: LlamaCpp, relay: Relay) -> None:
    body = {"prompt": "早上好", "options": clients.GREEDY}
    answer = requests.post(f"{relay.url}/chat", json=body, timeout=clients.TIMEOUT).json()
    assert clients.relayed(answer).text == ask_directly(llama, "早上好").text


def test_what_bounds_the_answer_is_told(llama: LlamaCpp, relay: Relay) -> None:
    direct = ask_directly(llama, STORY, max_tokens=60)
    relayed = ask(relay, STORY, options={"temperature": 0, "max_tokens": 60})
    assert relayed.text == direct.text
    assert relayed.end["reason"] == "done"
    assert relayed.finish == direct.finish == "length"


def test_thinking_that_the_server_leaves_in_the_text_stays_there(relay: Relay) -> None:
    relayed = ask(relay, "想一想：1+1=?")
    assert relayed.text.startswith("<think>")
    assert relayed.text.endswith("答案是 **2** ✅。")
    assert relayed.reasoning == ""


def test_a_second_turn_brings_the_first_along(llama: LlamaCpp, relay: Relay) -> None:
    first = ask(relay, "早上好")
    second = ask(relay, "Hello", conversation_id=first.conversation_id)
    assert second.text == ask_directly(llama, "早上好", first.text, "Hello").text
    assert second.text != ask_directly(llama, "Hello").text  # the history made the difference


def test_a_reader_who_leaves_stops_the_generation(llama: LlamaCpp, relay: Relay) -> None:
    mark = llama.mark()
    with post(relay, "sse", {"prompt": STORY, "on_disconnect": "cancel"}) as response:
        read_tokens(events(response), 20)
    llama.await_gone(mark, NOTICE_SECONDS)
    run = whole_run(relay, response.headers["X-Run-Id"])
    assert (run.end["reason"], run.end["upstream_stop"]) == ("abandoned", "closed")
    assert ask(relay, "早上好").end["reason"] == "done"  # the story would have gone on for minutes
    assert llama.calls(mark) == 2


def test_a_stop_ends_the_run_and_the_generation(llama: LlamaCpp, relay: Relay) -> None:
    mark = llama.mark()
    with post(relay, "ndjson", {"prompt": STORY, "on_disconnect": "cancel"}) as response:
        stream = events(response)
        begun = read_tokens(stream, 20)
        asked = time.monotonic()
        stopped = stop(relay, response.headers["X-Run-Id"])
        took = time.monotonic() - asked
        seen = clients.relayed(clients.fold([*begun, *stream]))
    assert took < STOP_SECONDS
    assert (stopped.status_code, stopped.json()["reason"]) == (200, "stopped")
    assert stopped.json()["upstream_stop"] == "closed"
    llama.await_gone(mark, STOP_SECONDS)
    assert seen.end["reason"] == "stopped"
    assert seen.text == whole_run(relay, seen.run_id).text
    assert ask(relay, "早上好").end["reason"] == "done"
    assert llama.calls(mark) == 2


def test_a_reader_cut_again_and_again_misses_nothing(llama: LlamaCpp, relay: Relay) -> None:
    """Cut at any byte, so in the middle of events and of characters too."""
    mark = llama.mark()
    seen: list[Event] = []
    with post(relay, "sse", {"prompt": STORY, "options": {"temperature": 0, "max_tokens": 500}}) as response:
        run_id = response.headers["X-Run-Id"]
        seen += cut_after(response, 400)
    for size in (1, 700, 1_501, 4_000, 7_001):
        with resume(relay, seen) as response:
            seen += cut_after(response, size)
    assert seen[-1]["type"] == "token"  # all the cuts were in mid-story
    with resume(relay, seen) as response:
        seen += events(response)
    with resume(relay, seen) as response:
        assert response.status_code == 204
    assert llama.calls(mark) == 1
    assert [event.pop("id") for event in seen] == [f"{run_id}.{number}" for number in range(1, len(seen) + 1)]
    log = log_of(relay, run_id)
    assert [event.pop("seq") for event in log] == list(range(1, len(seen) + 1))
    assert seen == log
    assert clients.relayed(clients.fold(seen)).text == ask_directly(llama, STORY, max_tokens=500).text


def test_a_second_ask_waits_for_the_server(llama: LlamaCpp, relay: Relay) -> None:
    """The server sends headers at once and nothing more while it is busy: that is no failure."""
    mark = llama.mark()
    with post(relay, "sse", {"prompt": STORY, "on_disconnect": "cancel"}) as first:
        first_stream = events(first)
        read_tokens(first_stream, 5)
        with post(relay, "sse", {"prompt": "早上好"}) as second:
            second_stream = events(second)
            waiting = [next(second_stream), next(second_stream)]
            assert [event["type"] for event in waiting] == ["start", "upstream"]
            read_tokens(first_stream, 50)
            stop(relay, first.headers["X-Run-Id"])
            answer = clients.relayed(clients.fold([*waiting, *second_stream]))
    assert answer.end["reason"] == "done"
    assert answer.text == ask_directly(llama, "早上好").text
    assert llama.calls(mark) == 3


def test_an_unknown_model_is_answered_by_the_one_there_is(llama: LlamaCpp) -> None:
    """This server's way; the relay neither minds nor hides it."""
    with live.relay(**settings(llama, UPSTREAM_MODEL="no-such-model")) as relay:
        relayed = ask(relay, "早上好")
    assert relayed.end["reason"] == "done"
    assert relayed.text == ask_directly(llama, "早上好").text


def test_a_wrong_key_is_named(llama: LlamaCpp) -> None:
    mark = llama.mark()
    with live.relay(**settings(llama, UPSTREAM_API_KEY="sk-wrong")) as relay:
        assert_fails(relay, "早上好", "upstream_auth", 502)
        assert "sk-wrong" not in relay.log()
    assert llama.calls(mark) == 1


def test_an_empty_answer_to_a_prompt_too_long_is_no_success() -> None:
    """The server answers 200 and ends without one event; the official client takes that for an empty answer."""
    prompt = "早上好" * 300
    with LlamaCpp(context_tokens=256) as small, live.relay(**settings(small)) as relay:
        direct = ask_directly(small, prompt)
        assert (direct.text, direct.finish) == ("", None)
        mark = small.mark()
        assert_fails(relay, prompt, "upstream_truncated", 502)
        assert small.calls(mark) == 1


def test_an_answer_that_another_request_interrupts_is_cut_off() -> None:
    """As the server is by default: [DONE] without a finish_reason, and the connection closed without its last chunk."""
    with LlamaCpp(interrupts=True) as server, live.relay(**settings(server)) as relay:
        with post(relay, "text", {"prompt": STORY}) as first, ThreadPoolExecutor() as pool:
            pieces = first.iter_content(None)
            received = [next(pieces)]
            second = pool.submit(ask, relay, "早上好")
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                received.extend(pieces)
        assert second.result().end["reason"] == "done"
        run = whole_run(relay, first.headers["X-Run-Id"])
        assert (run.end["reason"], run.code) == ("error", "upstream_truncated")
        assert run.text == b"".join(received).decode()


def test_a_server_that_dies_is_told_and_what_it_said_is_kept() -> None:
    with LlamaCpp() as server, live.relay(**settings(server)) as relay:
        with post(relay, "sse", {"prompt": STORY}) as response:
            stream = events(response)
            begun = read_tokens(stream, 20)
            server.kill()
            cut = clients.relayed(clients.fold([*begun, *stream]))
        assert (cut.end["reason"], cut.code) == ("error", "upstream_truncated")
        assert cut.text.startswith("".join(event["text"] for event in begun if event["type"] == "token"))
        assert_fails(relay, "早上好", "upstream_unreachable", 502)


# -- what these tests share --------------------------------------------------------------------------------------------


def assert_fails(relay: Relay, prompt: str, code: str, status: int) -> None:
    """Assert how a run fails that got no text."""
    with post(relay, "json", {"prompt": prompt}) as response:
        relayed = clients.relayed(response.json())
    assert (relayed.end["reason"], relayed.code, relayed.text) == ("error", code, "")
    assert response.status_code == relayed.end["error"]["status"] == status


def read_tokens(stream: Iterator[Event], count: int) -> list[Event]:
    """Return the events up to the count-th token."""
    seen: list[Event] = []
    while count:
        seen.append(next(stream))
        count -= seen[-1]["type"] == "token"
    return seen


def cut_after(response: requests.Response, size: int) -> list[Event]:
    """Read so many bytes of an SSE stream and hang up; return the events that arrived whole."""
    data = response.raw.read(size, decode_content=True)
    response.close()
    return list(clients.sse_events([data[: data.rfind(b"\n\n") + 2]]))


def resume(relay: Relay, seen: list[Event]) -> requests.Response:
    """Do what EventSource does: the same route again, with the last id."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": seen[-1]["id"]}
    return requests.get(f"{relay.url}/stream", headers=headers, stream=True, timeout=clients.TIMEOUT)
