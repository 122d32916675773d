"""What answers at an address may be anything: each is measured, and none breaks the doctor."""

import time
from collections.abc import Callable

import pytest

from streaming.doctor import site as sites
from streaming.doctor.measured import Unreachable, Upgrade
from streaming.doctor.site import Site
from tests.live import Call, free_port, scripted

PROBE = (
    b": resume\nretry: 2000\n\n"
    b'event: start\ndata: {"instance":"a1B2","shared_store":false,"seq":0,"protocol":"HTTP/1.1","host":"h",'
    b'"heartbeat_seconds":15.0,"stream_max_seconds":0.0,"retry_ms":2000,"compress":"auto"}\n\n'
    b'id: a1B2.1\ndata: {"seq":1,"sent_ms":0.5}\n\n: ping\n\n'
)


def watched(script: Callable[[Call], object], **more: object) -> tuple[sites.Stream, Call]:
    with scripted(script) as server:
        stream = Site(f"http://127.0.0.1:{server.port}/base/", "k1").watch(frames=2, interval=0.01, **more)  # type: ignore[arg-type]
        return stream, server.calls[0]


def sending(*pieces: bytes, content_type: str = "text/event-stream", whole: bool = True) -> Callable[[Call], None]:
    def script(call: Call) -> None:
        call.start(content_type=content_type)
        for piece in pieces:
            call.chunk(piece)
        if whole:
            call.finish()
        else:
            call.connection.close()

    return script


def test_a_probe_is_asked_for_below_the_path_with_the_key() -> None:
    stream, call = watched(sending(PROBE, b"event: end\ndata: {}\n\n"), headers={"Last-Event-ID": "a1B2.0"})
    assert call.path == "/base/probe?frames=2&interval_ms=10&silence_seconds=0.0"
    assert (call.headers["authorization"], call.headers["last-event-id"]) == ("Bearer k1", "a1B2.0")
    assert (call.headers["accept-encoding"], call.headers["x-request-id"]) == ("identity", stream.request_id)
    assert stream.start is not None
    assert (stream.start.instance, stream.ended, stream.cut) == ("a1B2", True, False)
    assert [(frame.seq, frame.cursor, frame.sent) for frame in stream.frames] == [(1, "a1B2.1", 0.0005)]
    assert len(stream.pings) == 1


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(sending(PROBE, whole=False), id="cut"),
        pytest.param(sending(PROBE, b"data: {}\n\n"), id="a frame that is none"),
        pytest.param(sending(PROBE, b"x" * 100_000), id="a line without an end"),
        pytest.param(sending(PROBE), id="no end"),
    ],
)
def test_what_breaks_off_keeps_what_came(script: Callable[[Call], object]) -> None:
    stream, _ = watched(script)
    assert (len(stream.frames), stream.cut) == (1, True)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        pytest.param(sending(b"<html>", content_type="text/html"), 200, id="a page"),
        pytest.param(lambda call: call.answer(502, b"Bad Gateway"), 502, id="a router"),
        pytest.param(lambda call: call.connection.close(), 0, id="hangs up"),
    ],
)
def test_what_is_no_probe_has_no_start(script: Callable[[Call], object], status: int) -> None:
    stream, _ = watched(script)
    assert (stream.answer.status, stream.start, stream.frames) == (status, None, [])


def test_leaving_early_hangs_up() -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(PROBE)
        call.await_close()

    stream, call = watched(script, leave_after=1)
    assert (len(stream.frames), call.closed.wait(5)) == (1, True)


def test_a_stream_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "PATIENCE_SECONDS", 0.3)

    def script(call: Call) -> None:
        call.start()
        while True:
            call.chunk(b": on and on\n\n")
            time.sleep(0.01)

    stream, _ = watched(script)
    assert stream.cut


def test_a_redirect_is_reported_and_not_followed() -> None:
    with scripted(lambda call: call.answer(301, b"", "Location: https://other.example/")) as server:
        answer = Site(f"http://127.0.0.1:{server.port}").get("/healthz")
        assert len(server.calls) == 1
    assert (answer.status, answer.headers["location"]) == (301, "https://other.example/")


@pytest.mark.parametrize(
    ("head", "upgrade"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Upgrade(0)),  # a proxy that passes the status and not the rest
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", Upgrade(426)),
        (b"nonsense\r\n\r\n", Upgrade(0)),
        (b"", Upgrade(0)),
    ],
)
def test_a_handshake_that_is_none(head: bytes, upgrade: Upgrade) -> None:
    def script(call: Call) -> None:
        call.send(head)
        call.connection.close()

    with scripted(script) as server:
        assert Site(f"http://127.0.0.1:{server.port}").upgrade() == upgrade
    assert server.calls[0].path == "/ws"


def test_why_nothing_answers() -> None:
    def trouble(url: str) -> str:
        with pytest.raises(Unreachable) as caught:
            Site(url).get("/healthz")
        return caught.value.trouble

    assert trouble(f"http://127.0.0.1:{free_port()}") == "refused"
    assert trouble("http://nowhere.invalid") == "dns"
    with scripted(lambda call: call.connection.close()) as server:
        assert trouble(f"http://127.0.0.1:{server.port}") == "broken"


def test_a_silent_address_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "PATIENCE_SECONDS", 0.2)
    with scripted(lambda call: call.await_close()) as server, pytest.raises(Unreachable) as caught:
        Site(f"http://127.0.0.1:{server.port}").get("/healthz")
    assert caught.value.trouble == "timeout"
