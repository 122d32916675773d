"""Verdicts on the way itself: reachable, TLS, HTTP version, headers, WebSocket."""

from streaming.doctor.hops import Hop, names
from streaming.doctor.measured import Answer, Stream, Tls, Trouble, Unreachable, Upgrade
from streaming.doctor.verdict import Verdict, fail, ok, warn

RENEW_DAYS = 14  # what renews certificates by itself has done it by then
SLOW_SECONDS = 1.0
ROUTER_SECONDS = 30.0  # the shortest that a router waits for a first byte: Heroku's
_GATEWAY = {502, 503, 504}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_TROUBLES: dict[Trouble, str] = {
    "refused": "Nothing listens there: start the relay, or look at HOST and PORT (platforms want 0.0.0.0:$PORT).",
    "timeout": "No answer came: a firewall, or a relay behind a router that does not know it.",
    "dns": "The name is unknown: look at the domain's records.",
    "tls": "Renew the certificate, or send the whole chain (fullchain.pem); browsers refuse this one too.",
    "broken": "The connection broke before an answer: look at the relay's log, and at the router's.",
}


def unreachable(error: Unreachable) -> Verdict:
    """Return the verdict where no answer came."""
    check = "tls" if error.trouble == "tls" else "reachable"
    return fail(check, f"no answer: {error}", _TROUBLES[error.trouble])


def reachable(answer: Answer, url: str) -> Verdict:
    """Return the verdict on `GET /healthz`."""
    said = f"{answer} in {answer.seconds:.2f} s"
    if answer.status == 200:
        return ok("reachable", said)
    if 300 <= answer.status < 400:
        target = answer.headers.get("location", "somewhere else").removesuffix("/healthz")
        return fail("reachable", f"{said}, to {target}", "Give the doctor, and your pages, that address.")
    if answer.status in _GATEWAY:
        return fail("reachable", f"{said}: a router answers, no relay behind it", "Look whether the relay runs.")
    if answer.status in {401, 403}:
        return fail("reachable", said, "Something asks for a login before the relay: let its paths through.")
    return fail("reachable", f"{said}: no relay answers at {url}", "Look at the path: the relay wants all of it.")


def tls(told: Tls) -> Verdict:
    """Return the verdict on a handshake that went well."""
    says = f"{told.version}, the certificate is good for {told.days_left:.0f} days"
    if told.days_left < RENEW_DAYS:
        return warn("tls", says, "Renew the certificate, and look why nothing did.")
    return ok("tls", says)


def not_encrypted(host: str) -> Verdict:
    """Return the verdict on an http:// address."""
    if host in _LOOPBACK:
        return ok("tls", "none, and none is needed on this machine")
    return warn("tls", "none: prompts and answers can be read on the way", "Serve the relay over https://.")


def http_version(stream: Stream, told: Tls | None) -> Verdict:
    """Return the verdict on both sides of the router; `told` None: no TLS, where browsers speak HTTP/1.1 only."""
    towards = stream.start.protocol if stream.start else ""
    if towards == "HTTP/1.0":
        return fail(
            "http version",
            "the router speaks HTTP/1.0 to the relay: a stream that is cut looks like one that ended",
            "nginx: `proxy_http_version 1.1;`.",
        )
    if told is not None and told.protocol != "h2":
        return warn(
            "http version",
            "HTTP/1.1: a browser opens at most six streams to a site, all its tabs together",
            "Switch HTTP/2 on at the edge; nginx: `listen 443 ssl http2;`.",
        )
    return ok("http version", "HTTP/2 for browsers" if told else f"{stream.answer.version}, as without TLS")


def headers(stream: Stream, authority: str, hops: list[Hop]) -> Verdict:
    """Return the verdict on the headers of a stream, and on the one that the relay must see."""
    got, wrong = stream.answer.headers, []
    if not got.get("content-type", "").startswith("text/event-stream"):
        wrong.append(f"Content-Type is {got.get('content-type', 'gone')}")
    caching = got.get("cache-control", "")
    wrong += [f"Cache-Control lost {word}" for word in ("no-store", "no-transform") if word not in caching]
    if "x-content-type-options" not in got:
        wrong.append("X-Content-Type-Options is gone")
    if "content-length" in got:
        wrong.append("there is a Content-Length, so the stream was read to its end first")
    if got.get("x-cache", "").lower().startswith("hit") or got.get("age", "0") != "0":
        wrong.append("it comes from a cache")
    if wrong:
        fix = f"Let the relay's headers through, and cache nothing of it; on the way: {names(hops)}."
        return fail("headers", "; ".join(wrong), fix)
    if stream.start and _bare(stream.start.host) != _bare(authority):
        return warn(
            "headers",
            "the relay sees another Host, and refuses the WebSockets of its own pages",
            "Pass the host on; nginx: `proxy_set_header Host $http_host;`.",
        )
    if got.get("x-request-id") != stream.request_id:
        return warn(
            "headers",
            "X-Request-Id is replaced on the way, so a page's id does not find the relay's log line",
            "Let X-Request-Id through in both directions.",
        )
    return ok("headers", "all there")


def _bare(host: str) -> str:
    return host.lower().removesuffix(":80").removesuffix(":443")


def first_byte(stream: Stream) -> Verdict:
    """Return the verdict on how soon a stream begins."""
    seconds = stream.answer.seconds if stream.first_byte is None else stream.first_byte
    says = f"after {seconds:.2f} s; the shortest router limit is {ROUTER_SECONDS:.0f} s"
    if seconds < SLOW_SECONDS:
        return ok("first byte", says)
    if stream.held_back:
        return fail("first byte", says, "It is held back with the frames: see buffering.")
    state = fail if seconds > ROUTER_SECONDS / 2 else warn
    return state("first byte", says, "The relay's own takes milliseconds: look for cold starts, and at the distance.")


def websocket(told: Upgrade, hops: list[Hop]) -> Verdict:
    """Return the verdict on `GET /ws`. Nothing but WebSocket clients needs it."""
    if told.answered:
        return ok("websocket", "opened, and a message was answered")
    nginx = "nginx: `proxy_set_header Upgrade $http_upgrade;` and `Connection $connection_upgrade;` (docs/nginx.md)"
    if told.status == 101:
        return warn("websocket", "opened, but no message came back", f"Let both directions through; {nginx}.")
    said = f"HTTP {told.status}" if told.status else "the connection broke"
    return warn(
        "websocket",
        f"not opened: {said}; only clients of /ws miss it",
        f"Let the upgrade through; {nginx}; on the way: {names(hops)}.",
    )
