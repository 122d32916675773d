"""`flask doctor` as users run it, against a real relay behind routers that each spoil one thing."""

import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.pool import Pool
from gevent.server import StreamServer

from tests.faults.nginx import deployed, nginx, proxied, self_signed
from tests.live import ROOT, Relay, free_port, relay, wait_until
from tests.redis_server import redis_server

pytestmark = pytest.mark.timeout(180)  # several doctors at once, each for ten seconds and more
CUT_SECONDS = 2.8  # after the frames of the first checks, before the end of the silence
GOOD = ("proxy_http_version 1.1;", "proxy_set_header Host $http_host;")
UPGRADE = ("proxy_set_header Upgrade $http_upgrade;", "proxy_set_header Connection $connection_upgrade;")
Report = tuple[int, dict[str, Any]]
Router = Callable[[int], AbstractContextManager[str]]  # in front of a relay's port; its address
MAP = 'map $http_upgrade $connection_upgrade { default upgrade; "" ""; }'


@pytest.fixture(scope="module")
def server() -> Iterator[Relay]:
    with relay(HEARTBEAT_SECONDS="2") as started:
        yield started
        wait_until(lambda: started.counts() == {"unfinished": 0, "ended": 0}, "no run was begun")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flask", "--app", "app", "doctor", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(ROOT), **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50)


def examined(url: str, **environment: str) -> Report:
    """Return the exit code, and the verdicts by check."""
    done = run(url, "--json", **environment)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["ok"] is (done.returncode == 0)
    return done.returncode, {each["check"]: each for each in told["checks"]} | {"way": told["way"]}


def bad(checks: dict[str, Any]) -> dict[str, str]:
    return {name: each["state"] for name, each in checks.items() if name != "way" and each["state"] in {"warn", "fail"}}


def test_a_relay_alone_is_all_green_on_paper_and_for_machines(server: Relay) -> None:
    done = run(server.url, "--minutes", "0.05")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"{server.url}\nok    tls ")
    assert "\x1b" not in done.stdout  # colours are for terminals
    marks = [line[:4].strip() for line in done.stdout.splitlines()[1:] if line[:4].strip()]
    assert set(marks) == {"ok"}
    assert re.search(r"^ok    longest stream  5 s came through$", done.stdout, re.MULTILINE)
    assert "20 frames came as they were sent" in done.stdout


def test_nothing_listens_and_nothing_is_a_relay() -> None:
    code, checks = examined(f"http://127.0.0.1:{free_port()}")
    assert (code, bad(checks)) == (1, {"reachable": "fail"})
    assert "refused" in checks["reachable"]["says"]
    http, port = proxied(free_port())
    with nginx(http, port) as proxy:
        code, checks = examined(proxy.url)
    assert (code, bad(checks)) == (1, {"reachable": "fail"})
    assert "HTTP 502" in checks["reachable"]["says"]
    assert "no relay behind it" in checks["reachable"]["says"]


def test_the_configuration_that_is_shipped_is_green_over_tls_and_http_2(server: Relay, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    tls_port = free_port()
    http, port = deployed(server.port, tls=(certificate, key, tls_port))
    with nginx(http, port) as proxy:
        code, checks = examined(f"https://127.0.0.1:{tls_port}", SSL_CERT_FILE=str(certificate))
        assert (code, bad(checks)) == (0, {"tls": "warn"}), checks
        assert re.search("good for [12] days$", checks["tls"]["says"])
        assert checks["http version"]["says"] == "HTTP/2 for browsers"
        assert checks["way"] == "nginx"
        code, checks = examined(f"https://127.0.0.1:{tls_port}")
        assert (code, bad(checks)) == (1, {"tls": "fail"})
        assert re.search("self.signed certificate", checks["tls"]["says"])
        assert proxy.log().count("[error]") == 0, proxy.log()


def behind(*lines: str, base: tuple[str, ...] = (*GOOD, *UPGRADE)) -> Router:
    """Return nginx with these lines, beside what it needs."""

    @contextmanager
    def start(relay_port: int) -> Iterator[str]:
        http, port = proxied(relay_port, *base, *lines, names=MAP)
        with nginx(http, port) as proxy:
            yield proxy.url

    return start


def cutting(seconds: float) -> Router:
    """Return a router that cuts every connection when it has lived so long."""

    @contextmanager
    def start(relay_port: int) -> Iterator[str]:
        def serve(client: socket.socket, _address: object) -> None:
            with client, socket.create_connection(("127.0.0.1", relay_port)) as there:
                pumps = [gevent.spawn(_pump, client, there), gevent.spawn(_pump, there, client)]
                gevent.joinall(pumps, timeout=seconds, count=1)
                gevent.killall(pumps)

        server = StreamServer(("127.0.0.1", 0), serve)
        server.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.stop()

    return start


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


def two_instances(*, shared: bool) -> Router:
    """Return the shipped nginx in front of two relays of its own."""

    @contextmanager
    def start(_relay_port: int) -> Iterator[str]:
        with ExitStack() as stack:
            settings = {"HEARTBEAT_SECONDS": "1"}
            if shared:
                settings["REDIS_URL"] = stack.enter_context(redis_server()).url
            relays = [stack.enter_context(relay(**settings)) for _ in range(2)]
            http, port = deployed(*(each.port for each in relays))
            yield stack.enter_context(nginx(http, port)).url

    return start


IGNORED = ("proxy_ignore_headers X-Accel-Buffering;", "proxy_buffering on;")
STRIPPED = (
    "proxy_hide_header Cache-Control;",
    "proxy_hide_header X-Content-Type-Options;",
    'proxy_set_header Last-Event-ID "";',
)
ROUTERS = {
    "buffers": behind(*IGNORED, base=("proxy_set_header Host $http_host;", *UPGRADE)),
    "compresses": behind(*IGNORED, "gzip on;", "gzip_proxied any;", "gzip_types text/event-stream;"),
    "cuts in silence": behind("proxy_read_timeout 700ms;"),
    "cuts after a time": cutting(CUT_SECONDS),
    "strips headers": behind(*STRIPPED),
    "502 to who comes back": behind("if ($http_last_event_id) { return 502; }"),
    "as it comes": behind(base=()),
    "two instances": two_instances(shared=False),
    "two instances over Redis": two_instances(shared=True),
}


@pytest.fixture(scope="module")
def reports(server: Relay) -> Iterator[dict[str, Report]]:
    """What the doctor says of each router, some at a time: each takes ten seconds of waiting."""
    with ExitStack() as stack:
        urls = [stack.enter_context(start(server.port)) for start in ROUTERS.values()]
        yield dict(zip(ROUTERS, Pool(4).map(examined, urls), strict=True))


def test_nginx_that_buffers_and_ignores_the_header(reports: dict[str, Report]) -> None:
    code, checks = reports["buffers"]
    assert (code, checks["way"]) == (1, "nginx")
    held = {"buffering": "fail", "first byte": "fail", "heartbeat": "fail"}
    assert bad(checks) == {"http version": "fail", **held}, checks  # HTTP/1.1 it passes on as it comes
    assert re.match(
        r"20 frames, sent over \d\.\d s, came in one lump, up to \d\.\d s late; by nginx$", checks["buffering"]["says"]
    )
    assert "proxy_ignore_headers X-Accel-Buffering" in checks["buffering"]["fix"]


def test_nginx_that_compresses_and_holds_back(reports: dict[str, Report]) -> None:
    code, checks = reports["compresses"]
    assert (code, bad(checks)) == (1, {"compression": "fail"}), checks
    assert checks["compression"]["says"].startswith("gzip by somebody on the way (nginx) holds frames back")
    assert "text/event-stream" in checks["compression"]["fix"]


def test_a_proxy_that_cuts_after_a_time(reports: dict[str, Report]) -> None:
    code, checks = reports["cuts after a time"]
    assert (code, bad(checks)) == (1, {"longest stream": "fail"}), checks
    assert re.match(r"cut after [23]\.\d s, although frames came", checks["longest stream"]["says"])
    assert re.match(r"STREAM_MAX_SECONDS=[23]:", checks["longest stream"]["fix"])
    assert "see longest stream" in checks["heartbeat"]["says"]


def test_a_proxy_that_cuts_in_silence(reports: dict[str, Report]) -> None:
    code, checks = reports["cuts in silence"]
    assert (code, bad(checks)) == (1, {"heartbeat": "fail"}), checks
    assert re.match(r"cut after [01]\.\d s of silence; HEARTBEAT_SECONDS is 2$", checks["heartbeat"]["says"])
    assert re.match(r"HEARTBEAT_SECONDS=0\.\d+, ", checks["heartbeat"]["fix"])
    assert "proxy_read_timeout 1h" in checks["heartbeat"]["fix"]


def test_a_proxy_that_strips_headers_of_answers_and_of_requests(reports: dict[str, Report]) -> None:
    code, checks = reports["strips headers"]
    assert (code, bad(checks)) == (1, {"headers": "fail", "resume": "fail"}), checks
    assert "Cache-Control lost no-store; Cache-Control lost no-transform" in checks["headers"]["says"]
    assert "X-Content-Type-Options is gone" in checks["headers"]["says"]
    assert "Last-Event-ID does not reach the relay" in checks["resume"]["says"]


def test_a_proxy_that_answers_502_to_who_comes_back(reports: dict[str, Report]) -> None:
    code, checks = reports["502 to who comes back"]
    assert (code, bad(checks)) == (1, {"resume": "fail"}), checks
    assert "got HTTP 502, 3 times; EventSource gives up" in checks["resume"]["says"]
    assert "max_fails" in checks["resume"]["fix"]


def test_nginx_as_it_comes(reports: dict[str, Report]) -> None:
    """HTTP/1.0 to the relay, another Host, no upgrade: what `proxy_pass` alone gives."""
    code, checks = reports["as it comes"]
    assert (code, bad(checks)) == (1, {"http version": "fail", "headers": "warn", "websocket": "warn"}), checks
    assert "proxy_http_version 1.1" in checks["http version"]["fix"]
    assert "$http_host" in checks["headers"]["fix"]
    assert "$http_upgrade" in checks["websocket"]["fix"]


def test_two_instances_that_do_not_share_their_runs(reports: dict[str, Report]) -> None:
    code, checks = reports["two instances"]
    assert (code, bad(checks)) == (1, {"instances": "fail"}), checks
    assert "other_instance" in checks["instances"]["says"]
    assert "REDIS_URL" in checks["instances"]["fix"]


def test_two_instances_that_share_a_store_are_green(reports: dict[str, Report]) -> None:
    code, checks = reports["two instances over Redis"]
    assert (code, bad(checks)) == (0, {}), checks
    assert checks["instances"]["says"] == "2 answered, and share their runs"
