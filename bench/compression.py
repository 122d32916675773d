"""What compression and flush_ms cost and save, on this machine's loopback; about three minutes:

    .venv/bin/python -m bench.compression

Every token leaves the upstream alone, so that each is a write of its own where nothing is held back.
"""

import random
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from streaming.web.compression import ENCODERS, zstd
from tests.leaks import worker_pid
from tests.live import Call, Relay, relay, scripted
from tests.relay.support import DONE, FINISH, token_chunk

TOKENS = 500
FLUSH_TOKENS, FLUSH_STREAMS, FLUSH_PACE_SECONDS, FLUSH_ROUNDS = 200, 16, 0.01, 6
FIRST_TOKENS = 200  # of each coding, taking turns
OPEN_STREAMS = 400
CODINGS = ("identity", "gzip", "zstd")

TEXT = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you
were all her she there would their we him been has when who will no more if out so up said what its about than into them
can only other time new some could these two may first then do any like my now over such our man me even most made after
also did many off before must well back through years much where your way down should
"""
WORDS = TEXT.split()  # the frequent ones first


def texts(count: int) -> list[str]:
    """Return as many tokens, about as repetitive as prose; the same ones each time."""
    dice = random.Random(1)  # noqa: S311
    return [" " + WORDS[min(int(dice.expovariate(1 / 20)), len(WORDS) - 1)] for _ in range(count)]


class Paced:
    """An upstream's script: one token at a time. With `over` it ends only when that is set."""

    def __init__(self, count: int, pace_seconds: float, over: threading.Event | None = None) -> None:
        self._tokens = [token_chunk(text) for text in texts(count)]
        self._pace_seconds = pace_seconds
        self._over = over

    def __call__(self, call: Call) -> None:
        call.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        call.start()
        due = time.monotonic()
        for token in self._tokens:
            call.chunk(token)
            due += self._pace_seconds
            time.sleep(max(0.0, due - time.monotonic()))
        if self._over is not None:
            self._over.wait()
        call.chunk(FINISH + DONE)
        call.finish()


def cpu_seconds(server: Relay) -> float:
    """Return what the relay's worker has computed so far."""
    return int(Path(f"/proc/{worker_pid(server)}/schedstat").read_text().split()[0]) / 1e9


def memory_bytes(server: Relay) -> int:
    """Return what the relay's worker holds."""
    rollup = Path(f"/proc/{worker_pid(server)}/smaps_rollup").read_text()
    return int(rollup.split("Rss:")[1].split()[0]) * 1024


def decoder(coding: str) -> Any:
    """Return what undoes a coding, piece by piece."""
    if coding == "gzip":
        return zlib.decompressobj(31).decompress
    return zstd.ZstdDecompressor().decompress if coding == "zstd" else lambda data: data


def ask(server: Relay, target: str, coding: str) -> socket.socket:
    """Send a request; its answer is unread."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {coding}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def received(connection: socket.socket) -> Iterator[bytes]:
    """Yield what arrives, until the connection ends."""
    with connection:
        while data := connection.recv(65536):
            yield data


def chunks(body: bytes) -> Iterator[bytes]:
    """Yield the HTTP chunks of a body, the last, empty one too; stop where one is not complete."""
    at = 0
    while (line_end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:line_end], 16)
        if len(body) < line_end + 4 + size:
            return
        yield body[line_end + 2 : line_end + 2 + size]
        at = line_end + 4 + size


class Asked:
    """An upstream's script: the next token when the client asks for it, having read the one before."""

    def __init__(self) -> None:
        self.more = threading.Semaphore(0)

    def __call__(self, call: Call) -> None:
        call.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        call.start()
        for text in texts(TOKENS):
            self.more.acquire()
            call.chunk(token_chunk(text))
        self.more.acquire()
        call.chunk(FINISH + DONE)
        call.finish()


def show_bytes() -> None:
    """Print bytes on the wire, and what encoding costs, for each format and coding."""
    print(f"\n{TOKENS} tokens, each flushed alone; chunk framing included")
    print(f"{'format':8} {'coding':9} {'bytes':>7} {'fewer':>6} {'us to encode a token':>21}")
    script = Asked()
    with both_ends(script) as server:
        for format_ in ("sse", "ndjson", "text"):
            plain, writes = one_by_one(server, script, format_, "identity")
            print(f"{format_:8} {'identity':9} {plain:7}")
            for coding in ("gzip", "zstd"):
                size, _ = one_by_one(server, script, format_, coding)
                print(f"{format_:8} {coding:9} {size:7} {plain / size:5.1f}x {encoding_us(coding, writes):21.1f}")


def one_by_one(server: Relay, script: Asked, format_: str, coding: str) -> tuple[int, list[bytes]]:
    """Read an answer, asking for token after token; return its body's bytes on the wire, and its decoded writes."""
    decode, data, at, writes = decoder(coding), b"", 0, []
    script.more.release()
    for piece in received(ask(server, f"/stream?prompt=x&format={format_}", coding)):
        data += piece
        at = at or data.find(b"\r\n\r\n") + 4
        for chunk in chunks(data[at:]):
            at += len(b"%x" % len(chunk)) + len(chunk) + 4
            writes.append(decode(chunk) if chunk else b"")
            for _ in range(bool(writes[-1]) if format_ == "text" else writes[-1].count(b'"text":')):
                script.more.release()
    return len(data) - data.index(b"\r\n\r\n") - 4, writes


def encoding_us(coding: str, writes: list[bytes]) -> float:
    """Return what it costs to encode and flush one of these writes, in microseconds of CPU."""

    def once() -> float:
        encoder, before = ENCODERS[coding](), time.thread_time()
        for write in writes:
            encoder.write(write)
        return time.thread_time() - before

    return min(once() for _ in range(30)) / len(writes) * 1e6


class Timed:
    """An upstream's script: a token, when told to; `sent` is when."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.sent = 0.0

    def __call__(self, call: Call) -> None:
        call.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        call.start()
        self.go.acquire()
        self.sent = time.perf_counter()
        call.chunk(token_chunk(" first"))
        call.chunk(FINISH + DONE)
        call.finish()


def show_first_token() -> None:
    """Print how long the first token takes from the upstream's write to the decoded text."""
    timed = Timed()
    delays: dict[str, list[float]] = {coding: [] for coding in CODINGS}
    with both_ends(timed) as server:
        for _ in range(FIRST_TOKENS):
            for coding in CODINGS:
                delays[coding].append(first_token_seconds(server, timed, coding))
    print("\nfirst token, from the upstream's write to the decoded text")
    for coding, found in delays.items():
        median, p95 = statistics.median(found), statistics.quantiles(found, n=20)[-1]
        more = median - statistics.median(delays["identity"])
        print(
            f"{coding:9} p50 {median * 1e3:5.2f} ms  p95 {p95 * 1e3:5.2f} ms  p50 against identity {more * 1e3:+.2f} ms"
        )


def first_token_seconds(server: Relay, timed: Timed, coding: str) -> float:
    """Ask; let the upstream speak when all that precedes the token was read."""
    decode, data, decoded, text, taken, told = decoder(coding), b"", 0, b"", 0.0, False
    for piece in received(ask(server, "/stream?prompt=x", coding)):
        data += piece
        there = list(chunks(data.partition(b"\r\n\r\n")[2]))
        text += b"".join(decode(chunk) for chunk in there[decoded:] if chunk)
        decoded = len(there)
        if not taken and b" first" in text:
            taken = time.perf_counter() - timed.sent
        elif not told and b"event: upstream" in text:
            told = True
            timed.go.release()
    return taken


def show_memory() -> None:
    """Print what one more subscriber of a run costs after a hundred tokens."""
    print(f"\nmemory of one open SSE subscriber ({OPEN_STREAMS} of them, after 100 tokens)")
    for coding in CODINGS:
        over = threading.Event()
        with both_ends(Paced(100, 0.02, over)) as server, ExitStack() as stack:
            first = stack.enter_context(ask(server, "/stream?prompt=x&on_disconnect=finish", "identity"))
            run_id = first.recv(65536).decode().split("X-Run-Id: ")[1].split("\r\n")[0]
            before = memory_bytes(server)
            target = f"/runs/{run_id}/events"
            readers = [stack.enter_context(ask(server, target, coding)) for _ in range(OPEN_STREAMS)]
            time.sleep(5)  # the tokens are out
            print(f"{coding:9} {(memory_bytes(server) - before) / OPEN_STREAMS / 1024:6.1f} KB")
            over.set()
            for reader in [*readers, first]:
                list(received(reader))


def crowd(server: Relay, target: str, coding: str, streams: int) -> tuple[float, float, float]:
    """Read so many answers at a time; return writes and bytes of one, and the relay's CPU seconds of all."""
    sizes: list[tuple[int, int]] = []
    before = cpu_seconds(server)
    readers = [threading.Thread(target=read, args=(ask(server, target, coding), sizes)) for _ in range(streams)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(sizes) == streams
    writes, size = (statistics.mean(each) for each in zip(*sizes, strict=True))
    return writes, size, cpu_seconds(server) - before


def read(connection: socket.socket, sizes: list[tuple[int, int]]) -> None:
    """Read a whole answer; note its writes, and its body's bytes on the wire."""
    data = b"".join(received(connection))
    body = data[data.index(b"\r\n\r\n") + 4 :]
    assert body.endswith(b"0\r\n\r\n"), "the answer broke off"
    sizes.append((sum(1 for _ in chunks(body)) - 1, len(body)))


def show_flush() -> None:
    """Print what flush_ms saves. The rounds take turns, and the cheapest counts: other processes only add."""
    print(f"\n{FLUSH_TOKENS} tokens at {1 / FLUSH_PACE_SECONDS:.0f} a second, {FLUSH_STREAMS} SSE streams")
    print(f"{'coding':9} {'flush_ms':>8} {'writes':>7} {'bytes':>7} {'us CPU/token':>13}")
    ways = [(coding, flush_ms) for coding in ("identity", "gzip") for flush_ms in (0, 20, 50, 100)]
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {way: [] for way in ways}
    with both_ends(Paced(FLUSH_TOKENS, FLUSH_PACE_SECONDS)) as server:
        for _ in range(FLUSH_ROUNDS):
            for coding, flush_ms in ways:
                target = f"/stream?prompt=x&flush_ms={flush_ms}"
                found[coding, flush_ms].append(crowd(server, target, coding, FLUSH_STREAMS))
    for (coding, flush_ms), rounds in found.items():
        writes, size, _ = max(rounds)  # a busy machine joins tokens by itself
        cpu = min(cpu for count, _, cpu in rounds if count > 0.9 * writes) / FLUSH_STREAMS / FLUSH_TOKENS
        print(f"{coding:9} {flush_ms:8} {writes:7.0f} {size:7.0f} {cpu * 1e6:13.0f}")


@contextmanager
def both_ends(script: Callable[[Call], object]) -> Iterator[Relay]:
    """A fresh relay, which compresses everything, in front of a scripted upstream."""
    with scripted(script) as upstream:
        settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "COMPRESS": "all"}
        with relay(**settings) as server:
            yield server


if __name__ == "__main__":
    for show in (show_bytes, show_first_token, show_memory, show_flush):
        show()
