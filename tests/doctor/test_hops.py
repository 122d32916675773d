"""Who is on the way, by what they leave in headers and names."""

import pytest

from streaming.doctor.hops import HOPS, advice, hops_of, names
from tests.doctor.streams import HEADERS


@pytest.mark.parametrize(
    ("headers", "host", "expected"),
    [
        ({"server": "gunicorn"}, "relay.example", "nobody who names himself"),
        ({"server": "nginx/1.22.1"}, "relay.example", "nginx"),
        ({"server": "nginx/1.22.1", "x-accel-buffering": None}, "relay.example", "nginx"),
        ({"server": "openresty"}, "relay.example", "nginx"),
        ({"server": "cloudflare", "cf-ray": "8a-FRA"}, "relay.example", "Cloudflare"),
        ({"cf-ray": "8a"}, "a-b.trycloudflare.com", "Cloudflare quick tunnel, Cloudflare"),
        (
            {"server": "cloudflare", "x-accel-buffering": None},
            "relay.example",
            "Cloudflare, an nginx further in (something took X-Accel-Buffering away)",
        ),
        ({"via": "1.1 vegur"}, "relay.example", "Heroku"),
        ({"via": "2.0 heroku-router"}, "relay.example", "Heroku"),
        ({}, "app.herokuapp.com", "Heroku"),
        ({}, "herokuapp.com.example", "nobody who names himself"),
        ({"fly-request-id": "01"}, "relay.example", "Fly.io"),
        ({"x-vercel-id": "fra1::x"}, "relay.example", "Vercel"),
        ({"server": "Google Frontend"}, "relay.example", "Cloud Run"),
        ({"x-amz-cf-id": "x", "x-cache": "Miss from cloudfront"}, "relay.example", "Amazon CloudFront, a cache"),
        ({"via": "1.1 varnish"}, "relay.example", "Fastly or Varnish"),
        ({"server": "Caddy"}, "relay.example", "Caddy"),
        ({}, "x.ngrok-free.app", "ngrok"),
    ],
)
def test_who_names_himself(headers: dict[str, str | None], host: str, expected: str) -> None:
    merged = {name: value for name, value in {**HEADERS, **headers}.items() if value is not None}
    assert names(hops_of(merged, host)) == expected


def test_advice_names_each_hop_once_and_there_is_always_some() -> None:
    hops = hops_of({**HEADERS, "server": "nginx", "via": "1.1 varnish"}, "relay.example")
    assert advice(hops, "buffering", "?").count("nginx: ") == 1
    assert "Varnish" in advice(hops, "buffering", "?")
    assert advice([], "buffering", "look closer") == "look closer"


def test_every_hop_can_say_something() -> None:
    assert [hop.name for hop in HOPS if not (hop.buffering or hop.limits)] == []
    assert len({hop.name for hop in HOPS}) == len(HOPS)
