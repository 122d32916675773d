"""Compression on real sockets: who gets it, that no token waits in it, and that a cut shows through it."""

import http.client
import json
import queue
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from streaming.web.compression import (
    BODY_CODINGS,
    ENCODERS,
    MIN_BODY_BYTES,
    STREAM_CODINGS,
    TURN_BYTES,
    chosen,
    encoded,
    refuses_identity,
    whole,
    zstd,
)
from tests.live import WAIT_SECONDS, Call, Relay, ScriptedUpstream, relay, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import Response, request, sse_events
from tests.web.conftest import quick
from tests.web.test_property import TEXTS, complete_events

CODINGS = ["gzip", "zstd"]
FORMATS = ["sse", "ndjson", "text"]
PATIENT = {"DISCONNECT_GRACE_SECONDS": "20", "HEARTBEAT_SECONDS": "0.2"}


@pytest.fixture(scope="module")
def _all(_upstream: ScriptedUpstream) -> Iterator[Relay]:
    with relay(UPSTREAM="openai", UPSTREAM_URL=_upstream.url, UPSTREAM_MODEL="m", COMPRESS="all", **PATIENT) as server:
        yield server


@pytest.fixture
def compressing(_all: Relay, upstream: ScriptedUpstream) -> Iterator[Relay]:
    """A relay with COMPRESS=all in front of `upstream`."""
    yield _all
    upstream.script = quick  # what other fixtures expect
    wait_until(lambda: _all.counts()["unfinished"] == 0, "every run has ended")


class Identity:
    """The decoder of what is not encoded."""

    eof = True
    unused_data = b""

    def decompress(self, data: bytes) -> bytes:
        return data


def decoder_of(coding: str) -> Any:
    return {"gzip": lambda: zlib.decompressobj(31), "zstd": zstd.ZstdDecompressor, "identity": Identity}[coding]()


class Body:
    """A body, decoded write by write. `text` is what the client can read so far."""

    def __init__(self, response: Response) -> None:
        self.text = b""
        self.wire_bytes = 0  # with the framing of chunks
        self._response = response
        self._chunks = response.chunks()
        self._decoder = decoder_of(response.headers.get("content-encoding", "identity"))

    def await_text(self, text: bytes) -> None:
        """Read on until that can be read."""
        while text not in self.text:
            self._take(next(self._chunks))

    def rest(self) -> bytes:
        """Read to the end; return the whole text."""
        for chunk in self._chunks:
            self._take(chunk)
        return self.text

    def _take(self, chunk: bytes) -> None:
        self.wire_bytes += len(b"%x\r\n\r\n" % len(chunk)) + len(chunk)
        text = self._decoder.decompress(chunk)
        assert text or self._decoder.eof, "a write from which nothing can be read"
        self.text += text

    @property
    def whole(self) -> tuple[bool, bool]:
        """Return whether the trailer was seen, with nothing behind it, and whether the last chunk was."""
        return self._decoder.eof and not self._decoder.unused_data, self._response.complete


def accepting(coding: str) -> dict[str, str]:
    return {"Accept-Encoding": coding}


class Spoken:
    """An upstream's script: the test says the tokens; None ends well, "cut" breaks off."""

    def __init__(self) -> None:
        self.say: queue.Queue[str | None] = queue.Queue()

    def __call__(self, call: Call) -> None:
        call.start()
        while (text := self.say.get(timeout=WAIT_SECONDS)) is not None:
            if text == "cut":
                call.finish()
                return
            call.chunk(token_chunk(text))
        call.chunk(FINISH + DONE)
        call.finish()


# -- what is compressed ------------------------------------------------------------------------------------------------

WHAT = {  # setting -> what is compressed of: live streams, replays, JSON
    "auto": ({"ndjson"}, {"sse", "ndjson", "text"}, True),
    "all": ({"sse", "ndjson", "text"}, {"sse", "ndjson", "text"}, True),
    "off": (set(), set(), False),
}


@pytest.mark.parametrize("compress", WHAT)
def test_the_setting_decides_what_is_compressed(compress: str, upstream: ScriptedUpstream) -> None:
    live, replayed, bodies = WHAT[compress]
    upstream.script = long_answer
    names = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "COMPRESS": compress}
    with relay(**names) as server:
        found: list[tuple[set[str], set[str]]] = [(set(), set()), (set(), set())]
        for format_ in FORMATS:
            with request(f"{server.url}/stream?prompt=hi&format={format_}", headers=accepting("gzip")) as response:
                run_id = response.headers["x-run-id"]
                note(response, format_, *found[0])
            with request(f"{server.url}/runs/{run_id}/events?format={format_}", headers=accepting("gzip")) as response:
                note(response, format_, *found[1])
        varying = set() if compress == "off" else set(FORMATS)
        assert found == [(live, varying), (replayed, varying)]
        for path in (f"/runs/{run_id}", f"/runs/{run_id}/events?format=json"):
            with request(server.url + path, headers=accepting("gzip")) as response:
                assert (response.headers.get("content-encoding") == "gzip") is bodies
                assert ("accept-encoding" in response.headers.get("vary", "").lower()) is bodies


def note(response: Response, format_: str, compressed: set[str], varying: set[str]) -> None:
    """Read a response to its end; note whether it was compressed, and whether caches are told that it could be."""
    body = Body(response)
    assert body.rest()
    assert body.whole == (True, True)
    if "content-encoding" in response.headers:
        compressed.add(format_)
    if "accept-encoding" in response.headers.get("vary", "").lower():
        varying.add(format_)


def long_answer(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("word " * 400) + FINISH + DONE)
    call.finish()


CHOICES = [  # header, of a stream, of a whole body
    ("gzip", "gzip", "gzip"),
    ("GZip ; Q=0.5", "gzip", "gzip"),
    ("zstd", "zstd", "zstd"),
    ("gzip, deflate, br, zstd", "gzip", "zstd"),
    ("gzip;q=0.5, zstd;q=0.8", "zstd", "zstd"),
    ("zstd;q=0, gzip;q=0.1", "gzip", "gzip"),
    ("gzip;q=0, zstd", "zstd", "zstd"),
    ("*", "gzip", "gzip"),
    ("gzip;q=0, *", None, None),
    ("*;q=0", None, None),
    ("*;q=0, zstd", "zstd", "zstd"),
    ("gzip;q=0.5, identity", None, None),
    ("gzip, identity;q=0.5", "gzip", "gzip"),
    ("gzip, *;q=0", "gzip", "gzip"),
    ("gzip;q=0", None, None),
    ("gzip;q=0, gzip;q=1", "gzip", "gzip"),
    ("identity", None, None),
    ("br, deflate", None, None),
    ("", None, None),
    ("gzip;q=much", None, None),
    (", ,;q=1,=", None, None),
]


@pytest.mark.parametrize(("header", "of_stream", "of_body"), CHOICES)
def test_the_client_chooses(header: str, of_stream: str | None, of_body: str | None) -> None:
    accepted = parse_accept_header(header, Accept)
    assert chosen(accepted, STREAM_CODINGS) == of_stream
    assert chosen(accepted, BODY_CODINGS) == of_body


@given(st.text(alphabet='gzipstdbr*,;q=.01 "\\\t', max_size=40))
def test_no_header_upsets_the_choice(header: str) -> None:
    accepted = parse_accept_header(header, Accept)
    assert chosen(accepted, STREAM_CODINGS) in {None, *CODINGS}
    assert refuses_identity(accepted) in {True, False}


@pytest.mark.parametrize(
    ("header", "coding"), [("gzip", None), ("gzip, identity;q=0", "gzip"), ("zstd, *;q=0", "zstd")]
)
def test_live_sse_is_left_alone_unless_the_client_refuses_that(header: str, coding: str | None, server: Relay) -> None:
    with request(f"{server.url}/stream?prompt=hi", headers=accepting(header)) as response:
        assert response.headers.get("content-encoding") == coding
        assert response.headers["cache-control"] == "no-cache, no-store, no-transform"
        response.body()


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("format_", FORMATS)
def test_each_token_can_be_read_before_the_next_is_sent(
    coding: str, format_: str, compressing: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.script = script = Spoken()
    url = f"{compressing.url}/stream?prompt=hi&format={format_}"
    with request(url, headers=accepting(coding)) as response:
        body = Body(response)
        assert response.headers["content-encoding"] == coding
        for number in range(40):
            script.say.put(f"<{number}>")
            body.await_text(f"<{number}>".encode())
        script.say.put(None)
        body.rest()
        assert body.whole == (True, True)


@pytest.mark.parametrize("coding", ["identity", *CODINGS])
def test_headers_and_start_leave_before_the_upstream_answers(
    coding: str, compressing: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.script = lambda call: call.await_close()
    for format_ in FORMATS:
        url = f"{compressing.url}/stream?prompt=hi&on_disconnect=cancel&format={format_}"
        with request(url, headers=accepting(coding)) as response:
            if format_ == "text":
                assert response.rest == b""  # the headers alone
            else:
                text = decoder_of(coding).decompress(next(response.chunks()))
                assert (b"start" in text, text.count(b'"run_id"')) == (True, 1)
            upstream.next_call()


@pytest.mark.parametrize(("format_", "ping"), [("sse", b": ping\n\n"), ("ndjson", b'{"type":"ping"}\n')])
def test_heartbeats_get_through(format_: str, ping: bytes, compressing: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = lambda call: call.await_close()
    url = f"{compressing.url}/stream?prompt=hi&on_disconnect=cancel&format={format_}"
    with request(url, headers=accepting("gzip")) as response:
        upstream.next_call()
        Body(response).await_text(ping * 2)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_breaks_off_looks_cut_in_every_layer(
    coding: str, compressing: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.script = script = Spoken()
    url = f"{compressing.url}/stream?prompt=hi&format=text"
    with request(url, headers=accepting(coding)) as response:
        body = Body(response)
        script.say.put("half")
        body.await_text(b"half")
        script.say.put("cut")
        assert body.rest() == b"half"
        assert body.whole == (False, False)
    script.say.put("cut")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(url, headers=accepting(coding), timeout=20)


def test_a_broken_body_looks_cut_over_http_1_0_too(compressing: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = script = Spoken()
    connection = http.client.HTTPConnection("127.0.0.1", compressing.port, timeout=20)
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
    connection.request("GET", "/stream?prompt=hi&format=text", headers=accepting("gzip"))
    response = connection.getresponse()
    script.say.put("half")
    decoder = decoder_of("gzip")
    while decoder.decompress(response.read1(100)) != b"half":
        pass
    script.say.put("cut")
    with pytest.raises(ConnectionResetError):
        response.read()
    connection.close()


@pytest.mark.parametrize("coding", CODINGS)
def test_other_peoples_clients_read_token_by_token(coding: str, server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = script = Spoken()
    url = f"{server.url}/stream?prompt=hi&format=ndjson"
    with requests.get(url, headers=accepting(coding), stream=True, timeout=20) as response:
        assert response.headers["Content-Encoding"] == coding
        lines = response.iter_lines(chunk_size=None)
        assert [json.loads(next(lines)) for _ in range(2)][1]["type"] == "start"
        script.say.put("a")
        while json.loads(next(lines)).get("text") != "a":
            pass
        script.say.put("b")
        while json.loads(next(lines)).get("text") != "b":
            pass
        script.say.put(None)
        assert json.loads(list(lines)[-1])["digest"]["bytes"] == 2


def test_500_tokens_take_a_third_of_the_bytes(compressing: Relay, upstream: ScriptedUpstream) -> None:
    words = [
        "the",
        "relay",
        "counts",
        "what",
        "it",
        "sends",
        "and",
        "stays",
        "calm",
        "over",
        "a",
        "quick",
        "lazy",
        "dog",
    ]
    tokens = [f" {words[number * 5 % len(words)]}" for number in range(500)]
    sizes: dict[str, int] = {}
    for coding in ("identity", "gzip"):
        upstream.script = script = Spoken()
        with request(f"{compressing.url}/stream?prompt=hi", headers=accepting(coding)) as response:
            body = Body(response)
            for number, token in enumerate(tokens, 3):
                script.say.put(token)
                body.await_text(b".%d\ndata" % number)  # so that each is flushed alone
            script.say.put(None)
            said = [json.loads(event.data)["text"] for event in sse_events(body.rest()) if event.type == "message"]
        sizes[coding] = body.wire_bytes
        assert said == tokens
    assert sizes["identity"] >= 3 * sizes["gzip"], sizes


# -- whole bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["identity", *CODINGS])
def test_json_is_compressed_from_a_kilobyte_on(coding: str, server: Relay, upstream: ScriptedUpstream) -> None:
    huge = "".join(f"{number} " for number in range(3 * TURN_BYTES // 5))
    for text, large in (("short", False), (huge, True)):
        upstream.script = script = Spoken()
        script.say.put(text)
        script.say.put(None)
        run_id = requests.post(f"{server.url}/runs", json={"prompt": "hi"}, timeout=20).json()["run_id"]
        with request(f"{server.url}/runs/{run_id}/events?format=json", headers=accepting(coding)) as response:
            body = response.body()
            assert response.headers["vary"] == "Accept-Encoding"
            assert response.headers.get("content-encoding", "identity") == (coding if large else "identity")
            assert coding == "identity" or not large or len(body) < len(text) / 2
            decoder = decoder_of(response.headers.get("content-encoding", "identity"))
            body = decoder.decompress(body)
            assert (decoder.eof, decoder.unused_data) == (True, b"")
        assert json.loads(body)["text"] == text
        assert (len(body) >= MIN_BODY_BYTES) is large


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
def test_a_streams_encoder_takes_little_memory(coding: str) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    events = [b'id: %d\ndata: {"text":" token %d"}\n\n' % (number, number) for number in range(200)]
    before, kept = resident_bytes(), []
    for _ in range(400):
        kept.append(ENCODERS[coding]())
        for event in events:
            kept[-1].write(event)
    assert (resident_bytes() - before) / len(kept) < 50 * 1024


def test_a_long_body_lets_others_have_their_turn() -> None:
    turns = 0

    def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    writes = [b"x" * 8192] * 64
    count = len(writes) * 8192 // TURN_BYTES
    watching = gevent.spawn(others)
    try:
        list(encoded((write for write in writes), ENCODERS["gzip"]()))
        assert turns >= count - 1
        turns = 0
        whole(b"".join(writes), "gzip")
        assert turns >= count - 1
    finally:
        watching.kill()


# -- the promise -------------------------------------------------------------------------------------------------------

VISITS = st.lists(
    st.tuples(
        st.sampled_from(["sse", "ndjson"]),
        st.sampled_from(["identity", *CODINGS]),
        st.sampled_from([0, 1, 30]),  # flush_ms
        st.integers(1, 700),  # bytes until the cut
    ),
    max_size=6,
)


def visit(url: str, format_: str, coding: str, cut_after: int | None) -> list[tuple[int, str, dict[str, Any]]]:
    """Return the whole events in what could be decoded before the cut; None = to the end."""
    with request(url, headers=accepting(coding)) as response:
        if response.status == 204:
            return []
        coding_used = response.headers.get("content-encoding", "identity")
        data, decoder = b"", decoder_of(coding_used)
        for chunk in response.chunks():
            data += chunk
            if cut_after is not None and len(data) >= cut_after:
                data = data[:cut_after]
                break
        else:
            assert response.complete
    text = decoder.decompress(data)
    assert coding_used == coding or text in {b"", b'{"type":"ping"}\n'}  # nothing is left to compress
    assert cut_after is not None or decoder.eof
    return complete_events(format_, text)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, visits=VISITS, last=st.sampled_from(CODINGS), write_sizes=st.lists(st.integers(1, 300), max_size=9))
def test_whatever_is_cut_nothing_is_lost_or_doubled(
    compressing: Relay,
    upstream: ScriptedUpstream,
    texts: list[str],
    visits: list[tuple[str, str, int, int]],
    last: str,
    write_sizes: list[int],
) -> None:
    wire = b"".join(map(token_chunk, texts)) + FINISH + DONE

    def script(call: Call) -> None:
        call.start()
        at = 0
        for size in [*write_sizes, len(wire)]:
            if wire[at : at + size]:
                call.chunk(wire[at : at + size])
            at += size
        call.finish()

    upstream.script = script
    with request(f"{compressing.url}/runs", "POST", json_body={"prompt": "hi"}) as started:
        url = f"{compressing.url}/runs/{started.json()['run_id']}/events"
    seen: list[tuple[int, str, dict[str, Any]]] = []
    for format_, coding, flush_ms, cut_after in visits:
        after = seen[-1][0] if seen else 0
        seen += visit(f"{url}?format={format_}&flush_ms={flush_ms}&after={after}", format_, coding, cut_after)
    after = seen[-1][0] if seen else 0
    if not seen or seen[-1][1] != "end":
        seen += visit(f"{url}?format=ndjson&after={after}", "ndjson", last, None)
    text = "".join(fields["text"] for _, type_, fields in seen if type_ == "token")
    assert text == "".join(texts)
    assert [seq for seq, _, _ in seen] == list(range(1, len(seen) + 1))
    assert [type_ for _, type_, _ in seen].count("end") == 1
    data = text.encode()
    assert seen[-1][2]["digest"] == {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}


@pytest.mark.parametrize("path", ["/embed.js", "/client.js", "/static/page.css"])
def test_the_pages_files_are_compressed_and_still_not_sent_twice(server: Relay, path: str) -> None:
    plain = requests.get(server.url + path, headers={"Accept-Encoding": "identity"}, timeout=20)
    packed = requests.get(server.url + path, headers={"Accept-Encoding": "gzip"}, timeout=20)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) < len(plain.content) / 2
    assert packed.content == plain.content
    again = {"Accept-Encoding": "gzip", "If-None-Match": packed.headers["ETag"]}
    assert requests.get(server.url + path, headers=again, timeout=20).status_code == 304
    part = requests.get(server.url + path, headers={"Accept-Encoding": "gzip", "Range": "bytes=0-99"}, timeout=20)
    assert (part.status_code, part.content) == (206, plain.content[:100])
