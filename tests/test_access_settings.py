"""Who may ask, and how much."""

from pathlib import Path

import pytest

from streaming import access
from streaming.access_settings import by_tier as by_tiers
from streaming.access_settings import rates
from streaming.relay.stores.memory import MemoryStore
from streaming.settings import Settings
from tests.settings_cases import OPENAI, SECRET, problems_of, upstream_of


class TestAccess:
    @pytest.mark.parametrize(
        ("mapping", "problem"),
        [
            ({"API_KEYS": "short"}, "API_KEYS (not shown): allowed is keys of 16"),
            ({"API_KEYS": f"a:{SECRET * 3}:x"}, "API_KEYS (not shown)"),
            ({"API_KEYS": f"a:{SECRET * 3}1,a:{SECRET * 3}2"}, "API_KEYS: a name or a key is there twice"),
            ({"API_KEYS": f"a:{SECRET * 3},b:{SECRET * 3}"}, "API_KEYS: a name or a key is there twice"),
            ({"API_KEYS": f"a@pro:{SECRET * 3}"}, "API_KEYS: the tier 'pro' is in none of RATE_LIMIT"),
            ({"JWT_SECRET": "short"}, "JWT_SECRET (not shown): allowed is 32 characters"),
            ({"JWT_SECRET": "x" * 32, "JWT_PUBLIC_KEY": "/nowhere"}, "JWT_SECRET is set beside JWT_PUBLIC_KEY"),
            ({"JWT_AUDIENCE": "a"}, "JWT_AUDIENCE is set without a key"),
            ({"JWT_PUBLIC_KEY": "/nowhere"}, "JWT_PUBLIC_KEY (not shown): the file cannot be read"),
            ({"SECRET_KEY": "short"}, "SECRET_KEY (not shown): allowed is 32 characters"),
            ({"PUBLIC_PAGE": "1", "REDIS_URL": "redis://h/0"}, "SECRET_KEY is not set: PUBLIC_PAGE beside REDIS_URL"),
            ({"RATE_LIMIT": "10"}, "RATE_LIMIT is '10': allowed is off, or rates such as 10/minute"),
            ({"RATE_LIMIT": "0/minute"}, "RATE_LIMIT is '0/minute'"),
            ({"MAX_STREAMS_PER_CALLER": "0"}, "MAX_STREAMS_PER_CALLER is '0': allowed is a whole number above 0"),
            ({"DAILY_TOKENS_PER_CALLER": "pro=many"}, "DAILY_TOKENS_PER_CALLER is 'pro=many'"),
            ({"TRUSTED_PROXIES": "10.0.0.0/8"}, "TRUSTED_PROXIES is '10.0.0.0/8': allowed is auto, a number"),
            ({**OPENAI, "UPSTREAM_MAX_TOKENS": "0"}, "UPSTREAM_MAX_TOKENS is 0: allowed is a whole number at least 1"),
            ({**OPENAI, "UPSTREAM_MAX_TOKENS": "many"}, "UPSTREAM_MAX_TOKENS is 'many'"),
            ({**OPENAI, "UPSTREAM_OPTIONS": "heat"}, "UPSTREAM_OPTIONS is 'heat': allowed is names of options"),
        ],
    )
    def test_what_cannot_be_stops_the_start(self, mapping: dict[str, str], problem: str) -> None:
        told, *_ = problems_of(mapping)
        assert told.startswith(problem)
        assert SECRET not in told

    def test_limits_are_read_by_tier(self) -> None:
        settings = Settings.from_env({"RATE_LIMIT": "5/minute;100/2day, pro=off, free=1/hour"})
        by_tier = {tier: rates(text) for tier, text in by_tiers(settings.rate_limit).items()}
        assert {tier: [(each.amount, each.get_expiry()) for each in many] for tier, many in by_tier.items()} == {
            None: [(5, 60), (100, 172_800)],
            "pro": [],
            "free": [(1, 3600)],
        }

    def test_strangers_keep_their_limit_where_only_tiers_are_named(self) -> None:
        allowed = access.allowance(Settings.from_env({"RATE_LIMIT": "pro=9/minute"}), MemoryStore())
        assert [each.amount for each in allowed._strangers.rates] == [10]

    def test_what_an_upstream_allows_may_come_from_a_file_too(self, tmp_path: Path) -> None:
        file = tmp_path / "upstreams.toml"
        start = '[[upstream]]\nname = "a"\ndialect = "ollama"\nmodel = "m"\n'
        file.write_text(f'{start}max_tokens = 9\noptions = ["seed", "stop"]\n')
        upstream = upstream_of(UPSTREAMS_FILE=str(file))
        assert (upstream.max_tokens, upstream.options) == (9, ("seed", "stop"))
        by_variables = upstream_of(**OPENAI, UPSTREAM_MAX_TOKENS="9", UPSTREAM_OPTIONS="seed, stop")
        assert (by_variables.max_tokens, by_variables.options) == (9, ("seed", "stop"))
