"""What the tests of settings share: what is set, and what becomes of it."""

from pathlib import Path

import pytest

from streaming.settings import Settings, SettingsError
from streaming.upstream_settings import UpstreamSettings

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "settings.md").read_text("utf-8")
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")
OPENAI = {"UPSTREAM": "openai", "UPSTREAM_API_KEY": "k", "UPSTREAM_MODEL": "m"}
SECRET = "sk-7f3a9c"


def problems_of(mapping: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(mapping)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def upstream_of(**mapping: str) -> UpstreamSettings:
    (upstream,) = Settings.from_env(mapping).upstreams
    return upstream
