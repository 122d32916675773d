"""One upstream, from variables."""

from dataclasses import fields
from typing import get_args

import pytest

from streaming import upstream_settings
from streaming.settings import Settings
from streaming.upstream_settings import UpstreamSettings
from tests.settings_cases import OPENAI, problems_of, upstream_of


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
