"""Puts together who may ask, and how much, for app.py."""

import logging

from streaming import access_settings
from streaming.relay.allowance import Allowance, Terms
from streaming.relay.store import Store
from streaming.settings import Settings
from streaming.upstream_settings import UpstreamSettings
from streaming.web.addresses import is_loopback
from streaming.web.credentials import ApiKeys, Tokens
from streaming.web.guard import WAYS_OUT, Guard
from streaming.web.visitors import Visitors

log = logging.getLogger("sluice")


def served(settings: Settings) -> tuple[UpstreamSettings, ...]:
    """Return the upstreams that may be asked: where strangers come in and nobody said that they may, what is free."""
    if not settings.open:
        return settings.upstreams
    if is_loopback(settings.host):
        log.warning("Nobody has said who may ask: this machine may. %s.", WAYS_OUT)
        return settings.upstreams
    log.warning("Nobody has said who may ask, and HOST is %s: the demo alone answers. %s.", settings.host, WAYS_OUT)
    free = tuple(each for each in settings.upstreams if each.dialect == "demo")
    return free or (UpstreamSettings(),)


def guard(settings: Settings, *, demo_only: bool) -> Guard:
    """Return who tells callers apart; `demo_only`: what is served costs nobody anything."""
    tokens = None
    if settings.jwt_secret or settings.jwt_public_key:
        tokens = Tokens(
            secret=settings.jwt_secret,
            public_key=access_settings.jwt_key_text(settings.jwt_public_key) if settings.jwt_public_key else "",
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
        )
    return Guard(
        keys=ApiKeys(access_settings.api_keys(settings.api_keys)),
        tokens=tokens,
        page=Visitors(settings.secret_key) if settings.public_page else None,
        anonymous=settings.allow_anonymous,
        demo_only=demo_only,
        proxies=settings.trusted_proxies,
    )


def allowance(settings: Settings, store: Store) -> Allowance:
    """Return how much each of them may ask."""
    rates = access_settings.by_tier(settings.rate_limit)
    streams = access_settings.by_tier(settings.max_streams_per_caller)
    tokens = access_settings.by_tier(settings.daily_tokens_per_caller)

    def terms(tier: str | None, rate: str) -> Terms:
        return Terms(
            rates=access_settings.rates(rate),
            streams=access_settings.count(streams.get(tier, streams.get(None, "off"))),
            daily_tokens=access_settings.count(tokens.get(tier, tokens.get(None, "off"))),
        )

    return Allowance(
        store.counters(),
        strangers=terms(None, rates.get(None, access_settings.STRANGERS_RATE)),
        known=terms(None, "off"),
        tiers={tier: terms(tier, rates.get(tier, "off")) for tier in {*rates, *streams, *tokens} if tier},
        run_max_seconds=settings.run_max_seconds,
    )
