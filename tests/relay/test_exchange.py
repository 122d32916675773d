"""One call to an upstream on a real socket: framing, limits, failures, stops."""

import gzip
import json
import queue
import socket
import time
import zlib
from pathlib import Path

import gevent
import pytest

from streaming.relay import exchange as exchange_module
from streaming.relay.interrupt import Interrupted
from streaming.wire.errors import Failure
from streaming.wire.events import Event, Token
from tests.live import Call, free_port, scripted, wait_until
from tests.relay.support import DONE, FINISH, Collector, dify, exchange, kept_session, openai, token_chunk


class Watched(Collector):
    """A collector that hands each event to a waiting test."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: queue.Queue[Event] = queue.Queue()

    def append(self, event: Event) -> None:
        super().append(event)
        self.arrived.put(event)


class Framing:
    """Ways to put a body on the wire; `write` sends a piece at once, `end` closes the body."""

    def __init__(self, name: str, call: Call, total_bytes: int) -> None:
        self.name, self.call = name, call
        self.deflate = zlib.compressobj(wbits=31)
        header = {
            "chunked": "Transfer-Encoding: chunked",
            "gzip": "Transfer-Encoding: chunked\r\nContent-Encoding: gzip",
            "length": f"Content-Length: {total_bytes}",
            "close": "Connection: close",
        }[name]
        call.send(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{header}\r\n\r\n".encode())

    def write(self, data: bytes) -> None:
        if self.name == "gzip":
            data = self.deflate.compress(data) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        self.call.chunk(data) if self.name in {"gzip", "chunked"} else self.call.send(data)

    def end(self) -> None:
        if self.name == "gzip":
            self.call.chunk(self.deflate.flush())
        if self.name in {"gzip", "chunked"}:
            self.call.finish()
        elif self.name == "close":
            self.call.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("framing", ["chunked", "gzip", "length", "close"])
def test_a_token_is_seen_before_the_next_one_is_sent_in_every_framing(framing: str) -> None:
    sink = Watched()
    pieces = [token_chunk("你"), token_chunk("好"), token_chunk(" 👋"), FINISH]

    def script(call: Call) -> None:
        body = Framing(framing, call, sum(map(len, pieces)))
        for piece in pieces[:3]:
            body.write(piece)
            assert isinstance(sink.arrived.get(timeout=10), Token)  # only then the next one leaves
        body.write(pieces[3])
        body.end()

    with scripted(script) as upstream:
        verdict = exchange(openai(upstream.url), sink).run()
    assert [event.text for event in sink.events] == ["你", "好", " 👋"]
    assert (verdict.reason, verdict.finish_reason) == ("done", "stop")


def test_the_request_carries_the_key_and_asks_for_an_uncompressed_stream() -> None:
    with scripted(lambda call: call.answer(200, FINISH, "Content-Type: text/event-stream")) as upstream:
        exchange(openai(upstream.url)).run()
        call = upstream.calls[0]
    assert (call.method, call.path) == ("POST", "/v1/chat/completions")
    assert call.headers["authorization"] == "Bearer sk-test"
    assert call.headers["accept-encoding"] == "identity"
    assert call.headers["accept"] == "text/event-stream"
    assert "cookie" not in call.headers


def test_proxies_netrc_and_cookies_change_neither_where_a_prompt_goes_nor_with_what_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    session = kept_session()
    answer = "Content-Type: text/event-stream\r\nSet-Cookie: a=b"
    with scripted(lambda call: call.answer(200, FINISH, answer)) as upstream:
        for _ in range(2):
            exchange(openai(upstream.url), session=session).run()
        assert "cookie" not in upstream.calls[1].headers
        assert [call.headers["authorization"] for call in upstream.calls] == ["Bearer sk-test"] * 2


# -- failures ----------------------------------------------------------------------------------------------------------


def failing(script: object, **limits: float) -> Failure:
    with scripted(script) as upstream, pytest.raises(Failure) as caught:  # type: ignore[arg-type]
        exchange(openai(upstream.url), **limits).run()
    return caught.value


def start_then(call: Call, *pieces: bytes) -> None:
    call.start()
    for piece in pieces:
        call.chunk(piece)


def hang_up(call: Call) -> None:
    call.connection.shutdown(socket.SHUT_RDWR)


def reset(call: Call) -> None:
    call.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    call.connection.close()


FAILURES = {
    "hang-up before headers": (hang_up, "upstream_truncated"),
    "hang-up after headers": (lambda call: (start_then(call), hang_up(call)), "upstream_truncated"),
    "hang-up in mid-event": (
        lambda call: (start_then(call, token_chunk("a")[:9]), hang_up(call)),
        "upstream_truncated",
    ),
    "reset after a token": (lambda call: (start_then(call, token_chunk("a")), reset(call)), "upstream_truncated"),
    "hang-up in a character": (
        lambda call: (start_then(call, b'data: {"choices":[{"delta":{"content":"\xe4\xbd'), hang_up(call)),
        "upstream_truncated",
    ),
    "not HTTP": (lambda call: (call.send(b"SSH-2.0-x\r\n\r\n"), hang_up(call)), "upstream_truncated"),
    "a page instead of a stream": (
        lambda call: call.answer(200, b"<html>", "Content-Type: text/html"),
        "upstream_invalid",
    ),
    "JSON instead of a stream": (lambda call: call.answer(200, b"{}"), "upstream_invalid"),
    "no JSON inside": (lambda call: start_then(call, b"data: hello\n\n"), "upstream_invalid"),
    "a redirect": (lambda call: call.answer(302, b"", "Location: http://127.0.0.1:1/"), "upstream_rejected"),
    "wrong key": (lambda call: call.answer(401, b'{"error":{"message":"bad key sk-test"}}'), "upstream_auth"),
    "busy": (lambda call: call.answer(429, b"{}", "Retry-After: 7"), "upstream_busy"),
    "a proxy's 502": (lambda call: call.answer(502, b"<html>", "Content-Type: text/html"), "upstream_unreachable"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_each_failure_gets_its_code(case: str) -> None:
    script, code = FAILURES[case]
    assert failing(script).code == code


def test_an_answer_that_ends_cleanly_without_its_last_word_is_truncated() -> None:
    def script(call: Call) -> None:
        start_then(call, token_chunk("a"))
        call.finish()

    with scripted(script) as upstream:
        verdict = exchange(openai(upstream.url)).run()
    assert verdict.failure is not None
    assert verdict.failure.code == "upstream_truncated"


def test_nobody_listening_is_unreachable() -> None:
    with pytest.raises(Failure) as caught:
        exchange(openai(f"http://127.0.0.1:{free_port()}/v1")).run()
    assert caught.value.code == "upstream_unreachable"


def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    with pytest.raises(Failure) as caught:
        exchange(openai("http://no-such-host.invalid/v1")).run()
    assert caught.value.code == "upstream_unreachable"


def test_an_endless_event_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.wire.sse.MAX_EVENT_BYTES", 1000)
    monkeypatch.setattr("streaming.wire.sse.Decoder.__init__.__defaults__", (1000,))
    assert failing(lambda call: start_then(call, b"data: " + b"x" * 5000)).code == "upstream_invalid"


def silent(call: Call) -> None:
    call.await_close()


def test_silence_before_and_after_headers_ends_at_the_idle_timeout() -> None:
    assert failing(silent, idle_seconds=0.2).code == "upstream_timeout"
    assert failing(lambda call: (start_then(call), silent(call)), idle_seconds=0.2).code == "upstream_timeout"


def keep_alive(call: Call) -> None:
    """Comments and pings for ever, never an event."""
    call.start()
    while True:
        call.chunk(b": keep-alive\n\nevent: ping\n\n")
        gevent.sleep(0.05)


def test_keep_alives_hold_off_the_idle_timeout_but_not_the_progress_timeout() -> None:
    begun = time.monotonic()
    failure = failing(keep_alive, idle_seconds=0.3, progress_seconds=1.0)
    assert failure.code == "upstream_timeout"
    assert time.monotonic() - begun >= 1.0  # so it was not the idle timeout


def test_the_last_word_is_awaited_for_a_short_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "LAST_WORD_SECONDS", 0.2)
    begun = time.monotonic()
    with scripted(lambda call: (start_then(call, token_chunk("a"), FINISH), silent(call))) as upstream:
        verdict = exchange(openai(upstream.url)).run()
    assert time.monotonic() - begun < 15  # not at the idle timeout
    assert (verdict.reason, verdict.finish_reason) == ("done", "stop")


@pytest.mark.parametrize("ending", [hang_up, reset])
def test_a_connection_that_breaks_after_the_finish_is_a_success(ending: object) -> None:
    with scripted(lambda call: (start_then(call, token_chunk("a"), FINISH), ending(call))) as upstream:  # type: ignore[operator]
        assert exchange(openai(upstream.url)).run().reason == "done"


# -- connections -------------------------------------------------------------------------------------------------------


def whole_answer(call: Call) -> None:
    start_then(call, token_chunk("a"), FINISH, DONE)
    call.finish()


def test_a_finished_connection_is_kept_and_used_again() -> None:
    session, sinks = kept_session(), [Collector(), Collector()]
    with scripted(whole_answer) as upstream:
        for sink in sinks:
            call = exchange(openai(upstream.url), sink, session=session)
            call.run()
            call.close()
        ports = {each.connection.getpeername()[1] for each in upstream.calls}
    assert len(ports) == 1
    assert sinks[0].acceptances[0] is not None  # a new connection was made, and timed
    assert sinks[1].acceptances[0] is None


def test_a_kept_connection_that_died_is_replaced_once() -> None:
    """llama.cpp promises keep-alive and closes; here it closes when the next request has been sent."""
    session = kept_session()

    def script(call: Call) -> None:
        if len(upstream.calls) == 2:
            hang_up(call)
        else:
            whole_answer(call)

    with scripted(script) as upstream:
        for _ in range(2):
            call = exchange(openai(upstream.url), session=session)
            assert call.run().reason == "done"
            call.close()
        assert len(upstream.calls) == 3


def test_a_new_connection_that_dies_is_not_tried_again() -> None:
    with scripted(hang_up) as upstream:
        with pytest.raises(Failure):
            exchange(openai(upstream.url)).run()
        gevent.sleep(0)
        assert len(upstream.calls) == 1


# -- stops -------------------------------------------------------------------------------------------------------------


def stopped(call: object) -> float:
    """Stop a running exchange; return the seconds until it was over."""
    greenlet = gevent.spawn(call.run)  # type: ignore[attr-defined]
    gevent.sleep(0)
    return _stop(call, greenlet)


def _stop(call: object, greenlet: gevent.Greenlet, within_seconds: float = 3) -> float:
    begun = time.monotonic()
    call.stop(within_seconds)  # type: ignore[attr-defined]
    greenlet.join(10)
    assert greenlet.ready()
    assert isinstance(greenlet.value, Interrupted)  # gevent hands a GreenletExit over as the value
    call.close()  # type: ignore[attr-defined]
    return time.monotonic() - begun


@pytest.mark.parametrize("stage", ["before headers", "in silence", "between tokens"])
def test_a_stop_closes_the_connection_within_a_second_at_every_stage(stage: str) -> None:
    sink = Watched()

    def script(call: Call) -> None:
        if stage != "before headers":
            call.start()
        if stage == "between tokens":
            call.chunk(token_chunk("a"))

    with scripted(script) as upstream:
        call = exchange(openai(upstream.url), sink)
        greenlet = gevent.spawn(call.run)
        seen = upstream.next_call()
        if stage == "in silence":
            wait_until(lambda: sink.acceptances, "the headers came")
        if stage == "between tokens":
            sink.arrived.get(timeout=10)
        assert _stop(call, greenlet) < 1
        assert seen.await_close(1)
    assert call.upstream_stop == "closed"


def test_a_stop_works_while_connecting() -> None:
    with socket.socket() as full:  # a listener whose backlog is full answers no SYN
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        call = exchange(openai(f"http://127.0.0.1:{full.getsockname()[1]}/v1"))
        assert stopped(call) < 1
        for filler in fillers:
            filler.close()


def test_a_stop_before_the_call_began_makes_no_call() -> None:
    with scripted(whole_answer) as upstream:
        call = exchange(openai(upstream.url))
        call.stop(3)
        with pytest.raises(Interrupted):
            call.run()
        assert upstream.calls == []
        assert call.upstream_stop is None


MESSAGE = b'data: {"event":"message","task_id":"task-1","conversation_id":"c-1","answer":"a"}\n\n'
MESSAGE_END = b'data: {"event":"message_end","task_id":"task-1","conversation_id":"c-1","metadata":{}}\n\n'


def test_dify_is_stopped_by_request_and_read_to_its_terminal_event() -> None:
    """Closing first would lose the answer and not stop the model."""
    sink = Watched()
    order: list[str] = []

    def script(call: Call) -> None:
        if call.path.endswith("/stop"):
            order.append("stop")
            call.answer(200, b'{"result":"success"}')
            return
        call.start()
        call.chunk(MESSAGE)
        wait_until(lambda: order, "the stop call came")
        call.chunk(MESSAGE_END)
        order.append("terminal event")
        call.finish()
        order.append("closed" if call.await_close(0.2) else "open")

    with scripted(script) as upstream:
        call = exchange(dify(upstream.url), sink)
        greenlet = gevent.spawn(call.run)
        sink.arrived.get(timeout=10)
        call.stop(3)
        greenlet.join(10)
        stop = next(each for each in upstream.calls if each.path.endswith("/stop"))
        assert stop.path == "/v1/chat-messages/task-1/stop"
        assert stop.body == b'{"user":"abc-123"}'
        call.close()
    assert order[:2] == ["stop", "terminal event"]
    assert call.upstream_stop == "confirmed"


def test_a_stop_without_a_task_id_awaits_it() -> None:
    def script(call: Call) -> None:
        if call.path.endswith("/stop"):
            call.answer(200, b'{"result":"success"}')
            return
        call.start()
        begun.set()
        stopping.wait(10)
        call.chunk(MESSAGE)  # only now the task is known
        wait_until(lambda: len(upstream.calls) == 2, "the stop call came")
        call.chunk(MESSAGE_END)

    begun, stopping = gevent.event.Event(), gevent.event.Event()
    with scripted(script) as upstream:
        call = exchange(dify(upstream.url))
        greenlet = gevent.spawn(call.run)
        begun.wait(10)
        call.stop(3)
        stopping.set()
        greenlet.join(10)
        assert call.upstream_stop == "confirmed"
        call.close()


class Full(Collector):
    """A collector that takes nothing more."""

    def append(self, event: Event) -> None:
        raise Failure("run_too_large")


def test_an_answer_that_is_cut_at_its_last_word_is_not_read_on() -> None:
    last = {"event": "workflow_finished", "task_id": "t", "data": {"status": "succeeded", "outputs": {"text": "a"}}}

    def script(call: Call) -> None:
        if call.path.endswith("/stop"):
            call.answer(200, b'{"result":"success"}')
            return
        start_then(call, b"data: %s\n\n" % json.dumps(last).encode())
        call.await_close()

    with scripted(script) as upstream:
        call = exchange(dify(upstream.url, "workflow"), Full())
        with pytest.raises(Failure, match="larger"):
            call.run()
        call.close()
        assert upstream.calls[0].closed.wait(10)


def test_a_dify_run_that_is_cut_by_a_limit_is_stopped_too() -> None:
    """Closing the connection alone would leave the model running, and billed."""

    def script(call: Call) -> None:
        if call.path.endswith("/stop"):
            call.answer(200, b'{"result":"success"}')
            return
        call.start()
        call.chunk(MESSAGE)
        call.await_close()

    with scripted(script) as upstream:
        call = exchange(dify(upstream.url), idle_seconds=0.3)
        with pytest.raises(Failure) as caught:
            call.run()
        assert caught.value.code == "upstream_timeout"
        assert call.upstream_stop == "confirmed"
        assert upstream.calls[1].path == "/v1/chat-messages/task-1/stop"
        assert upstream.calls[0].closed.wait(5)


def test_an_upstream_faster_than_we_read_does_not_hold_the_process() -> None:
    """No recv ever waits then, so no other greenlet would run: not the limits, not the heartbeat of the worker."""
    flood = b'data: {"choices":[]}\n\n' * 500

    def script(call: Call) -> None:
        call.start()
        while True:
            call.chunk(flood)

    with scripted(script) as upstream:
        call = exchange(openai(upstream.url))
        greenlet = gevent.spawn(call.run)
        upstream.next_call()
        for _ in range(20):
            gevent.sleep(0.001)  # comes back only if the reader gives way
        assert _stop(call, greenlet) < 5


@pytest.mark.parametrize("stage", ["before headers", "after a stop that it ignores"])
def test_a_dify_that_does_not_end_is_left_after_a_bounded_time(stage: str) -> None:
    def script(call: Call) -> None:
        if call.path.endswith("/stop"):
            call.answer(500, b"{}")
        elif stage != "before headers":
            call.start()
            call.chunk(MESSAGE)

    with scripted(script) as upstream:
        sink = Watched()
        call = exchange(dify(upstream.url), sink)
        greenlet = gevent.spawn(call.run)
        seen = upstream.next_call()
        if stage != "before headers":
            sink.arrived.get(timeout=10)
        assert _stop(call, greenlet, 0.3) < 1.3
        assert seen.await_close(1)
    assert call.upstream_stop == "failed"


def test_gzip_is_what_the_test_says() -> None:
    """Guards the framing table above: a piece that was not flushed would only come out at the end."""
    deflate = zlib.compressobj(wbits=31)
    first = deflate.compress(b"abc") + deflate.flush(zlib.Z_SYNC_FLUSH)
    assert zlib.decompressobj(wbits=31).decompress(first) == b"abc"
    assert gzip.decompress(first + deflate.flush()) == b"abc"
