"""Settings from a mapping: defaults, values, what is shown of them, and what looks like a slip."""

from dataclasses import fields
from typing import Any, get_type_hints

import msgspec
import pytest

from streaming.settings import VARIABLES, Settings, SettingsError
from streaming.upstream_settings import UpstreamSettings
from tests.settings_cases import OPENAI, SECRET, problems_of, upstream_of


class TestDefaults:
    def test_an_empty_environment_means_the_structs_own_defaults(self) -> None:
        assert Settings.from_env({}) == Settings()

    def test_they_are_the_designs(self) -> None:
        settings = Settings()
        assert {field.name: getattr(settings, field.name) for field in fields(settings)} == {
            "upstreams": (UpstreamSettings(),),
            "host": "127.0.0.1",
            "port": 8000,
            "web_concurrency": 1,
            "redis_url": "",
            "redis_tls_insecure": False,
            "api_keys": (),
            "jwt_secret": "",
            "jwt_public_key": "",
            "jwt_audience": "",
            "jwt_issuer": "",
            "allow_anonymous": False,
            "public_page": False,
            "secret_key": "",
            "rate_limit": ("10/minute",),
            "max_streams_per_caller": (),
            "daily_tokens_per_caller": (),
            "trusted_proxies": "auto",
            "embed_origins": (),
            "log_format": "text",
            "log_sample": 1.0,
            "otel_exporter_otlp_endpoint": "",
            "cors_origins": (),
            "heartbeat_seconds": 15.0,
            "retry_ms": 2000,
            "chat_wait_seconds": 25.0,
            "disconnect_grace_seconds": 30.0,
            "stream_max_seconds": 0.0,
            "flush_ms": 0,
            "compress": "auto",
            "ws_idle_seconds": 300.0,
            "connect_timeout_seconds": 5.0,
            "idle_timeout_seconds": 60.0,
            "progress_timeout_seconds": 300.0,
            "run_max_seconds": 600.0,
            "run_max_bytes": 4 * 1024 * 1024,
            "max_upload_bytes": 15 * 1024 * 1024,
            "log_max_bytes": 128 * 1024 * 1024,
            "max_tries": 3,
            "max_runs": 5000,
            "write_timeout_seconds": 30.0,
            "shutdown_grace_seconds": 30.0,
            "run_ttl_seconds": 3600.0,
            "conversation_ttl_seconds": 86400.0,
            "conversation_max_turns": 50,
            "max_body_bytes": 1024 * 1024,
        }

    def test_every_default_is_one_that_could_be_asked_for(self) -> None:
        hints = get_type_hints(Settings, include_extras=True)
        for field in fields(Settings):
            if field.name != "upstreams":
                msgspec.convert(field.default, hints[field.name])

    def test_tests_may_leave_the_ranges(self) -> None:
        assert Settings(heartbeat_seconds=0.01, retry_ms=1, upstreams=()).upstreams == ()

    def test_settings_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            Settings().port = 1  # type: ignore[misc]

    @pytest.mark.parametrize("text", ["", "  ", "\t\n"])
    def test_an_empty_variable_counts_as_unset(self, text: str) -> None:
        assert Settings.from_env(dict.fromkeys(VARIABLES, text)) == Settings()

    def test_other_programs_variables_do_not_matter(self) -> None:
        assert Settings.from_env({"PATH": "/bin", "port": "1", "UPSTREAMS": "x", "upstreams": "x"}) == Settings()


class TestValues:
    @pytest.mark.parametrize(
        ("variable", "text", "value"),
        [
            ("PORT", "0", 0),
            ("PORT", " 8080\n", 8080),
            ("HOST", "::", "::"),
            ("HOST", "::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("HOST", "relay.example", "relay.example"),
            ("WEB_CONCURRENCY", "4", 4),
            ("HEARTBEAT_SECONDS", "25", 25.0),
            ("HEARTBEAT_SECONDS", "0.5", 0.5),
            ("STREAM_MAX_SECONDS", "0", 0.0),
            ("DISCONNECT_GRACE_SECONDS", "0", 0.0),
            ("CHAT_WAIT_SECONDS", "28", 28.0),
            ("RUN_MAX_BYTES", "65536", 65536),
            ("RUN_MAX_BYTES", "64KiB", 65536),
            ("RUN_MAX_BYTES", "64 kib", 65536),
            ("RUN_MAX_BYTES", "4MIB", 4 << 20),
            ("LOG_MAX_BYTES", "1GiB", 1 << 30),
            ("MAX_BODY_BYTES", "1024", 1024),
            ("EMBED_ORIGINS", "*", ("*",)),
            ("CORS_ORIGINS", "https://a.example, https://*.b.example", ("https://a.example", "https://*.b.example")),
            ("EMBED_ORIGINS", "https://a.example, http://b:8080", ("https://a.example", "http://b:8080")),
            ("EMBED_ORIGINS", "https://*.a.example\nhttps://[::1]:1", ("https://*.a.example", "https://[::1]:1")),
        ],
    )
    def test_good_ones(self, variable: str, text: str, value: Any) -> None:
        found = getattr(Settings.from_env({variable: text}), variable.lower())
        assert (found, type(found)) == (value, type(value))

    @pytest.mark.parametrize(
        ("variable", "text", "allowed"),
        [
            ("HOST", "0.0.0.0:80", "an address or a host name, without a port"),
            ("HOST", "http://x", "without a port"),
            ("EMBED_ORIGINS", "example.com", "origins such as https://example.com"),
            ("EMBED_ORIGINS", "https://a.example/", "origins such as"),
            ("EMBED_ORIGINS", "https://a.example; script-src *", "origins such as"),
            ("EMBED_ORIGINS", "https://a.*", "origins such as"),
            ("CORS_ORIGINS", "null", "origins such as"),
            ("HOST", "two words", "without a port"),
            ("PORT", "65536", "a whole number at least 0 and at most 65535"),
            ("PORT", "-1", "at least 0"),
            ("PORT", "80.5", "a whole number"),
            ("PORT", "http", "a whole number"),
            ("PORT", "8_000", "a whole number"),
            ("WEB_CONCURRENCY", "0", "at least 1"),
            ("WEB_CONCURRENCY", "auto", "a whole number"),
            ("HEARTBEAT_SECONDS", "25.1", "a number above 0 and at most 25"),
            ("HEARTBEAT_SECONDS", "0", "above 0"),
            ("HEARTBEAT_SECONDS", "-1", "above 0"),
            ("HEARTBEAT_SECONDS", "nan", "a number above 0"),
            ("HEARTBEAT_SECONDS", "inf", "at most 25"),
            ("HEARTBEAT_SECONDS", "15s", "a number"),
            ("RETRY_MS", "1.5", "a whole number"),
            ("RETRY_MS", "0", "at least 100 and at most 60000"),
            ("CHAT_WAIT_SECONDS", "28.5", "at most 28"),
            ("DISCONNECT_GRACE_SECONDS", "-0.1", "at least 0 and at most 3600"),
            ("STREAM_MAX_SECONDS", "-1", "at least 0"),
            ("STREAM_MAX_SECONDS", "nan", "at least 0"),
            ("CONNECT_TIMEOUT_SECONDS", "0", "above 0"),
            ("IDLE_TIMEOUT_SECONDS", "0", "above 0"),
            ("PROGRESS_TIMEOUT_SECONDS", "1e9", "at most 3600"),
            ("RUN_MAX_SECONDS", "infinity", "at most 86400"),
            ("RUN_MAX_BYTES", "4MB", "a size such as 65536, 64KiB, 4MiB or 1GiB, at least 1024"),
            ("RUN_MAX_BYTES", "4M", "a size"),
            ("RUN_MAX_BYTES", "0.5MiB", "a size"),
            ("RUN_MAX_BYTES", "-1", "a size"),
            ("RUN_MAX_BYTES", "٤MiB", "a size"),
            ("RUN_MAX_BYTES", "9" * 40, "a size"),
            ("LOG_MAX_BYTES", "1023", "at least 1024"),
            ("MAX_RUNS", "0", "at least 1"),
            ("RUN_TTL_SECONDS", "0", "above 0"),
            ("CONVERSATION_TTL_SECONDS", "1e99", "at most 31536000"),
            ("CONVERSATION_MAX_TURNS", "0", "at least 1"),
            ("MAX_BODY_BYTES", "lots", "a size"),
            ("LOG_FORMAT", "logfmt", "one of text, json"),
            ("LOG_SAMPLE", "1.1", "at least 0 and at most 1"),
            ("LOG_SAMPLE", "10%", "a number"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http:// or https://"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://key@collector", "without user"),
            ("UPSTREAM", "OpenAI", "one of demo, openai, deepseek, ollama, dify"),
            ("DIFY_MODE", "agent", "one of chat, completion, workflow"),
            ("UPSTREAM_AUTH_HEADER", "api key", "the name of a header"),
            ("UPSTREAM_AUTH_HEADER", "api-key:", "the name of a header"),
        ],
    )
    def test_a_bad_one_is_named_with_what_is_allowed(self, variable: str, text: str, allowed: str) -> None:
        (problem,) = problems_of({variable: text})
        assert problem.startswith(f"{variable} is '{text}': allowed is ")
        assert allowed in problem

    def test_all_that_is_wrong_is_told_at_once(self) -> None:
        problems = problems_of({"PORT": "x", "RETRY_MS": "y", "UPSTREAM": "z", "UPSTREAM_URL": "h", "MAX_RUNS": "1"})
        assert [problem.split()[0] for problem in problems] == ["PORT", "RETRY_MS", "UPSTREAM", "UPSTREAM_URL"]

    def test_a_long_or_many_lined_value_stays_one_short_line(self) -> None:
        (problem,) = problems_of({"PORT": "x\n" * 5000})
        assert len(problem) < 250

    def test_one_run_must_fit_into_the_log(self) -> None:
        (problem,) = problems_of({"LOG_MAX_BYTES": "1MiB", "RUN_MAX_BYTES": "2MiB"})
        assert problem == "LOG_MAX_BYTES is 1048576 bytes: allowed is at least RUN_MAX_BYTES, which is 2097152 bytes"
        Settings.from_env({"LOG_MAX_BYTES": "2MiB", "RUN_MAX_BYTES": "2MiB"})


class TestWhereToListen:
    @pytest.mark.parametrize(
        ("mapping", "bind"),
        [
            ({}, "127.0.0.1:8000"),
            ({"PORT": "5000"}, "0.0.0.0:5000"),  # a platform's router comes from outside
            ({"PORT": ""}, "127.0.0.1:8000"),
            ({"PORT": "5000", "HOST": "127.0.0.1"}, "127.0.0.1:5000"),
            ({"HOST": "::1"}, "[::1]:8000"),
        ],
    )
    def test_bind(self, mapping: dict[str, str], bind: str) -> None:
        assert Settings.from_env(mapping).bind == bind


class TestSecrets:
    @pytest.mark.parametrize(
        "mapping",
        [
            OPENAI | {"UPSTREAM_API_KEY": SECRET},
            OPENAI | {"UPSTREAM_URL": f"http://x/v1?key={SECRET}"},
            OPENAI | {"SYSTEM_PROMPT": SECRET},
        ],
    )
    def test_reprs_do_not_show_them(self, mapping: dict[str, str]) -> None:
        settings = Settings.from_env(mapping)
        assert SECRET not in f"{settings} {settings!r} {settings.upstreams[0]} {settings.upstreams[0]!r}"

    @pytest.mark.parametrize(
        "mapping",
        [
            {"UPSTREAM_API_KEY": f"{SECRET}\n{SECRET}"},
            {"UPSTREAM_API_KEY": f"{SECRET}\x7f"},
            {"UPSTREAM_API_KEY": f"{SECRET}…"},
            {"UPSTREAM_API_KEY": f"{SECRET}\x85x"},
            {"UPSTREAM_URL": f"https://user:{SECRET}@x/v1"},
            {"UPSTREAM_URL": f"https://{SECRET}@x/v1"},
            {"UPSTREAM_URL": f"https://x/v1#{SECRET}"},
            {"UPSTREAM_URL": f"x/v1?key={SECRET}"},
            {"UPSTREAM_API_KEY": SECRET, "UPSTREAM_URL": "x"},
        ],
    )
    def test_errors_do_not_show_them(self, mapping: dict[str, str]) -> None:
        (problem,) = problems_of(OPENAI | mapping)
        assert SECRET not in problem
        assert problem.startswith(f"{next(reversed(mapping))} ")

    def test_the_exception_carries_no_other_that_shows_them(self) -> None:
        with pytest.raises(SettingsError) as caught:
            Settings.from_env(OPENAI | {"UPSTREAM_API_KEY": f"{SECRET}\x00"})
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None

    def test_a_key_is_stripped_and_may_be_latin_1(self) -> None:
        assert upstream_of(**OPENAI | {"UPSTREAM_API_KEY": f"  {SECRET} é\n"}).api_key == f"{SECRET} é"


class TestSuspicious:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("UPSTREAM_APIKEY", "UPSTREAM_API_KEY"),
            ("UPSTREAM_KEY", "UPSTREAM_API_KEY"),
            ("UPSTREAM_FILE", "UPSTREAMS_FILE"),
            ("HEARTBEAT_SECOND", "HEARTBEAT_SECONDS"),
            ("DIFY_MODES", "DIFY_MODE"),
            ("RUN_MAX_BYTE", "RUN_MAX_BYTES"),
            ("RUN_MAX_SECS", "RUN_MAX_SECONDS"),
        ],
    )
    def test_a_misspelt_setting_is_told(self, name: str, meant: str) -> None:
        assert Settings.suspicious({name: SECRET}) == [f"{name} is not a setting; did you mean {meant}?"]

    def test_a_usual_environment_gives_no_alarm(self) -> None:
        usual = [
            *(
                "PATH",
                "HOME",
                "HOST",
                "PORT",
                "HOSTNAME",
                "PWD",
                "USER",
                "SHELL",
                "TERM",
                "LANG",
                "LC_ALL",
                "TZ",
                "DYNO",
            ),
            *("DATABASE_URL", "LOG_LEVEL", "WEB_MEMORY", "WEB_PORT", "RUN_ID", "RUN_MAIN", "MAX_THREADS", "STREAM_URL"),
            *("CHAT_URL", "SYSTEM_VERSION", "SYSTEMD_EXEC_PID", "IDLE_PATH", "RETRY_COUNT", "CONNECT_URL", "FLASK_APP"),
            *(
                "UPSTREAM_SERVICE_HOST",
                "UPSTREAM_SERVICE_PORT",
                "UPSTREAM_PORT",
                "PYTHONPATH",
                "VIRTUAL_ENV",
                "_",
                "POR",
            ),
        ]
        assert Settings.suspicious(dict.fromkeys([*usual, *VARIABLES], "x")) == []

    def test_a_keys_variable_may_have_any_name_beside_a_file(self) -> None:
        assert Settings.suspicious({"UPSTREAMS_FILE": "x", "UPSTREAM_API_KEY_2": "x"}) == []
        assert len(Settings.suspicious({"UPSTREAM_API_KEY_2": "x"})) == 1
