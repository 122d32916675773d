"""deploy/nginx.conf, as it is shipped, in a real nginx in front of real relays."""

import json
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise

import gevent
import pytest
import requests

from streaming.doctor.site import Site
from tests.faults.nginx import DEPLOYED, Nginx, deployed, nginx, self_signed
from tests.faults.site import Follower, Paced
from tests.live import WAIT_SECONDS, Relay, ScriptedUpstream, free_port, relay, scripted, wait_until
from tests.web.client import request, sse_events

SCRIPT = Paced(60, 0.05)  # three seconds of tokens
FOLLOWERS = 12


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with scripted(SCRIPT) as server:
        yield server


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Relay]:
    settings = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m"}
    with relay(**settings, HEARTBEAT_SECONDS="0.5") as started:
        yield started
        wait_until(lambda: started.counts()["unfinished"] == 0, "every run has ended")


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def proxy(server: Relay, tls_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """The shipped file, with TLS switched on as its comment says."""
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"))
    http, port = deployed(server.port, tls=(certificate, key, tls_port))
    with nginx(http, port, shutdown_seconds=1) as started:
        yield started


def test_it_is_good_with_and_without_tls(server: Relay, proxy: Nginx) -> None:
    assert "syntax is ok" in proxy.check()
    http, port = deployed(server.port)
    with nginx(http, port) as plain:
        assert "[warn]" not in plain.check()


def arrivals(url: str, headers: dict[str, str]) -> tuple[dict[str, str], list[float], str]:
    """Return a stream's headers, when its tokens came, and its text."""
    times, texts = [], []
    with request(url, headers=headers, patience_seconds=WAIT_SECONDS) as response:
        for chunk in response.chunks():
            for event in sse_events(chunk):
                if event.type == "message":
                    times.append(time.monotonic())
                    texts.append(json.loads(event.data)["text"])
        assert response.complete
        return response.headers, times, "".join(texts)


@pytest.mark.parametrize(
    ("shipped", "changed", "encoding"),
    [
        pytest.param("", "", "", id="as shipped"),
        pytest.param("proxy_http_version 1.1;", "proxy_http_version 1.0;", "", id="HTTP/1.0 to the relay"),
        pytest.param("gzip_types ", "gzip_types text/event-stream ", "gzip", id="gzip for streams"),
    ],
)
def test_the_header_alone_switches_buffering_off(server: Relay, shipped: str, changed: str, encoding: str) -> None:
    """Where nginx buffers (test_doctor has both cases), it holds such streams to their end."""
    directives = "".join(line.partition("#")[0] for line in DEPLOYED.read_text("utf-8").splitlines())
    assert "proxy_buffering" not in directives
    http, port = deployed(server.port)
    assert shipped in http
    with nginx(http.replace(shipped, changed) if shipped else http, port) as changed_proxy:
        stream = Site(changed_proxy.url).watch(frames=20, interval=0.05, headers={"Accept-Encoding": "gzip"})
    assert (stream.encoding, stream.held_back, stream.ended) == (encoding, False, True), stream.lateness


def test_a_run_comes_token_by_token_beside_gzip(proxy: Nginx) -> None:
    """Pages are packed, streams are not, even for who accepts it."""
    headers, times, text = arrivals(f"{proxy.url}/stream?prompt=hi", {"Accept-Encoding": "gzip"})
    assert "content-encoding" not in headers
    assert "x-accel-buffering" not in headers  # nginx took it
    assert text == SCRIPT.text
    gaps = [after - before for before, after in pairwise(times)]
    assert len([gap for gap in gaps if gap > SCRIPT.seconds / 2]) > len(gaps) / 2
    assert times[-1] - times[0] > 0.8 * SCRIPT.count * SCRIPT.seconds
    page = requests.get(f"{proxy.url}/client.js", headers={"Accept-Encoding": "gzip"}, timeout=WAIT_SECONDS)
    assert page.headers["Content-Encoding"] == "gzip"


def test_browsers_get_http_2_and_many_streams_on_one_connection(proxy: Nginx, tls_port: int) -> None:
    """Ten at once over one connection: with HTTP/1.1 a browser would hold back the seventh."""
    url = f"https://127.0.0.1:{tls_port}/stream?prompt=[1-10]"
    command = [
        "curl",
        "-k",
        "--no-progress-meter",
        "--http2",
        "--parallel",
        "-w",
        "%{http_version} %{num_connects}\\n",
    ]
    begun = time.monotonic()
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=50)
    seconds = time.monotonic() - begun
    assert (done.returncode, done.stderr) == (0, "")
    written = [line for line in done.stdout.splitlines() if line.startswith("2 ")]
    assert len(written) == 10
    assert sum(int(line.split()[1]) for line in written) < 10
    assert done.stdout.count("event: end") == 10
    assert done.stdout.count('"reason":"done"') == 10
    assert seconds < 5 * SCRIPT.count * SCRIPT.seconds  # and not ten times: they flowed side by side


def test_a_websocket_goes_through(proxy: Nginx) -> None:
    assert Site(proxy.url).upgrade().answered


def test_a_reload_under_load_loses_no_token(server: Relay, proxy: Nginx) -> None:
    """Old workers are given a second: whoever is cut then comes back through the new one."""
    run_ids = [
        requests.post(
            f"{server.url}/runs", json={"prompt": "hi", "on_disconnect": "finish"}, timeout=WAIT_SECONDS
        ).json()
        for _ in range(FOLLOWERS)
    ]
    followers = [Follower(f"{proxy.url}{run['events_url']}", cuts=False) for run in run_ids]
    following = [gevent.spawn(follower.follow) for follower in followers]
    wait_until(lambda: all(len(follower.seqs) > 5 for follower in followers), "everybody has some tokens")
    proxy.reload()
    gevent.joinall(following, timeout=2 * WAIT_SECONDS, raise_error=True)
    for follower in followers:
        follower.check(SCRIPT)
    assert max(follower.connections for follower in followers) >= 2  # they were cut indeed


def test_what_may_have_begun_a_run_is_never_sent_twice() -> None:
    """The first relay takes the request and dies: nobody knows whether it asked. What begins nothing is sent on."""
    taken: list[str] = []

    def die(call: object) -> None:
        taken.append(call.path)  # type: ignore[attr-defined]
        call.connection.close()  # type: ignore[attr-defined]

    with scripted(die) as first, scripted(die) as second:
        http, port = deployed(first.port, second.port)
        with nginx(http.replace("max_fails=1", "max_fails=0"), port) as proxy:
            taken.clear()
            for method, path in [
                ("GET", "/stream?prompt=hi"),
                ("POST", "/stream"),
                ("POST", "/runs"),
                ("POST", "/chat"),
            ]:
                answer = requests.request(method, f"{proxy.url}{path}", timeout=WAIT_SECONDS)
                assert answer.status_code == 502
            assert taken == ["/stream?prompt=hi", "/stream", "/runs", "/chat"]
            taken.clear()
            requests.get(f"{proxy.url}/runs/x", timeout=WAIT_SECONDS)
            assert taken == ["/runs/x", "/runs/x"]


def test_one_address_asks_only_so_often_and_may_resume_as_often_as_it_must(server: Relay) -> None:
    http, port = deployed(server.port)
    with nginx(http, port) as proxy:
        pool = requests.Session()
        answers = [pool.head(f"{proxy.url}/stream", timeout=WAIT_SECONDS) for _ in range(40)]
        assert {answer.status_code for answer in answers[:20]} == {405}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 10
        asked = pool.post(f"{proxy.url}/stream", timeout=WAIT_SECONDS)
        assert (asked.status_code, asked.headers["Retry-After"]) == (429, "1")
        assert asked.json()["error"]["code"] == "rate_limited"
        resume = {"Last-Event-ID": "a" * 26 + ".1"}
        resumed = {pool.get(f"{proxy.url}/stream", headers=resume, timeout=WAIT_SECONDS).status_code for _ in range(40)}
        assert resumed == {200}
        assert pool.get(f"{proxy.url}/healthz", timeout=WAIT_SECONDS).status_code == 200
        pool.close()
