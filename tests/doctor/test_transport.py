"""Verdicts on the way itself, in the same form as those on the flow."""

from collections.abc import Callable

import pytest

from streaming.doctor import transport
from streaming.doctor.hops import hops_of
from streaming.doctor.measured import Tls, Unreachable, Upgrade
from streaming.doctor.verdict import Verdict
from tests.doctor.streams import HEADERS, answer, start, stream

NGINX = hops_of({**HEADERS, "server": "nginx"}, "relay.example")


def headers(host: str = "relay.example", authority: str = "relay.example", **changed: str | None) -> Verdict:
    return transport.headers(stream(answer=answer(**changed), start=start(host=host)), authority, NGINX)


URL = "https://relay.example"
CASES: list[tuple[str, Callable[[], Verdict], str, str, str]] = [
    ("there", lambda: transport.reachable(answer(), URL), "ok", "HTTP 200", ""),
    (
        "moved",
        lambda: transport.reachable(answer(301, location="https://new.example/healthz"), URL),
        "fail",
        "to https://new.example",
        "that address",
    ),
    ("no relay behind", lambda: transport.reachable(answer(502), URL), "fail", "a router answers", "runs"),
    ("a login before it", lambda: transport.reachable(answer(401), URL), "fail", "HTTP 401", "login"),
    ("somebody else", lambda: transport.reachable(answer(404), URL), "fail", f"no relay answers at {URL}", "path"),
    ("refused", lambda: transport.unreachable(Unreachable("refused", "E")), "fail", "no answer: E", "0.0.0.0:$PORT"),
    ("no name", lambda: transport.unreachable(Unreachable("dns", "E")), "fail", "no answer", "records"),
    ("bad certificate", lambda: transport.unreachable(Unreachable("tls", "E")), "fail", "no answer", "chain"),
    ("good certificate", lambda: transport.tls(Tls("TLSv1.3", "h2", 60.0)), "ok", "good for 60 days", ""),
    ("old certificate", lambda: transport.tls(Tls("TLSv1.3", "h2", 3.0)), "warn", "good for 3 days", "Renew"),
    ("loopback", lambda: transport.not_encrypted("127.0.0.1"), "ok", "none is needed", ""),
    ("plain http", lambda: transport.not_encrypted("relay.example"), "warn", "can be read", "https://"),
    ("h2", lambda: transport.http_version(stream(), Tls("TLSv1.3", "h2", 60.0)), "ok", "HTTP/2", ""),
    ("no h2", lambda: transport.http_version(stream(), Tls("TLSv1.3", "", 60.0)), "warn", "six streams", "http2"),
    ("no TLS", lambda: transport.http_version(stream(), None), "ok", "HTTP/1.1", ""),
    (
        "1.0 inside",
        lambda: transport.http_version(stream(start=start(protocol="HTTP/1.0")), Tls("TLSv1.3", "h2", 60.0)),
        "fail",
        "HTTP/1.0 to the relay",
        "proxy_http_version 1.1",
    ),
    ("all headers", headers, "ok", "all there", ""),
    ("nginx takes its own", lambda: headers(x_accel_buffering=None), "ok", "all there", ""),
    ("another type", lambda: headers(content_type="text/html"), "fail", "Content-Type is text/html", "nginx"),
    ("no type", lambda: headers(content_type=None), "fail", "Content-Type is gone", ""),
    ("no-transform lost", lambda: headers(cache_control="no-store"), "fail", "lost no-transform", "cache nothing"),
    ("a length", lambda: headers(content_length="9"), "fail", "read to its end first", ""),
    ("from a cache", lambda: headers(age="17"), "fail", "comes from a cache", ""),
    ("another id", lambda: headers(x_request_id="z"), "warn", "X-Request-Id is replaced", ""),
    ("another host", lambda: headers(host="127.0.0.1:8000"), "warn", "another Host", "$http_host"),
    ("the usual port", lambda: headers(authority="Relay.example:443"), "ok", "all there", ""),
    ("a quick byte", lambda: transport.first_byte(stream()), "ok", "after 0.03 s", ""),
    ("a slow byte", lambda: transport.first_byte(stream(first_byte=3.0)), "warn", "after 3.00 s", "cold starts"),
    ("nearly too late", lambda: transport.first_byte(stream(first_byte=20.0)), "fail", "after 20.00 s", "cold starts"),
    ("held", lambda: transport.first_byte(stream([2.0] * 20)), "fail", "after 2.00 s", "see buffering"),
    ("ws", lambda: transport.websocket(Upgrade(101, answered=True), []), "ok", "answered", ""),
    ("ws, one way", lambda: transport.websocket(Upgrade(101), []), "warn", "no message came back", "$http_upgrade"),
    ("no ws", lambda: transport.websocket(Upgrade(400), NGINX), "warn", "HTTP 400", "on the way: nginx"),
    ("ws broke", lambda: transport.websocket(Upgrade(0), []), "warn", "the connection broke", "$http_upgrade"),
]


@pytest.mark.parametrize(("judge", "state", "says", "fix"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_the_verdict(judge: Callable[[], Verdict], state: str, says: str, fix: str) -> None:
    verdict = judge()
    assert verdict.state == state
    assert says in verdict.says
    assert fix in verdict.fix
    assert bool(verdict.fix) == (state in {"warn", "fail"})
