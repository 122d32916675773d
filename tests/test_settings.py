"""Settings: from a mapping, a TOML file and a .env file; and that the documents name exactly those that exist."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import msgspec
import pytest

from streaming import access, upstream_settings
from streaming.access_settings import by_tier as by_tiers
from streaming.access_settings import rates
from streaming.dotenv import load_dotenv
from streaming.relay.stores.memory import MemoryStore
from streaming.settings import VARIABLES, Settings, SettingsError
from streaming.upstream_settings import UpstreamSettings

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "settings.md").read_text("utf-8")
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")
OPENAI = {"UPSTREAM": "openai", "UPSTREAM_API_KEY": "k", "UPSTREAM_MODEL": "m"}


def problems_of(mapping: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(mapping)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def upstream_of(**mapping: str) -> UpstreamSettings:
    (upstream,) = Settings.from_env(mapping).upstreams
    return upstream


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


class TestUpstreamFromVariables:
    @pytest.mark.parametrize(
        ("mapping", "expected"),
        [
            ({"UPSTREAM": "demo"}, UpstreamSettings()),
            (
                OPENAI,
                UpstreamSettings(
                    name="openai", dialect="openai", url="https://api.openai.com/v1", api_key="k", model="m"
                ),
            ),
            (
                OPENAI | {"UPSTREAM": "deepseek", "SYSTEM_PROMPT": "Be brief.", "DIFY_MODE": "workflow"},
                UpstreamSettings(
                    name="deepseek",
                    dialect="openai",
                    url="https://api.deepseek.com",
                    api_key="k",
                    model="m",
                    system_prompt="Be brief.",
                ),
            ),
            (
                {"UPSTREAM": "ollama", "UPSTREAM_MODEL": "m"},
                UpstreamSettings(name="ollama", dialect="openai", url="http://127.0.0.1:11434/v1", model="m"),
            ),
            (
                {"UPSTREAM": "dify", "UPSTREAM_API_KEY": "k", "UPSTREAM_MODEL": "m", "SYSTEM_PROMPT": "x"},
                UpstreamSettings(name="dify", dialect="dify", url="https://api.dify.ai/v1", api_key="k"),
            ),
            (
                {
                    "UPSTREAM": "dify",
                    "UPSTREAM_URL": "http://dify.lan/v1",
                    "DIFY_MODE": "workflow",
                    "DIFY_PROMPT_INPUT": "question",
                },
                UpstreamSettings(
                    name="dify",
                    dialect="dify",
                    url="http://dify.lan/v1",
                    dify_mode="workflow",
                    dify_prompt_input="question",
                ),
            ),
            (
                {
                    "UPSTREAM": "openai",
                    "UPSTREAM_URL": "https://x.azure.com/openai/deployments/d?api-version=1",
                    "UPSTREAM_API_KEY": "k",
                    "UPSTREAM_AUTH_HEADER": "api-key",
                },
                UpstreamSettings(
                    name="openai",
                    dialect="openai",
                    url="https://x.azure.com/openai/deployments/d?api-version=1",
                    api_key="k",
                    auth_header="api-key",
                ),
            ),
            (
                {"UPSTREAM": "ollama", "UPSTREAM_MODEL": "m", "UPSTREAM_MODELS": "m-2, org/m-3\n"},
                UpstreamSettings(
                    name="ollama",
                    dialect="openai",
                    url="http://127.0.0.1:11434/v1",
                    model="m",
                    models=("m-2", "org/m-3"),
                ),
            ),
        ],
    )
    def test_presets(self, mapping: dict[str, str], expected: UpstreamSettings) -> None:
        assert Settings.from_env(mapping).upstreams == (expected,)

    def test_every_preset_has_its_dialect_and_fields(self) -> None:
        assert tuple(upstream_settings._PRESETS) == get_args(upstream_settings.Preset)
        assert tuple(upstream_settings._FIELDS) == get_args(upstream_settings.Dialect)
        names = {field.name for field in fields(UpstreamSettings)}
        assert set[str]().union(*upstream_settings._FIELDS.values()) == names

    def test_a_configured_service_can_be_tried_with_the_demo(self) -> None:
        assert upstream_of(**OPENAI | {"UPSTREAM": "demo"}) == UpstreamSettings()

    @pytest.mark.parametrize("variable", ["UPSTREAM_URL", "UPSTREAM_API_KEY", "UPSTREAM_MODEL"])
    def test_the_demo_does_not_pass_for_a_model_when_that_was_forgotten(self, variable: str) -> None:
        (problem,) = problems_of({variable: "http://x"})
        assert problem.startswith(f"UPSTREAM is not set, but {variable} is: allowed is one of demo, openai")
        assert "http://x" not in problem

    @pytest.mark.parametrize("preset", ["openai", "deepseek", "dify"])
    def test_a_presets_own_host_needs_a_key(self, preset: str) -> None:
        mapping = {"UPSTREAM": preset, "UPSTREAM_MODEL": "m"}
        (problem,) = problems_of(mapping)
        assert problem.startswith("UPSTREAM_API_KEY is not set: api.")
        url = Settings.from_env(mapping | {"UPSTREAM_API_KEY": "k"}).upstreams[0].url
        assert problems_of(mapping | {"UPSTREAM_URL": url + "/"}) == (problem,)
        assert upstream_of(**mapping, UPSTREAM_URL="http://127.0.0.1:9/v1").api_key is None

    @pytest.mark.parametrize("preset", ["openai", "deepseek", "ollama"])
    def test_a_model_is_needed(self, preset: str) -> None:
        (problem,) = problems_of({"UPSTREAM": preset, "UPSTREAM_API_KEY": "k"})
        assert problem.startswith("UPSTREAM_MODEL is not set: allowed is ")

    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:8080",
            "HTTPS://API.example/v1/",
            "http://[::1]:8080/v1",
            "http://vllm/v1?a=b&c=d%20e",
        ],
    )
    def test_good_urls_are_kept_as_they_are(self, url: str) -> None:
        assert upstream_of(UPSTREAM="openai", UPSTREAM_MODEL="m", UPSTREAM_URL=f" {url} ").url == url

    @pytest.mark.parametrize(
        "url",
        [
            "api.openai.com/v1",
            "localhost:8000",
            "ftp://x",
            "http://",
            "http:///v1",
            "http://x:99999",
            "http://x:port",
            "http://x:0",
            "http://[::1",
            "http://a b/",
            "http://a/\x01",
            "http://a/\tb",
        ],
    )
    def test_bad_urls_are_shown(self, url: str) -> None:
        (problem,) = problems_of({"UPSTREAM": "openai", "UPSTREAM_MODEL": "m", "UPSTREAM_URL": url})
        assert problem.startswith(f"UPSTREAM_URL is {url!r}: allowed is an http:// or https:// URL")


SECRET = "sk-7f3a9c"


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


class TestUpstreamsFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "upstreams.toml"

    def test_the_order_is_the_files(self, file: Path) -> None:
        file.write_text("""
            [[upstream]]
            name = "azure"
            dialect = "openai"
            url = "https://x.azure.com/openai/deployments/d?api-version=1"
            api_key_env = "AZURE_KEY"
            auth_header = "api-key"
            include_usage = false
            [[upstream]]
            name = "local_2"
            dialect = "ollama"
            model = "m"
            models = ["org/m-2", "m 3"]
            system_prompt = ""
            [[upstream]]
            name = "app-1"
            dialect = "dify"
            api_key_env = "UPSTREAM_API_KEY"
            dify_mode = "workflow"
            dify_prompt_input = "q"
            [[upstream]]
            name = "d"
            dialect = "demo"
        """)
        mapping = {"UPSTREAMS_FILE": str(file), "AZURE_KEY": " a ", "UPSTREAM_API_KEY": "b", "SYSTEM_PROMPT": "s"}
        assert Settings.from_env(mapping).upstreams == (
            UpstreamSettings(
                name="azure",
                dialect="openai",
                url="https://x.azure.com/openai/deployments/d?api-version=1",
                api_key="a",
                auth_header="api-key",
                system_prompt="s",
                include_usage=False,
            ),
            UpstreamSettings(
                name="local_2",
                dialect="openai",
                url="http://127.0.0.1:11434/v1",
                model="m",
                models=("org/m-2", "m 3"),
                system_prompt="",
            ),
            UpstreamSettings(
                name="app-1",
                dialect="dify",
                url="https://api.dify.ai/v1",
                api_key="b",
                dify_mode="workflow",
                dify_prompt_input="q",
            ),
            UpstreamSettings(name="d"),
        )

    @pytest.mark.parametrize(
        ("table", "expected"),
        [
            ('dialect = "demo"', ["upstream 1: name is not set: allowed is 1 to 64 characters"]),
            ('name = "x"', ["upstream 'x': dialect is not set: allowed is one of demo, openai"]),
            ('name = "X"\ndialect = "demo"', ["upstream 'X': name is 'X': allowed is 1 to 64 characters"]),
            (f'name = "{"x" * 65}"\ndialect = "demo"', ["x': name is 'xxx"]),
            ('name = "x"\ndialect = "azure"', ["upstream 'x': dialect is 'azure': allowed is one of demo"]),
            ('name = "x"\ndialect = []', ["upstream 'x': dialect is []: allowed is one of demo"]),
            (
                'name = "x"\ndialect = "openai"\nmodle = "m"',
                ["unknown key 'modle'; did you mean model?", "api_key_env is not set", "model is not set"],
            ),
            (
                'name = "x"\ndialect = "demo"\nqqq = 1',
                ["unknown key 'qqq'; allowed are name, dialect, url, api_key_env"],
            ),
            ('name = "x"\ndialect = "demo"\nmodel = "m"', ["upstream 'x': model means nothing to dialect 'demo'"]),
            ('name = "x"\ndialect = "dify"\nurl = "http://d"\nmodel = "m"', ["model means nothing to dialect 'dify'"]),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\ndify_mode = "chat"',
                ["dify_mode means nothing to dialect 'ollama'"],
            ),
            ('name = "x"\ndialect = "ollama"\nmodel = 5', ["upstream 'x': model is 5: allowed is text"]),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\nmodels = 5',
                ["upstream 'x': models is 5: allowed is names of models"],
            ),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\nmodels = [""]',
                ["upstream 'x': models is ['']: allowed is names of"],
            ),
            ('name = "x"\ndialect = "demo"\nmodels = ["m"]', ["upstream 'x': models means nothing to dialect 'demo'"]),
            ('name = "x"\ndialect = "ollama"\nmodel = ""', ["upstream 'x': model is '': allowed is text that is not"]),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\ninclude_usage = "no"',
                ["upstream 'x': include_usage is 'no': allowed is true or false"],
            ),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\nurl = "x"',
                ["upstream 'x': url is 'x': allowed is an http:// or"],
            ),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\nurl = 7',
                ["upstream 'x': url is 7: allowed is an http:// or"],
            ),
            (
                'name = "x"\ndialect = "deepseek"\nmodel = "m"',
                ["upstream 'x': the key of api_key_env is not set: api.deepseek.com asks for one"],
            ),
            (
                'name = "x"\ndialect = "deepseek"\nmodel = "m"\napi_key_env = "NO_KEY"',
                ["upstream 'x': api_key_env is 'NO_KEY', but that variable is not set"],
            ),
            (
                'name = "x"\ndialect = "deepseek"\nmodel = "m"\napi_key_env = "BAD_KEY"',
                ["upstream 'x': the key of api_key_env (not shown): allowed is Latin-1"],
            ),
            (
                f'name = "x"\ndialect = "deepseek"\nmodel = "m"\napi_key_env = "{SECRET}"',
                ["upstream 'x': api_key_env (not shown): allowed is the name of a variable"],
            ),
            (
                f'name = "x"\ndialect = "ollama"\nmodel = "m"\napi_key = "{SECRET}"',
                ["upstream 'x': api_key does not belong in a file; api_key_env names"],
            ),
        ],
    )
    def test_a_bad_table_is_named_with_what_is_wrong(self, file: Path, table: str, expected: list[str]) -> None:
        file.write_text(f"[[upstream]]\n{table}\n")
        problems = problems_of({"UPSTREAMS_FILE": str(file), "BAD_KEY": f"{SECRET}\n{SECRET}", "EMPTY": ""})
        assert len(problems) == len(expected)
        for problem, part in zip(problems, expected, strict=True):
            assert problem.startswith("UPSTREAMS_FILE, upstream ")
            assert part in problem
            assert SECRET not in problem

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("", "but names no upstream: allowed are [[upstream]] tables"),
            ("upstream = []", "but names no upstream"),
            ("[upstream]\nname = 'x'", "but names no upstream"),
            ("upstream = ['x']", "but names no upstream"),
            (f"[[upstream]]\napi_key = {SECRET}", "which is not TOML: Invalid value (at line 2"),
            (f"[[upstream]]\n{SECRET}", "which is not TOML: "),
        ],
    )
    def test_a_bad_file_is_named(self, file: Path, content: str, expected: str) -> None:
        file.write_text(content)
        (problem,) = problems_of({"UPSTREAMS_FILE": str(file)})
        assert problem.startswith(f"UPSTREAMS_FILE is '{file}', ")
        assert expected in problem
        assert SECRET not in problem

    def test_one_that_cannot_be_read(self, file: Path) -> None:
        (problem,) = problems_of({"UPSTREAMS_FILE": str(file)})
        assert problem == f"UPSTREAMS_FILE is '{file}', which cannot be read: No such file or directory"
        file.write_bytes(b"\xff")
        assert problems_of({"UPSTREAMS_FILE": str(file)}) == (f"UPSTREAMS_FILE is '{file}', which is not UTF-8",)

    def test_names_are_unique(self, file: Path) -> None:
        file.write_text('[[upstream]]\nname = "x"\ndialect = "demo"\n' * 2)
        assert problems_of({"UPSTREAMS_FILE": str(file)}) == (
            "UPSTREAMS_FILE: 2 upstreams are named 'x'; each needs its own",
        )

    def test_other_tables_are_refused(self, file: Path) -> None:
        file.write_text('[upstreams]\n[[upstream]]\nname = "x"\ndialect = "demo"')
        (problem,) = problems_of({"UPSTREAMS_FILE": str(file)})
        assert problem.startswith("UPSTREAMS_FILE: unknown key 'upstreams'; ")

    def test_the_variables_of_a_single_upstream_are_refused_beside_it(self, file: Path) -> None:
        file.write_text('[[upstream]]\nname = "x"\ndialect = "demo"')
        mapping = dict.fromkeys(upstream_settings.VARIABLES, "http://x") | {"UPSTREAMS_FILE": str(file)}
        assert [problem.split()[:4] for problem in problems_of(mapping)] == [
            [variable, "is", "set", "beside"]
            for variable in upstream_settings.VARIABLES
            if variable not in {"UPSTREAM_API_KEY", "SYSTEM_PROMPT"}
        ]


class TestDotenv:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / ".env"

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("", {}),
            ("A=1\nB=2\n", {"A": "1", "B": "2"}),
            ("A=1\r\nB=2", {"A": "1", "B": "2"}),
            ("\ufeffA=1", {"A": "1"}),
            ("# a comment\n\n  # another\nA=1 # and one more", {"A": "1"}),
            ("A=a#b", {"A": "a#b"}),
            ("export A=1", {"A": "1"}),
            (" A = 1 ", {"A": "1"}),
            ("A=", {"A": ""}),
            ("A=two words", {"A": "two words"}),
            ("A='it # is $B'", {"A": "it # is $B"}),
            ('A="two\\nlines" # comment', {"A": "two\nlines"}),
            ('A="two\nlines"', {"A": "two\nlines"}),
            ("B=1\nA=${B}", {"B": "1", "A": "${B}"}),  # a key may hold a dollar sign
            ("A=b=c==", {"A": "b=c=="}),
            ("A=1\nA=2", {"A": "2"}),
        ],
    )
    def test_lines(self, file: Path, content: str, expected: dict[str, str]) -> None:
        file.write_text(content, "utf-8", newline="")
        assert load_dotenv(file, {}) == expected

    @pytest.mark.parametrize(
        ("content", "lines"),
        [
            (SECRET, [1]),
            (f"A=1\n\n# comment\n\nKEY {SECRET}\nB=2", [5]),
            (f"KEY='{SECRET}", [1]),
            (f"KEY='{SECRET}' x\nA=1\n={SECRET}\n", [1, 3]),
            (f"export {SECRET}", [1]),
        ],
    )
    def test_a_malformed_line_is_named_by_number_alone(self, file: Path, content: str, lines: list[int]) -> None:
        file.write_text(content)
        with pytest.raises(SettingsError) as caught:
            load_dotenv(file, {})
        assert [problem.split(": ")[0] for problem in caught.value.problems] == [
            f"{file}, line {line} (not shown)" for line in lines
        ]
        assert SECRET not in str(caught.value)

    def test_the_real_environment_wins_and_stays_as_it_is(self, file: Path) -> None:
        file.write_text("A=file\nB=file\nC=file")
        environment = {"A": "real", "B": "", "D": "real"}
        assert load_dotenv(file, environment) == {"A": "real", "B": "", "C": "file", "D": "real"}
        assert environment == {"A": "real", "B": "", "D": "real"}

    @pytest.mark.parametrize(
        ("content", "environment", "bind"),
        [
            ("PORT=5000", {}, "127.0.0.1:5000"),
            ("PORT=5000", {"PORT": "6000"}, "0.0.0.0:6000"),
            ("PORT=5000\nHOST=::", {}, "[::]:5000"),
            ("PORT=5000", {"HOST": "0.0.0.0"}, "0.0.0.0:5000"),
        ],
    )
    def test_a_port_of_ones_own_opens_nothing_to_the_network(
        self, file: Path, content: str, environment: dict[str, str], bind: str
    ) -> None:
        file.write_text(content)
        assert Settings.from_env(load_dotenv(file, environment)).bind == bind

    def test_no_file_is_fine_but_an_unreadable_one_is_not(self, file: Path) -> None:
        assert load_dotenv(file, {"A": "1"}) == {"A": "1"}
        file.write_bytes(b"A=\xff")
        with pytest.raises(SettingsError, match="is not UTF-8"):
            load_dotenv(file, {})
        file.unlink()
        file.mkdir()
        with pytest.raises(SettingsError, match=r"cannot be read: Is a directory"):
            load_dotenv(file, {})


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


class TestDocuments:
    ROWS: ClassVar = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \| [^|]+ \| [^|]+ \|$", DOCS, re.MULTILINE))
    LINES: ClassVar = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))

    def test_docs_and_example_name_exactly_the_settings_that_exist(self) -> None:
        assert sorted(self.ROWS) == sorted(VARIABLES)
        assert sorted(self.LINES) == sorted(VARIABLES)

    def test_they_name_no_other_variable_in_passing(self) -> None:
        named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", DOCS + EXAMPLE))
        assert named - {"AZURE_KEY"} <= set(VARIABLES)

    @pytest.mark.parametrize("field", [field for field in fields(Settings) if field.name != "upstreams"])
    def test_they_tell_the_defaults(self, field: Any) -> None:
        variable = field.name.upper()
        if field.default in {(), ""}:
            assert self.ROWS[variable] == "none"
            beside = {"JWT_SECRET": self.LINES["JWT_SECRET"]} if variable in {"JWT_AUDIENCE", "JWT_ISSUER"} else {}
            assert getattr(Settings.from_env({variable: self.LINES[variable], **beside}), field.name)  # an example
            return
        for text in (self.ROWS[variable].strip("`"), self.LINES[variable]):
            assert getattr(Settings.from_env({variable: text}), field.name) == field.default

    @pytest.mark.parametrize("variable", ["UPSTREAM_AUTH_HEADER", "DIFY_MODE", "DIFY_PROMPT_INPUT"])
    def test_they_tell_the_upstreams_defaults(self, variable: str) -> None:
        default = getattr(UpstreamSettings(), upstream_settings.VARIABLES[variable])
        assert self.ROWS[variable].strip("`") == self.LINES[variable] == default

    def test_the_docs_tell_the_bounds(self) -> None:
        hints = get_type_hints(Settings, include_extras=True)
        for name, hint in hints.items():
            for meta in getattr(hint, "__metadata__", ()):
                row = next(line for line in DOCS.splitlines() if line.startswith(f"| `{name.upper()}`"))
                bounds = {str(bound) for bound in (meta.gt, meta.ge, meta.le) if bound is not None}
                if name != "log_max_bytes":  # its bound is another setting
                    assert bounds <= set(re.findall(r"\d+", row.split("|")[4]))

    def test_the_docs_tell_the_presets(self) -> None:
        rows = re.findall(r"^\| `([a-z]+)` \| (\S+) \| `([a-z]+)` \|$", DOCS, re.MULTILINE)
        assert {name: (dialect, url.strip("`")) for name, url, dialect in rows} == upstream_settings._PRESETS | {
            "demo": ("demo", "none")
        }

    def test_the_docs_tell_the_files_keys_and_which_dialect_has_them(self) -> None:
        rows = re.findall(r"^\| `([a-z_]+)` \| (all but `demo`|all|`openai`|`dify`) \|", DOCS, re.MULTILINE)
        dialects = {
            "all": {"demo", "openai", "dify"},
            "all but `demo`": {"openai", "dify"},
            "`openai`": {"openai"},
            "`dify`": {"dify"},
        }
        fields_of_dialect = upstream_settings._FIELDS.items()
        assert {key.removesuffix("_env"): dialects[for_] for key, for_ in rows} == {
            field.name: {dialect for dialect, names in fields_of_dialect if field.name in names}
            for field in fields(UpstreamSettings)
        }

    def test_the_docs_toml_works(self, tmp_path: Path) -> None:
        (example,) = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
        file = tmp_path / "upstreams.toml"
        file.write_text(example)
        settings = Settings.from_env({"UPSTREAMS_FILE": str(file), "AZURE_KEY": "k"})
        assert [upstream.name for upstream in settings.upstreams] == [
            table["name"] for table in tomllib.loads(example)["upstream"]
        ]

    def test_the_docs_dotenv_works(self, tmp_path: Path) -> None:
        (example,) = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
        (tmp_path / ".env").write_text(example)
        upstream = upstream_of(**load_dotenv(tmp_path / ".env", {}))
        assert upstream.model == "gpt-4.1-mini"
        assert upstream.system_prompt == "Two\nlines"
        assert upstream.api_key == "as $it is"

    def test_the_example_works_as_it_is_and_with_every_line_uncommented(self, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text(EXAMPLE)
        assert Settings.from_env(load_dotenv(file, {})) == Settings()
        file.write_text(
            re.sub(r"^# ([A-Z_]+=)", r"\1", EXAMPLE, flags=re.MULTILINE).replace("UPSTREAM=demo", "UPSTREAM=openai")
        )
        upstream = upstream_of(**load_dotenv(file, {"UPSTREAMS_FILE": "", "JWT_SECRET": ""}))
        assert upstream.url == "http://127.0.0.1:8080/v1"
        assert upstream.system_prompt == "You are a helpful assistant."
