"""The HTTP interface of a live relay: asking, refusing, following, stopping."""

import json
import queue
import socket
import time
import zlib

import pytest
import requests

from tests.live import Call, Relay, ScriptedUpstream, wait_until
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import read_head, request, sse_events

ANSWER = "你好 👋"


def held(call: Call) -> None:
    """A token, then silence until the relay hangs up."""
    call.start()
    call.chunk(token_chunk("a"))
    call.await_close()


def silent(call: Call) -> None:
    call.await_close()


# -- asking ------------------------------------------------------------------------------------------------------------

ASKS = {
    "query string": {"url": "/stream?prompt=hi"},
    "form": {"method": "POST", "url": "/stream", "body": b"prompt=hi"},
    "form in Chinese": {"method": "POST", "url": "/stream", "body": "prompt=你好".encode()},
    "JSON": {"method": "POST", "url": "/stream", "json_body": {"prompt": "hi"}},
    "Dify's name": {"method": "POST", "url": "/stream", "json_body": {"query": "hi", "response_mode": "streaming"}},
    "messages": {"method": "POST", "url": "/stream", "json_body": {"messages": [{"role": "user", "content": "hi"}]}},
    "messages in a form": {"method": "POST", "url": "/stream", "body": b'messages=[{"role":"user","content":"hi"}]'},
    "multipart": {
        "method": "POST",
        "url": "/stream",
        "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        "body": b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhi\r\n--x--\r\n',
    },
    "chunked body": {
        "method": "POST",
        "url": "/stream",
        "headers": {"Content-Type": "application/json", "Transfer-Encoding": "chunked", "Content-Length": ""},
        "body": b'10\r\n{"prompt": "hi"}\r\n0\r\n\r\n',
    },
}


@pytest.mark.parametrize("case", ASKS)
def test_every_way_to_ask_streams_the_answer(case: str, server: Relay, upstream: ScriptedUpstream) -> None:
    ask = dict(ASKS[case])
    if "Content-Length" in ask.get("headers", {}):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(
                b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n" + ask["body"]
            )
            events = read_head(connection).events()
    else:
        with request(server.url + ask.pop("url"), **ask) as response:
            assert response.status == 200
            events = response.events()
    assert "".join(json.loads(event.data)["text"] for event in events if event.type == "message") == ANSWER
    assert [events[0].type, events[-1].type] == ["start", "end"]
    assert len(upstream.calls) == 1


def test_the_four_formats_tell_the_same(server: Relay, upstream: ScriptedUpstream) -> None:
    run_id = requests.post(f"{server.url}/runs", json={"prompt": "hi"}, timeout=20).json()["run_id"]
    events = f"{server.url}/runs/{run_id}/events"
    with request(events) as sse, request(f"{events}?format=ndjson") as ndjson, request(f"{events}?format=text") as text:
        sse_log = [(int(event.id), event.type, json.loads(event.data)) for event in sse.events()]
        lines = [json.loads(line) for line in ndjson.body().split(b"\n") if line]
        assert text.body().decode() == ANSWER
        assert (sse.complete, ndjson.complete, text.complete) == (True, True, True)
    ndjson_log = [(line.pop("seq"), line.pop("type"), line) for line in lines if line != {"type": "ping"}]
    assert [(seq, type_.replace("message", "token"), data) for seq, type_, data in sse_log] == ndjson_log
    answer = requests.get(f"{events}?format=json", timeout=20)
    assert (answer.status_code, answer.json()["text"]) == (200, ANSWER)
    assert answer.json()["end"] == ndjson_log[-1][2]
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/event-stream; charset=utf-8"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/event-stream; charset=utf-8"),
        ("application/x-ndjson", "application/x-ndjson; charset=utf-8"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),  # axios, as it comes
        ("image/png", "text/event-stream; charset=utf-8"),
    ],
)
def test_accept_chooses_the_format(accept: str, content_type: str, server: Relay) -> None:
    with request(f"{server.url}/stream?prompt=hi", headers={"Accept": accept}) as response:
        assert response.headers["content-type"] == content_type
        response.body()


def test_the_headers_of_a_stream(server: Relay) -> None:
    with request(f"{server.url}/stream?prompt=hi", headers={"Accept-Encoding": "gzip", "X-Request-Id": "abc-1"}) as got:
        assert got.headers["cache-control"] == "no-cache, no-store, no-transform"
        assert got.headers["x-accel-buffering"] == "no"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["connection"] == "close"
        assert got.headers["x-request-id"] == "abc-1"
        assert got.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in got.headers
        assert "content-encoding" not in got.headers
        run_id = got.headers["x-run-id"]
        assert json.loads(got.events()[0].data)["run_id"] == run_id


# -- writes ------------------------------------------------------------------------------------------------------------


def test_the_first_write_leaves_before_the_upstream_answers_and_holds_the_start(
    server: Relay, upstream: ScriptedUpstream
) -> None:
    upstream.script = silent
    begun = time.monotonic()
    with request(f"{server.url}/stream?prompt=hi&on_disconnect=cancel") as response:
        first = next(response.chunks())
        assert time.monotonic() - begun < 5  # the upstream says nothing for ever; bench/ measures how fast this is
        assert first.startswith(b": ")
        assert b"retry: 2000\n" in first
        assert first.endswith(b"\n\n")
        assert [event.type for event in sse_events(first)] == ["start"]
        upstream.next_call()  # it comes after the first byte; the next test must not get it


@pytest.mark.parametrize(
    ("format_name", "first"), [("ndjson", b'{"type":"ping"}\n'), ("sse", b": resume"), ("text", b"a")]
)
def test_a_resume_in_silence_sends_its_headers_at_once(
    format_name: str, first: bytes, server: Relay, upstream: ScriptedUpstream
) -> None:
    release: queue.Queue[None] = queue.Queue()

    def script(call: Call) -> None:
        call.start()
        release.get(timeout=20)
        call.chunk(token_chunk("a"))
        call.await_close()

    upstream.script = script
    with request(f"{server.url}/stream?prompt=hi&on_disconnect=cancel") as begun:
        run_id = begun.headers["x-run-id"]
        wait_until(lambda: snapshot(server, run_id)["seq"] == 2, "the upstream has accepted")
        with request(f"{server.url}/runs/{run_id}/events?after=2&format={format_name}") as resumed:
            if format_name != "text":
                assert next(resumed.chunks()).startswith(first)
            release.put(None)
            data = next(resumed.chunks())
            while b"a" not in data.replace(b"data", b""):  # pings may come first
                data = next(resumed.chunks())


def snapshot(server: Relay, run_id: str) -> dict[str, object]:
    return requests.get(f"{server.url}/runs/{run_id}", timeout=20).json()  # type: ignore[no-any-return]


def test_silence_is_filled_with_pings(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    for format_name, ping in (("sse", b": ping\n\n"), ("ndjson", b'{"type":"ping"}\n')):
        with request(f"{server.url}/stream?prompt=hi&on_disconnect=cancel&format={format_name}") as response:
            chunks = response.chunks()
            while next(chunks) != ping:
                pass


def test_a_write_holds_whole_events_and_is_bounded(server: Relay, upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(b"".join(token_chunk(f"{n} " * 100) for n in range(1000)) + FINISH + DONE)
        call.finish()

    upstream.script = script
    with request(f"{server.url}/stream?prompt=hi&format=ndjson") as live:
        run_id = live.headers["x-run-id"]
        live.body()
    with request(f"{server.url}/runs/{run_id}/events") as replay:
        sizes = []
        for chunk in replay.chunks():
            assert chunk.endswith(b"\n\n")
            sizes.append(len(chunk))
    assert max(sizes) <= 64 * 1024
    assert 0 not in sizes
    assert sum(sizes) > 300_000
    assert len(sizes) < 80  # for 1,000 events


# -- honest endings ----------------------------------------------------------------------------------------------------


def broken(call: Call) -> None:
    call.start()
    call.chunk(token_chunk("half"))
    call.finish()


def test_a_failed_run_never_looks_like_success(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = broken
    with request(f"{server.url}/stream?prompt=hi") as sse:
        end = json.loads(sse.events()[-1].data)
        assert (end["reason"], end["error"]["code"]) == ("error", "upstream_truncated")
        assert sse.complete
    with request(f"{server.url}/stream?prompt=hi&format=text") as text:
        assert text.body() == b"half"
        assert not text.complete  # curl exits with 18
    with request(f"{server.url}/stream?prompt=hi&format=json") as answer:
        assert answer.status == 502
        assert answer.json()["text"] == "half"


def test_the_digest_proves_the_text(server: Relay) -> None:
    with request(f"{server.url}/stream?prompt=hi") as response:
        digest = json.loads(response.events()[-1].data)["digest"]
    assert digest == {"bytes": len(ANSWER.encode()), "crc32": f"{zlib.crc32(ANSWER.encode()):08x}"}


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_started_followed_read_and_stopped_by_its_urls(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    started = requests.post(f"{server.url}/runs", json={"prompt": "hi"}, timeout=20)
    assert started.status_code == 201
    told = started.json()
    assert set(told) == {"run_id", "conversation_id", "events_url", "stop_url"}
    with request(server.url + told["events_url"]) as response:
        chunks = response.chunks()
        while b'"a"' not in next(chunks):
            pass
        state = snapshot(server, told["run_id"])
        assert (state["state"], state["seq"], state["text"], state["end"]) == ("running", 3, "a", None)
        begun = time.monotonic()
        stopped = requests.post(server.url + told["stop_url"], timeout=20)
        assert (stopped.status_code, stopped.json()["reason"], stopped.json()["upstream_stop"]) == (
            200,
            "stopped",
            "closed",
        )
        assert upstream.calls[0].closed.wait(1)
        assert time.monotonic() - begun < 2
        assert json.loads(sse_events(b"".join(chunks))[-1].data) == stopped.json()
    again = requests.post(server.url + told["stop_url"], timeout=20)
    assert (again.status_code, again.json()) == (200, stopped.json())
    assert snapshot(server, told["run_id"])["state"] == "ended"


@pytest.mark.parametrize("stage", ["before headers", "after headers"])
def test_a_stop_in_silence_closes_the_upstream(stage: str, server: Relay, upstream: ScriptedUpstream) -> None:
    def script(call: Call) -> None:
        if stage == "after headers":
            call.start()
        call.await_close()

    upstream.script = script
    told = requests.post(f"{server.url}/runs", json={"prompt": "hi"}, timeout=20).json()
    call = upstream.next_call()
    if stage == "after headers":
        wait_until(lambda: snapshot(server, told["run_id"])["seq"] == 2, "the headers came")
    assert requests.post(server.url + told["stop_url"], timeout=20).json()["reason"] == "stopped"
    assert call.closed.wait(1)


def test_a_repeated_key_starts_nothing_new(server: Relay, upstream: ScriptedUpstream) -> None:
    key = {"Idempotency-Key": "0123456789abcdef"}
    first = requests.post(f"{server.url}/runs", json={"prompt": "hi"}, headers=key, timeout=20)
    form = requests.post(f"{server.url}/runs", data={"prompt": "hi"}, headers=key, timeout=20)
    field = requests.post(f"{server.url}/runs", json={"query": "hi", "idempotency_key": "0123456789abcdef"}, timeout=20)
    assert first.json() == form.json() == field.json()
    assert first.status_code == form.status_code == 201
    with request(f"{server.url}/stream?prompt=hi", headers=key) as stream:
        assert stream.headers["x-run-id"] == first.json()["run_id"]
        stream.body()
    other = requests.post(f"{server.url}/runs", json={"prompt": "ho"}, headers=key, timeout=20)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert len(upstream.calls) == 1


# -- /chat -------------------------------------------------------------------------------------------------------------


def test_chat_waits_for_the_whole_answer(server: Relay) -> None:
    answer = requests.post(f"{server.url}/chat", json={"prompt": "hi"}, timeout=20)
    assert (answer.status_code, answer.json()["text"]) == (200, ANSWER)
    assert set(answer.json()) == {
        "run_id", "conversation_id", "text", "reasoning", "tool_calls", "files", "end"
    }  # fmt: skip


def test_a_long_chat_is_told_where_to_look(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = held
    body = {"prompt": "hi", "on_disconnect": "cancel"}
    answer = requests.post(f"{server.url}/chat", json=body, timeout=20)
    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "2")
    state = requests.get(server.url + answer.headers["Location"], timeout=20).json()
    assert (state["state"], state["text"]) == ("running", "a")
    requests.post(f"{server.url}/runs/{state['run_id']}/stop", timeout=20)


def test_a_form_gets_a_page_that_refreshes_itself_and_shows_markup_as_text(
    server: Relay, upstream: ScriptedUpstream
) -> None:
    def script(call: Call) -> None:
        call.start()
        call.chunk(token_chunk("<script>alert(1)</script>"))
        call.await_close()

    upstream.script = script
    page = requests.post(f"{server.url}/chat", data={"prompt": "hi"}, headers={"Accept": "text/html"}, timeout=20)
    assert [step.status_code for step in page.history] == [303]  # a reload asks nothing again
    assert page.status_code == 202
    assert page.headers["Content-Type"].startswith("text/html")
    assert 'http-equiv="refresh"' in page.text
    assert "<script>alert" not in page.text
    run_id = page.headers["X-Run-Id"]
    requests.post(f"{server.url}/runs/{run_id}/stop", timeout=20)
    page = requests.get(f"{server.url}/runs/{run_id}", headers={"Accept": "text/html"}, timeout=20)
    assert page.status_code == 200
    assert "&lt;script&gt;" in page.text
    assert "refresh" not in page.text


# -- refusals ----------------------------------------------------------------------------------------------------------

JSON = {"Content-Type": "application/json"}
REFUSED = {  # method, path, body or JSON, status, code, a word of the message
    "no prompt": ("POST", "/stream", {}, 400, "bad_request", "prompt"),
    "no prompt in a URL": ("GET", "/stream", None, 400, "bad_request", "prompt"),
    "empty prompt": ("GET", "/stream?prompt=", None, 400, "bad_request", "prompt"),
    "blank prompt": ("POST", "/stream", {"prompt": " \n"}, 400, "bad_request", "prompt"),
    "prompt and messages": (
        "POST", "/stream", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, 400, "bad_request", "both",
    ),
    "unknown field": ("POST", "/stream", {"promt": "a"}, 400, "bad_request", "did you mean 'prompt'"),
    "wrong type": ("POST", "/stream", {"prompt": 5}, 400, "bad_request", "prompt"),
    "wrong type inside": (
        "POST", "/stream", {"prompt": "a", "options": {"seed": "x"}}, 400, "bad_request", "options.seed",
    ),
    "beyond a cap": (
        "POST", "/stream", {"prompt": "a", "options": {"temperature": 3}}, 400, "bad_request", "options.temperature",
    ),
    "not an object": ("POST", "/stream", [1], 400, "bad_request", "object"),
    "bad JSON": ("POST", "/stream", b'{"prompt": ', 400, "bad_request", "JSON"),
    "bad JSON in depth": ("POST", "/stream", b"[" * 100_000, 400, "bad_request", "JSON"),
    "invalid UTF-8": ("POST", "/stream", b'{"prompt": "\xff"}', 400, "bad_request", "UTF-8"),
    "invalid UTF-8 in a URL": ("GET", "/stream?prompt=%ff", None, 400, "bad_request", "UTF-8"),
    "lone surrogate": ("POST", "/stream", b'{"prompt": "\\ud83d"}', 400, "bad_request", "JSON"),
    "2 MB": ("POST", "/stream", b'{"prompt": "' + b"a" * 2_000_000 + b'"}', 413, "body_too_large", "MAX_BODY_BYTES"),
    "unknown upstream": ("POST", "/stream", {"prompt": "a", "upstream": "x"}, 400, "unknown_upstream", "upstream"),
    "unknown conversation": (
        "POST", "/stream", {"prompt": "a", "conversation_id": "x"}, 404, "conversation_not_found", "conversation",
    ),
    "unknown format": ("GET", "/stream?prompt=a&format=xml", None, 400, "bad_request", "format"),
    "unknown policy": ("POST", "/runs", {"prompt": "a", "on_disconnect": "x"}, 400, "bad_request", "on_disconnect"),
    "Dify's inputs": ("POST", "/runs", {"prompt": "a", "inputs": {}}, 400, "bad_request", "inputs"),
    "HEAD": ("HEAD", "/stream?prompt=a", None, 405, None, ""),
    "PUT": ("PUT", "/stream?prompt=a", None, 405, "method_not_allowed", "method"),
    "GET on chat": ("GET", "/chat", None, 405, "method_not_allowed", "method"),
    "unknown path": ("GET", "/nothing", None, 404, "not_found", "nothing"),
    "unknown run": ("GET", "/runs/nonsense/events", None, 404, "run_not_found", "run"),
    "another instance's run": ("GET", "/runs/aaaaaaaaaaaaaaaaaaaaaaaaaa", None, 404, "other_instance", "REDIS_URL"),
    "a long URL": ("GET", "/stream?prompt=" + "a" * 9000, None, 414, "uri_too_long", "URL"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_a_clear_refusal_and_calls_nobody(case: str, server: Relay, upstream: ScriptedUpstream) -> None:
    method, path, body, status, code, word = REFUSED[case]
    sent = {"body": body, "headers": JSON} if isinstance(body, bytes) else {"json_body": body}
    with request(server.url + path, method, **sent) as response:  # type: ignore[arg-type]
        assert response.status == status
        assert response.headers["content-type"] == "application/json"
        if method == "HEAD":
            return
        error = response.json()["error"]
    assert (error["code"], bool(error["request_id"])) == (code, True)
    assert word in error["message"]
    assert response.headers["x-request-id"] == error["request_id"]
    assert upstream.calls == []
    assert "Traceback" not in server.log()


def test_raw_chinese_in_a_url_gets_json_and_advice(server: Relay) -> None:
    with request(f"{server.url}/stream?prompt=你好") as response:
        assert response.status == 400
        assert "percent-encode" in response.json()["error"]["message"]
    assert "你好" not in server.log()


def test_a_form_that_looks_like_json_is_told_so(server: Relay) -> None:
    answer = requests.post(
        f"{server.url}/stream",
        data='{"prompt": "hi"}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=20,
    )
    assert answer.status_code == 400
    assert "--json" in answer.json()["error"]["message"]


def test_another_content_type_is_refused(server: Relay) -> None:
    answer = requests.post(f"{server.url}/stream", data=b"hi", headers={"Content-Type": "image/png"}, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("header", [{"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}])
def test_a_prefetch_costs_nothing(header: dict[str, str], server: Relay, upstream: ScriptedUpstream) -> None:
    with request(f"{server.url}/stream?prompt=hi", headers=header) as response:
        assert (response.status, response.json()["error"]["code"]) == (403, "forbidden")
    assert upstream.calls == []


FORM = "Content-Type: application/x-www-form-urlencoded"
BROKEN_BODIES = {  # headers, and all that arrives of the body before the client half-closes
    "half a form": (f"{FORM}\r\nContent-Length: 40", b"prompt=secret"),
    "half a JSON object": ("Content-Type: application/json\r\nContent-Length: 40", b'{"prompt": "secret"}'),
    "half a multipart form": (
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 200",
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nsecret\r\n--x--\r\n',
    ),
    "no last chunk": (f"{FORM}\r\nTransfer-Encoding: chunked", b"d\r\nprompt=secret\r\n"),
    "half a last chunk": (f"{FORM}\r\nTransfer-Encoding: chunked", b"d\r\nprompt=secret\r\n0\r\n"),
    "a wrong chunk size": (f"{FORM}\r\nTransfer-Encoding: chunked", b"secret\r\nprompt=secret\r\n0\r\n\r\n"),
    "no chunk's end": (f"{FORM}\r\nTransfer-Encoding: chunked", b"7\r\nprompt=secret\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("case", BROKEN_BODIES)
def test_half_a_body_never_asks_half_a_question(case: str, server: Relay, upstream: ScriptedUpstream) -> None:
    headers, body = BROKEN_BODIES[case]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"POST /runs HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        response = read_head(connection)
        assert (response.status, response.json()["error"]["code"]) == (400, "bad_request")
    assert upstream.calls == []
    assert "secret" not in server.log()


@pytest.mark.parametrize("chunks", [b"zz\r\nabc\r\n0\r\n\r\n", b"-1\r\nabc\r\n0\r\n\r\n", b"3\r\nabcX\r\n0\r\n\r\n"])
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_a_badly_chunked_body_is_the_clients_mistake(chunks: bytes, content_type: str, server: Relay) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = f"POST /runs HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + chunks)
        assert read_head(connection).status == 400
    assert "Traceback" not in server.log()


def test_a_failed_text_looks_failed_to_one_who_comes_back_too(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = broken
    with request(f"{server.url}/stream?prompt=hi&format=text") as text:
        run_id = text.headers["x-run-id"]
        text.body()
    last = snapshot(server, run_id)["seq"]
    with request(f"{server.url}/runs/{run_id}/events?format=text&after={last}") as again:
        assert (again.body(), again.complete) == (b"", False)


def test_an_idempotency_key_is_checked(server: Relay) -> None:
    for key, body in (("k" * 300, {}), ("one", {"idempotency_key": "two"})):
        answer = requests.post(
            f"{server.url}/runs", json={"prompt": "hi", **body}, headers={"Idempotency-Key": key}, timeout=20
        )
        assert answer.status_code == 400
        assert "dempotency" in answer.json()["error"]["message"]


def test_a_hostile_request_id_is_replaced(server: Relay) -> None:
    answer = requests.get(f"{server.url}/healthz", headers={"X-Request-Id": "a b;c" * 100}, timeout=20)
    assert answer.headers["X-Request-Id"].isalnum()


# -- the small routes --------------------------------------------------------------------------------------------------


def test_health_readiness_and_usage(server: Relay) -> None:
    assert requests.get(f"{server.url}/healthz", timeout=20).json() == {"status": "ok"}
    assert requests.get(f"{server.url}/readyz", timeout=20).json()["status"] == "ready"
    usage = requests.get(server.url, headers={"Accept": "*/*"}, timeout=20)
    assert usage.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert f"{server.url}/stream" in usage.text
    page = requests.get(server.url, headers={"Accept": "text/html"}, timeout=20)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"


def test_prompts_keys_and_run_ids_never_reach_the_log(server: Relay, upstream: ScriptedUpstream) -> None:
    upstream.script = lambda call: call.answer(500, b'{"error": "upstream-secret"}')
    with request(f"{server.url}/stream?prompt=secret-prompt") as response:
        run_id = response.headers["x-run-id"]
        assert b"upstream-secret" not in response.body()
    request(f"{server.url}/stream?prompt=secret-prompt%ff").close()
    request(f"{server.url}/stream?prompt=secret-prompt\x01").close()
    request(f"{server.url}/nothing/secret-prompt").close()
    for secret in ("secret-prompt", "upstream-secret", run_id):
        assert secret not in server.log()
