"""Who stands on the way, as far as headers and the host's name tell, and what to change there.

The limits are OPS's: what vendors document, or users have measured.
"""

import re
from collections.abc import Mapping

import msgspec

HOST = "(host)"  # a sign in the address itself, not in a header


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy, CDN, tunnel or platform. `buffering` and `limits` say what to change there; "" = nothing is known."""

    name: str
    signs: tuple[tuple[str, str], ...]  # header (or HOST) and what its value looks like
    buffering: str = ""
    limits: str = ""


NGINX = Hop(
    name="nginx",
    signs=(("server", r"nginx|openresty|tengine"), ("via", r"\bnginx")),
    buffering="nginx: remove `proxy_ignore_headers X-Accel-Buffering`, or say `proxy_buffering off;` where it proxies",
    limits="nginx: `proxy_read_timeout 1h;` where it proxies",
)
_HIDDEN = msgspec.structs.replace(NGINX, name="an nginx further in (something took X-Accel-Buffering away)")

HOPS = (
    Hop(
        name="Cloudflare quick tunnel",
        signs=((HOST, r"\.trycloudflare\.com$"),),
        buffering="quick tunnels hold GET streams until their end (cloudflared#1449): use a named tunnel",
        limits="Cloudflare cuts after 100 s without a byte",
    ),
    Hop(
        name="Cloudflare",
        signs=(("cf-ray", ""), ("server", r"^cloudflare")),
        buffering="Cloudflare: no rule that caches or transforms this path; of its tunnels a named one",
        limits="Cloudflare cuts after 100 s without a byte",
    ),
    NGINX,
    Hop(
        name="Heroku",
        signs=(("via", r"vegur|heroku-router"), (HOST, r"\.herokuapp\.com$")),
        limits="Heroku: the first byte within 30 s, then one every 55 s",
    ),
    Hop(
        name="Render",
        signs=(("x-render-origin-server", ""), ("rndr-id", ""), (HOST, r"\.onrender\.com$")),
        limits="Render: no limit below its 100 minutes is known",
    ),
    Hop(
        name="Railway",
        signs=(("server", r"^railway"), ("x-railway-request-id", ""), (HOST, r"\.railway\.app$")),
        limits="Railway ends a request after 15 minutes: STREAM_MAX_SECONDS=840",
    ),
    Hop(
        name="Fly.io",
        signs=(("fly-request-id", ""), ("via", r"fly\.io"), (HOST, r"\.fly\.dev$")),
        limits="Fly.io: look for autostop in fly.toml; it must be off without Redis",
    ),
    Hop(
        name="Cloud Run",
        signs=(("server", r"^google frontend"), (HOST, r"\.run\.app$")),
        limits="Cloud Run ends a request at its timeout, 300 s at first: `--timeout=3600`, STREAM_MAX_SECONDS below it",
    ),
    Hop(
        name="Vercel",
        signs=(("x-vercel-id", ""), ("server", r"^vercel"), (HOST, r"\.vercel\.app$")),
        buffering="Vercel: a rewrite or function in between may hold streams; let browsers ask the relay's own address",
        limits="Vercel ends a function at its maxDuration",
    ),
    Hop(
        name="Amazon CloudFront",
        signs=(("x-amz-cf-id", ""), ("via", r"cloudfront")),
        buffering="CloudFront: a behaviour of its own for the relay, caching and `Compress objects` off",
        limits="CloudFront: raise the origin's response timeout, 30 s at first",
    ),
    Hop(
        name="Amazon API Gateway",
        signs=(("apigw-requestid", ""), ("x-amz-apigw-id", "")),
        buffering="API Gateway waits for the whole answer unless response streaming is on: put a load balancer there",
        limits="API Gateway ends requests after 29 or 30 s",
    ),
    Hop(
        name="AWS load balancer",
        signs=(("server", r"^awselb"), ("set-cookie", r"AWSALB")),
        limits="the load balancer's idle timeout, 60 s at first, must be above the heartbeat",
    ),
    Hop(
        name="Fastly or Varnish",
        signs=(("x-varnish", ""), ("via", r"varnish"), ("x-served-by", r"^cache-")),
        buffering="Varnish: `return (pass)` for the relay's paths and `set beresp.do_stream = true`",
        limits="Varnish: raise between_bytes_timeout, 60 s at first",
    ),
    Hop(
        name="Caddy",
        signs=(("server", r"^caddy"), ("via", r"caddy")),
        buffering="Caddy: `flush_interval -1` in reverse_proxy",
    ),
    Hop(
        name="Apache",
        signs=(("server", r"^apache"),),
        buffering="Apache: `ProxyPass … flushpackets=on`, and `SetEnv no-gzip 1` for the relay's paths",
        limits="Apache: `ProxyTimeout 3600`",
    ),
    Hop(
        name="Envoy",
        signs=(("server", r"envoy"), ("x-envoy-upstream-service-time", "")),
        buffering="Envoy: no buffer filter on the relay's route",
        limits="Envoy, Istio: `timeout: 0s` on the route and a stream_idle_timeout above the heartbeat",
    ),
    Hop(
        name="IIS",
        signs=(("server", r"^microsoft-iis"), ("x-powered-by", r"^ARR")),
        buffering="IIS: `responseBufferLimit=0` for the proxied path, dynamic compression off",
        limits="IIS: raise the proxy's timeout",
    ),
    Hop(
        name="Azure Front Door",
        signs=(("x-azure-ref", ""),),
        buffering="Front Door: caching and compression off on the relay's route",
        limits="Front Door: raise the origin's response timeout",
    ),
    Hop(name="Akamai", signs=(("server", r"^akamai"),), buffering="Akamai: neither cache nor change the relay's paths"),
    Hop(name="ngrok", signs=((HOST, r"\.ngrok(-free)?\.(app|dev|io)$"),), buffering="ngrok: no policy that compresses"),
    Hop(name="a cache", signs=(("x-cache", ""), ("age", "")), buffering="the cache: never store text/event-stream"),
)


def hops_of(headers: Mapping[str, str], host: str) -> list[Hop]:
    """Return who names himself in a stream's headers (their names in lower case) or in the host's name."""
    found = [hop for hop in HOPS if any(_shows(sign, headers, host) for sign in hop.signs)]
    # The relay always sends it; nginx hides it from its clients, even where it does not obey.
    if "x-accel-buffering" not in headers and NGINX not in found:
        found.append(_HIDDEN)
    return found


def _shows(sign: tuple[str, str], headers: Mapping[str, str], host: str) -> bool:
    name, pattern = sign
    value = host if name == HOST else headers.get(name)
    return value is not None and re.search(pattern, value, re.IGNORECASE) is not None


def names(hops: list[Hop]) -> str:
    """Return who is on the way, for a sentence."""
    return ", ".join(hop.name for hop in hops) or "nobody who names himself"


def advice(hops: list[Hop], what: str, otherwise: str) -> str:
    """Return what to change at the hops: `what` is "buffering" or "limits"; `otherwise` where nothing is known."""
    known = [text for hop in hops if (text := getattr(hop, what))]
    return "; ".join(dict.fromkeys(known)) or otherwise
