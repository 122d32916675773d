"""`flask chat` against a scripted relay on a real socket, which cuts, stumbles and lies."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner, Result

from streaming import chat_client
from streaming.chat import chat
from streaming.chat_client import Backoff, Follow, GaveUp
from streaming.chat_screen import harmless
from streaming.wire.events import Digest, End, Event, Replace, Token

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from streaming.chat import chat; chat()"]
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
STARTED = {"run_id": "r1", "conversation_id": "c1", "events_url": "/runs/r1/events", "stop_url": "/runs/r1/stop"}


def reply(status: int, body: object = None, headers: str = "") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data


def refusal(status: int, code: str, message: str, headers: str = "") -> bytes:
    return reply(status, {"error": {"code": code, "message": message, "request_id": "q7"}}, headers)


def sse(seq: int, type_: str, **fields: object) -> bytes:
    name = "" if type_ == "token" else f"event: {type_}\n"
    return f"id: {seq}\n{name}data: {json.dumps(fields, ensure_ascii=False)}\n\n".encode()


def digest(text: str) -> dict[str, object]:
    data = text.encode()
    return {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}


def end_fields(text: str, reason: str = "done", **more: object) -> dict[str, object]:
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "exact": True}
    return {"reason": reason, "usage": usage, "digest": digest(text), "timing": {"first_token": 119.6}, **more}


def end(seq: int, text: str, reason: str = "done", **more: object) -> bytes:
    return sse(seq, "end", **end_fields(text, reason, **more))


HELLO = [sse(1, "start", run_id="r1"), sse(2, "token", text="Hel"), sse(3, "token", text="lo"), end(4, "Hello")]


def reset(connection: socket.socket) -> None:
    """Make the close that follows a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def beating_until(event: threading.Event) -> Callable[[socket.socket], None]:
    """Send heartbeats meanwhile: a signal that comes in the instant before recv blocks is only seen when it returns."""

    def beat(connection: socket.socket) -> None:
        while not event.wait(0.05):
            connection.sendall(b": ping\n\n")

    return beat


class ScriptedRelay:
    """A real server without a will of its own.

    `scripts` maps "METHOD path" to what each next request gets (the last one again and again): bytes to send and
    functions to call with the connection. Then it closes.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.scripts: dict[str, list[list[bytes | Callable[[socket.socket], None]]]] = {
            "POST /runs": [[reply(201, STARTED)]],
        }
        self.after: Callable[[int], bytes] | None = None  # last id -> the stream, instead of a script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._closing = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def streams(self, *scripts: list[bytes | Callable[[socket.socket], None]]) -> None:
        self.scripts["GET /runs/r1/events"] = [[STREAM, *script] for script in scripts]

    def asked(self, what: str) -> list[dict[str, str]]:
        """The headers of every request for `what`."""
        return [headers for name, headers, _ in self.requests if name == what]

    def body(self, what: str) -> dict[str, object]:
        return json.loads(next(body for name, _, body in self.requests if name == what))

    def close(self) -> None:
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()  # wakes accept, patched or not
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file, contextlib.suppress(OSError):
            method, path, _ = file.readline().decode().split()
            headers = {}
            while line := file.readline().strip():
                name, _, value = line.decode().partition(": ")
                headers[name.lower()] = value
            body = file.read(int(headers.get("content-length", 0)))
            what = f"{method} {path}"
            self.requests.append((what, headers, body))
            if self.after and what == "GET /runs/r1/events":
                connection.sendall(self.after(int(headers.get("last-event-id", 0))))
                return
            scripts = self.scripts.get(what, [[reply(404)]])
            for step in scripts.pop(0) if len(scripts) > 1 else scripts[0]:
                if isinstance(step, bytes):
                    connection.sendall(step)
                else:
                    step(connection)


@pytest.fixture
def relay() -> Iterator[ScriptedRelay]:
    server = ScriptedRelay()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "FIRST_DELAY_SECONDS", 0.0)
    for name in ("SLUICE_URL", "SLUICE_API_KEY", "PORT"):
        monkeypatch.delenv(name, raising=False)


def run(relay: ScriptedRelay, *arguments: str, stdin: str | bytes | None = None, charset: str = "utf-8") -> Result:
    runner = CliRunner(charset=charset, env={"SLUICE_URL": relay.url})
    return runner.invoke(chat, arguments or ["hi"], input=stdin, catch_exceptions=False)


@pytest.fixture
def follow(relay: ScriptedRelay) -> Iterator[Callable[[], list[Event]]]:
    with requests.Session() as session:
        yield lambda: list(Follow(session, f"{relay.url}/runs/r1/events"))


def test_an_answer_on_stdout_and_a_summary_on_stderr(relay: ScriptedRelay) -> None:
    relay.streams(HELLO)
    result = run(relay, "how are you?", "--upstream", "u1", "--conversation", "c0", "--api-key", "k1")
    assert (result.exit_code, result.stdout) == (0, "Hello\n")
    assert result.stderr == "done, 3 + 5 tokens (exact), first token after 120 ms, conversation c1\n"
    assert relay.body("POST /runs") == {
        "prompt": "how are you?",
        "upstream": "u1",
        "conversation_id": "c0",
        "on_disconnect": "finish",
    }
    (asked,) = relay.asked("GET /runs/r1/events")
    assert (asked["accept"], asked["authorization"]) == ("text/event-stream", "Bearer k1")
    assert "last-event-id" not in asked


@pytest.mark.parametrize("arguments", [["-"], []])
def test_a_piped_question(relay: ScriptedRelay, arguments: list[str]) -> None:
    relay.streams(HELLO)
    result = CliRunner().invoke(chat, [*arguments, "--url", relay.url], input="two\nlines\n")
    assert result.exit_code == 0
    assert relay.body("POST /runs")["prompt"] == "two\nlines\n"


def test_no_question_is_a_usage_error(relay: ScriptedRelay) -> None:
    result = run(relay, "-", stdin=" \n")
    assert (result.exit_code, relay.requests) == (2, [])


ANSWER = [
    sse(1, "start", run_id="r1"),
    sse(2, "token", text="Hé"),
    sse(3, "reasoning", text="…"),
    sse(4, "token", text="😀\n"),
    sse(5, "step", id="s", kind="node", name="n", status="started"),
    sse(6, "replace", text="你"),
    sse(7, "token", text="好"),
    end(8, "你好"),
]
WHOLE = b"".join(ANSWER)


@pytest.mark.parametrize("framing", ["until close", "chunked", "length"])
def test_a_cut_at_any_byte_loses_and_doubles_nothing(
    relay: ScriptedRelay, follow: Callable[[], list[Event]], framing: str
) -> None:
    heads = {
        "until close": STREAM,
        "chunked": STREAM[:-2] + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(WHOLE),
        "length": STREAM[:-2] + b"Content-Length: %d\r\n\r\n" % len(WHOLE),
    }
    cuts: list[int] = []

    def stream(after: int) -> bytes:
        if not cuts:
            return STREAM + b"".join(ANSWER[after:])
        return heads[framing] + WHOLE[: cuts.pop()]

    relay.after = stream
    uncut = follow()
    assert [type(event).__name__ for event in uncut] == ["Token", "Reasoning", "Token", "Replace", "Token", "End"]
    for size in range(len(WHOLE)):
        cuts.append(size)
        assert follow() == uncut, f"cut after {size} bytes: {WHOLE[:size]!r}"


def test_a_cut_after_every_event_resumes_with_the_last_id_and_is_no_reason_to_give_up(relay: ScriptedRelay) -> None:
    count = 2 * chat_client.MAX_FAILURES
    events = [*(sse(seq, "token", text="x") for seq in range(1, count)), end(count, "x" * (count - 1))]
    relay.after = lambda after: STREAM + events[after]
    result = run(relay)
    assert (result.exit_code, result.stdout) == (0, "x" * (count - 1) + "\n")
    asked = [headers.get("last-event-id") for headers in relay.asked("GET /runs/r1/events")]
    assert asked == [None, *map(str, range(1, count))]


def test_a_reset_and_events_seen_before_are_survived(relay: ScriptedRelay) -> None:
    relay.streams([b"".join(HELLO[:2]), reset], [b"".join(HELLO)])
    result = run(relay)
    assert (result.exit_code, result.stdout) == (0, "Hello\n")


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_router_that_stumbles_once_is_asked_again(relay: ScriptedRelay, status: int) -> None:
    relay.streams([b"".join(HELLO[:2])], [], HELLO[2:])
    relay.scripts["GET /runs/r1/events"][1] = [refusal(status, "draining", "Soon.")]
    result = run(relay)
    assert (result.exit_code, result.stdout) == (0, "Hello\n")
    assert [headers.get("last-event-id") for headers in relay.asked("GET /runs/r1/events")] == [None, "2", "2"]


@pytest.mark.parametrize(
    "damaged",
    [b'id: 3\ndata: {"text"\n\n', b'data: {"text":"lo"}\n\n', b"id: 3\ndata: {}\n\n", b'id: 3\ndata: "\xff"\n\n'],
    ids=["half JSON", "no id", "no text", "no UTF-8"],
)
def test_a_damaged_event_is_dropped_and_read_again(relay: ScriptedRelay, damaged: bytes) -> None:
    relay.streams([*HELLO[:2], damaged, *HELLO[2:]], HELLO[2:])
    result = run(relay)
    assert (result.exit_code, result.stdout) == (0, "Hello\n")
    assert relay.asked("GET /runs/r1/events")[1]["last-event-id"] == "2"


def test_a_relay_that_stays_silent_is_given_up(relay: ScriptedRelay) -> None:
    relay.streams([b"".join(HELLO[:2])], [])
    result = run(relay)
    assert (result.exit_code, result.stdout) == (1, "Hel\n")
    assert result.stderr == (
        f"gave up on {relay.url}/runs/r1/events after {chat_client.MAX_FAILURES} failures in a row; "
        "the last: the stream broke off before its end\n"
    )
    # The connection that brought something counts as the first failure.
    assert len(relay.asked("GET /runs/r1/events")) == chat_client.MAX_FAILURES


def test_the_backoff_doubles_up_to_a_bound_and_starts_anew_after_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "FIRST_DELAY_SECONDS", 0.5)
    monkeypatch.setattr(chat_client.random, "uniform", lambda _low, high: high)
    waits: list[float] = []
    backoff = Backoff("it", waits.append)
    backoff.wait(OSError())
    backoff.reset()
    for _ in range(7):
        backoff.wait(OSError())
    with pytest.raises(GaveUp, match="gave up on it after 8 failures"):
        backoff.wait(OSError())
    assert waits == [0.5, 0.5, 1, 2, 4, 8, 8, 8]


def test_a_post_cut_off_is_repeated_under_the_same_key(relay: ScriptedRelay) -> None:
    relay.scripts["POST /runs"] = [[reset], [reply(502)], [reply(201, STARTED)]]
    relay.streams(HELLO)
    assert run(relay).exit_code == 0
    keys = [headers["idempotency-key"] for headers in relay.asked("POST /runs")]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_a_replaced_answer_is_announced_and_shown(relay: ScriptedRelay) -> None:
    relay.streams([*HELLO[:3], sse(4, "replace", text="No."), end(5, "No.")])
    result = run(relay)
    assert (result.exit_code, result.stdout) == (0, "Hello\nNo.\n")
    assert result.stderr.startswith("the answer so far was replaced by:\ndone")


def test_a_wrong_digest_shows_the_relays_copy(relay: ScriptedRelay) -> None:
    relay.streams([*HELLO[:2], end(4, "Hello")])
    relay.scripts["GET /runs/r1"] = [[reply(200, {"text": "Hello", "end": end_fields("Hello")})]]
    result = run(relay)
    assert (result.exit_code, result.stdout) == (0, "Hel\nHello\n")
    assert "not the whole answer" in result.stderr


def test_a_copy_that_fails_the_digest_too_is_no_success(relay: ScriptedRelay) -> None:
    relay.streams([*HELLO[:2], end(4, "Hello")])
    relay.scripts["GET /runs/r1"] = [[reply(200, {"text": "Help"})]]
    result = run(relay)
    assert result.exit_code == 1
    assert result.stderr.count("not the whole answer") == 1


def test_a_lost_log_has_no_digest_to_check(relay: ScriptedRelay) -> None:
    relay.streams([*HELLO[:2], sse(1_000_002, "end", reason="interrupted", usage=None, digest=None, timing=None)])
    result = run(relay)
    assert (result.exit_code, result.stdout) == (1, "Hel\n")
    assert result.stderr == "interrupted, tokens unknown, conversation c1\n"


def test_nothing_left_to_follow_shows_the_relays_copy(relay: ScriptedRelay) -> None:
    relay.scripts["GET /runs/r1/events"] = [[STREAM, b"".join(HELLO[:2])], [reply(204)]]
    relay.scripts["GET /runs/r1"] = [[reply(200, {"text": "Hello", "end": end_fields("Hello")})]]
    result = run(relay)
    assert (result.exit_code, result.stdout) == (0, "Hel\nHello\n")


def test_an_error_end_says_why_and_exits_1(relay: ScriptedRelay) -> None:
    error = {"code": "upstream_busy", "message": "Busy.", "retryable": True, "retry_after": 9, "status": 503}
    usage = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": 4, "exact": False}
    relay.streams([*HELLO[:2], end(3, "Hel", "error", error=error, usage=usage)])
    result = run(relay)
    assert (result.exit_code, result.stdout) == (1, "Hel\n")
    assert result.stderr.startswith("error: upstream_busy: Busy. Try again in 9 s.\nerror, 4 tokens (estimated), ")


@pytest.mark.parametrize(("reason", "code"), [("done", 0), ("stopped", 0), ("paused", 0), ("abandoned", 1)])
def test_the_reason_decides_the_exit_code(relay: ScriptedRelay, reason: str, code: int) -> None:
    relay.streams([end(2, "", reason)])
    result = run(relay)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(reason)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            refusal(503, "too_many_runs", "Full.", "Retry-After: 3\r\n"),
            "refused (HTTP 503 too_many_runs): Full. Try again in 3 s. [request q7]\n",
        ),
        (refusal(401, "unauthorized", "No \x1b[2Jkey."), "refused (HTTP 401 unauthorized): No �[2Jkey. [request q7]\n"),
        (reply(301, None, "Location: https://x/\r\n"), "HTTP 301 at {url}/runs, and not from a relay\n"),
        (reply(404, "no"), "HTTP 404 at {url}/runs, and not from a relay\n"),
        (reply(200, {"hello": 1}), "what answers at {url}/runs is no relay that this client knows\n"),
    ],
)
def test_a_refusal_is_one_line_and_exits_2(relay: ScriptedRelay, answer: bytes, line: str) -> None:
    relay.scripts["POST /runs"] = [[answer]]
    result = run(relay)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", line.format(url=relay.url))
    assert len(relay.requests) == 1


def test_a_run_that_is_gone_is_a_refusal(relay: ScriptedRelay) -> None:
    relay.scripts["GET /runs/r1/events"] = [[STREAM, *HELLO[:2]], [refusal(410, "run_expired", "Gone.")]]
    result = run(relay)
    assert (result.exit_code, result.stdout) == (2, "Hel\n")
    assert "run_expired" in result.stderr


def test_no_relay_at_the_address(relay: ScriptedRelay) -> None:
    with socket.socket() as unused:  # bound, not listening: nobody else can get the port meanwhile
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        result = CliRunner(env={"PORT": str(port)}).invoke(chat, ["hi"])
    assert result.exit_code == 1
    assert result.stderr == f"no relay answers at http://127.0.0.1:{port}; start one with `make run`\n"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "http://[::1", "http://h:99999"])
def test_an_address_that_is_none(url: str) -> None:
    result = CliRunner().invoke(chat, ["hi", "--url", url])
    assert result.exit_code == 2
    assert "is no http:// or https:// address" in result.stderr


def test_control_characters_never_reach_the_terminal(relay: ScriptedRelay) -> None:
    text = "a\x1b]0;title\x07b\r\x9b2Jc\x7f\td\n"
    relay.streams([sse(1, "token", text=text), end(2, text)])
    result = run(relay)
    assert (result.exit_code, result.stdout_bytes.decode()) == (0, "a�]0;title�b��2Jc�\td\n")


def test_every_control_character_but_lf_and_tab_is_shown() -> None:
    controls = [*range(0x20), *range(0x7F, 0xA0)]
    assert [code for code in controls if harmless(chr(code)) != "\ufffd"] == [0x09, 0x0A]
    assert harmless("é 你 😀 \u2028") == "é 你 😀 \u2028"


def test_a_locale_without_the_character_does_not_matter(relay: ScriptedRelay) -> None:
    relay.streams([sse(1, "token", text="é你"), end(2, "é你")])
    result = run(relay, charset="latin-1")
    assert (result.exit_code, result.stdout_bytes) == (0, b"\xe9?\n")


def test_a_lone_surrogate_fails_the_digest_but_nothing_else(relay: ScriptedRelay) -> None:
    relay.streams([b'id: 1\ndata: {"text":"a\\ud83d"}\n\n', end(2, "a\ufffd")])
    relay.scripts["GET /runs/r1"] = [[reply(200, {"text": "a\ufffd"})]]
    result = run(relay)
    assert (result.exit_code, result.stdout) == (0, "a?\na\ufffd\n")


@pytest.mark.parametrize(("option", "shown"), [("--show-reasoning", "hm\n"), ("--no-show-reasoning", ""), (None, "")])
def test_reasoning_goes_to_stderr_where_wanted(relay: ScriptedRelay, option: str | None, shown: str) -> None:
    relay.streams([sse(1, "token", text="a"), sse(2, "reasoning", text="hm"), sse(3, "token", text="b"), end(4, "ab")])
    result = run(relay, "hi", *([option] if option else []))
    assert result.stdout == "ab\n"  # no line break of stderr's may end up in a piped answer
    assert result.stderr.startswith(shown + "done")


def test_a_file_of_the_answer_is_named(relay: ScriptedRelay) -> None:
    relay.streams([sse(1, "file", id="f", kind="image", url="https://x/i.png"), end(2, "")])
    assert run(relay).stderr.startswith("image: https://x/i.png\n")


@contextlib.contextmanager
def started(relay: ScriptedRelay, *arguments: str, **streams: object) -> Iterator[subprocess.Popen[bytes]]:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    with subprocess.Popen(
        [*COMMAND, "--url", relay.url, *arguments], cwd=ROOT, env={**os.environ, "TERM": "dumb"}, **streams
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_first_ctrl_c_stops_the_run_and_shows_its_end(relay: ScriptedRelay) -> None:
    stop = threading.Event()
    relay.streams([*HELLO[:2], beating_until(stop), sse(3, "token", text="p"), end(4, "Help", "stopped")])
    relay.scripts["POST /runs/r1/stop"] = [[lambda _: stop.set(), reply(200, end_fields("Help", "stopped"))]]
    with started(relay, "hi") as process:
        assert process.stdout.read(3) == b"Hel"  # shown although the body is still open and far from a full block
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"p\n"
        assert process.stderr.read().startswith(b"stopped, ")
        assert process.wait() == 130
    assert len(relay.asked("GET /runs/r1/events")) == 1  # stopping did not cut the stream


def test_the_second_ctrl_c_leaves_at_once(relay: ScriptedRelay) -> None:
    stop, left = threading.Event(), threading.Event()
    relay.streams([*HELLO[:2], beating_until(left)])
    relay.scripts["POST /runs/r1/stop"] = [[lambda _: stop.set(), lambda _: left.wait()]]
    try:
        with started(relay, "hi") as process:
            assert process.stdout.read(3) == b"Hel"
            process.send_signal(signal.SIGINT)
            assert stop.wait(30)
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
            assert b"Traceback" not in process.stderr.read()
    finally:
        left.set()


def test_ctrl_c_before_the_run_is_known_stops_it_then(relay: ScriptedRelay) -> None:
    asked, interrupted, stop = threading.Event(), threading.Event(), threading.Event()
    relay.scripts["POST /runs"] = [[lambda _: asked.set(), lambda _: interrupted.wait(), reply(201, STARTED)]]
    relay.streams([lambda _: stop.wait(), end(1, "", "stopped")])
    relay.scripts["POST /runs/r1/stop"] = [[lambda _: stop.set(), reply(202, {})]]
    with started(relay, "hi") as process:
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        interrupted.set()
        assert process.stderr.read().startswith(b"stopped, ")
        assert process.wait() == 130


def test_a_stop_that_fails_is_told(relay: ScriptedRelay) -> None:
    stop = threading.Event()
    relay.streams([*HELLO[:2], beating_until(stop), *HELLO[2:]])
    relay.scripts["POST /runs/r1/stop"] = [[refusal(403, "forbidden", "Not yours.")]]
    with started(relay, "hi") as process:
        assert process.stdout.read(3) == b"Hel"
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline()
        assert line == b"not stopped: refused (HTTP 403 forbidden): Not yours. [request q7]\n"
        stop.set()
        assert process.stdout.read() == b"lo\n"
        assert process.wait() == 130


class Terminal:
    """A pseudo-terminal that waits for what it expects to see."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        while text not in self._seen:
            assert select.select([self._master], [], [], 30)[0], f"{text!r} did not appear in {self._seen!r}"
            self._seen += os.read(self._master, 4096).decode()
        self._seen = self._seen.partition(text)[2]

    def close(self) -> None:
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.mark.parametrize("leave", ["\n", "\x04"], ids=["empty line", "Ctrl-D"])
def test_a_conversation_on_a_terminal(relay: ScriptedRelay, terminal: Terminal, leave: str) -> None:
    thinking = [sse(1, "token", text="a"), sse(2, "reasoning", text="hm"), sse(3, "token", text="b"), end(4, "ab")]
    relay.streams(HELLO, thinking, HELLO)
    refused = refusal(404, "conversation_not_found", "Expired.")
    relay.scripts["POST /runs"] = [[reply(201, STARTED)], [reply(201, STARTED)], [refused], [reply(201, STARTED)]]
    with started(relay, **dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)) as process:
        terminal.wait_for("> ")
        for question, shown in [
            ("one", "Hello\r\ndone, "),
            ("two", "a\r\n\x1b[2mhm\x1b[0m\r\nb\r\ndone, "),  # one terminal: each stream begins its own line
            ("three", "conversation_not_found"),
            ("four", "Hello\r\ndone, "),
        ]:
            terminal.type(question + "\n")
            terminal.wait_for(shown)
            terminal.wait_for("> ")
        terminal.type(leave)
        assert process.wait() == 0
    asked = [json.loads(body) for name, _, body in relay.requests if name == "POST /runs"]
    assert [ask["prompt"] for ask in asked] == ["one", "two", "three", "four"]
    assert [ask.get("conversation_id") for ask in asked] == [None, "c1", "c1", None]


def test_ctrl_c_at_the_prompt_leaves(relay: ScriptedRelay, terminal: Terminal) -> None:
    with started(relay, **dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)) as process:
        terminal.wait_for("> ")
        process.send_signal(signal.SIGINT)
        # Where the signal came in the instant before readline waits, it is seen with the next line.
        terminal.type("\n")
        assert process.wait() == 130


def test_ctrl_c_in_a_conversation_stops_the_answer_alone(relay: ScriptedRelay, terminal: Terminal) -> None:
    stop = threading.Event()
    relay.streams([*HELLO[:2], beating_until(stop), end(3, "Hel", "stopped")])
    relay.scripts["POST /runs/r1/stop"] = [[lambda _: stop.set(), reply(202, {})]]
    with started(relay, **dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)) as process:
        terminal.wait_for("> ")
        terminal.type("one\n")
        terminal.wait_for("Hel")
        process.send_signal(signal.SIGINT)
        terminal.wait_for("stopped, ")
        terminal.wait_for("> ")
        terminal.type("\n")
        assert process.wait() == 0


def test_follow_gives_typed_events(relay: ScriptedRelay, follow: Callable[[], list[Event]]) -> None:
    relay.streams([sse(1, "token", text="a"), sse(2, "replace", text="b"), end(3, "b")])
    token, replace, last = follow()
    assert (token, replace) == (Token(text="a"), Replace(text="b"))
    assert isinstance(last, End)
    assert last.digest == Digest(bytes=1, crc32=f"{zlib.crc32(b'b'):08x}")
