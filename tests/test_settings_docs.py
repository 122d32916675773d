"""docs/settings.md and .env.example name exactly the settings that exist."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import pytest

from streaming import upstream_settings
from streaming.dotenv import load_dotenv
from streaming.settings import VARIABLES, Settings
from streaming.upstream_settings import UpstreamSettings
from tests.settings_cases import DOCS, EXAMPLE, upstream_of


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
