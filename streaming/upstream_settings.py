"""The upstreams' settings, from variables for a single one or from UPSTREAMS_FILE for several.

Both forms become tables, and go through the same checks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_type_hints
from urllib.parse import urlsplit

from msgspec import Meta

from streaming import upstreams_file, values
from streaming.wire.ask import Options

Text = Annotated[str, Meta(min_length=1, description="text that is not empty")]
# A key becomes a header's value, which is Latin-1 without control characters.
Key = Annotated[str, Meta(pattern=r"\A[ -~\xa0-\xff]+\Z", description="Latin-1 text without control characters")]
HeaderName = Annotated[str, Meta(pattern=r"\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z", description="the name of a header")]
UpstreamName = Annotated[
    str, Meta(pattern=r"\A[a-z0-9_-]{1,64}\Z", description="1 to 64 characters of a-z, 0-9, _ and -")
]
ModelName = Annotated[
    str, Meta(min_length=1, max_length=256, description="names of models, with commas between them, or * for all")
]
OptionName = Annotated[
    str,
    Meta(
        pattern=rf"\A(\*|{'|'.join(Options.__struct_fields__)})\Z",
        description="names of options such as temperature, with commas between them, or * for all",
    ),
]
Url = Annotated[str, Meta(description="an http:// or https:// URL without user, password and fragment")]
Dialect = Literal["demo", "openai", "dify"]
Preset = Literal["demo", "openai", "deepseek", "ollama", "dify"]


@dataclass(frozen=True, kw_only=True)
class UpstreamSettings:
    """One upstream. Its repr leaves out what may be secret: a URL's query can hold a key too."""

    name: UpstreamName = "demo"
    dialect: Dialect = "demo"
    url: Url = field(default="", repr=False)
    api_key: Key | None = field(default=None, repr=False)
    model: Text | None = None  # None = the URL or the upstream itself says which
    models: tuple[ModelName, ...] = ()  # others that a caller may choose; "*" = any
    max_tokens: Annotated[int, Meta(ge=1)] | None = None  # of one answer; None = what callers and the upstream say
    options: tuple[OptionName, ...] = ("*",)  # that callers may set; "*" = all
    auth_header: HeaderName = "Authorization"  # Azure: api-key
    system_prompt: str | None = field(default=None, repr=False)
    dify_mode: Literal["chat", "completion", "workflow"] = "chat"
    dify_prompt_input: Text = "query"  # the workflow input that takes the prompt
    include_usage: bool = True  # False for old servers that reject `stream_options`


VARIABLES = {  # of a single upstream: variable -> field
    "UPSTREAM": "dialect",
    "UPSTREAM_URL": "url",
    "UPSTREAM_API_KEY": "api_key",
    "UPSTREAM_MODEL": "model",
    "UPSTREAM_MODELS": "models",
    "UPSTREAM_MAX_TOKENS": "max_tokens",
    "UPSTREAM_OPTIONS": "options",
    "UPSTREAM_AUTH_HEADER": "auth_header",
    "DIFY_MODE": "dify_mode",
    "DIFY_PROMPT_INPUT": "dify_prompt_input",
    "SYSTEM_PROMPT": "system_prompt",
}
_SHARED_VARIABLES = {"UPSTREAM_API_KEY", "SYSTEM_PROMPT"}  # they mean something beside a file too
_HINTS = {**get_type_hints(UpstreamSettings, include_extras=True), "dialect": Preset}
_FILE_KEYS = ["api_key_env" if name == "api_key" else name for name in _HINTS]
_PRESETS: dict[str, tuple[Dialect, str]] = {  # what an operator calls the dialect -> dialect, URL
    "demo": ("demo", ""),
    "openai": ("openai", "https://api.openai.com/v1"),
    "deepseek": ("openai", "https://api.deepseek.com"),
    "ollama": ("openai", "http://127.0.0.1:11434/v1"),
    "dify": ("dify", "https://api.dify.ai/v1"),
}
_NEED_KEY = {"openai", "deepseek", "dify"}  # at the preset's own host; elsewhere only the server knows
_FIELDS = {
    "demo": {"name", "dialect"},
    "openai": {
        *("name", "dialect", "url", "api_key", "model", "models", "max_tokens", "options"),
        *("auth_header", "system_prompt", "include_usage"),
    },
    "dify": {"name", "dialect", "url", "api_key", "dify_mode", "dify_prompt_input"},
}


def from_env(given: Mapping[str, str], problems: list[str]) -> tuple[UpstreamSettings, ...]:
    """Return the upstreams; what is wrong is appended to `problems`. `given` holds the variables that are set."""
    read = _several if "UPSTREAMS_FILE" in given else _single
    return tuple(upstream for upstream in read(given, problems) if upstream)


def _single(given: Mapping[str, str], problems: list[str]) -> Iterator[UpstreamSettings | None]:
    if "UPSTREAM" not in given:  # the demo would answer, and pass for the model
        problems += [
            f"UPSTREAM is not set, but {variable} is: allowed is {values.allowed('dialect', Preset)}"
            for variable in ("UPSTREAM_URL", "UPSTREAM_API_KEY", "UPSTREAM_MODEL")
            if variable in given
        ]
    table: dict[str, str | int] = {name: given[variable] for variable, name in VARIABLES.items() if variable in given}
    if "max_tokens" in table and given["UPSTREAM_MAX_TOKENS"].isdecimal():
        table["max_tokens"] = int(given["UPSTREAM_MAX_TOKENS"])  # in a file it is a number
    names = {name: variable for variable, name in VARIABLES.items()}
    yield _checked({"dialect": "demo", **table}, names, problems)


def _several(given: Mapping[str, str], problems: list[str]) -> Iterator[UpstreamSettings | None]:
    problems += [
        f"{variable} is set beside UPSTREAMS_FILE: allowed is one of them; move it into the file"
        for variable in VARIABLES
        if variable in given and variable not in _SHARED_VARIABLES
    ]
    tables = upstreams_file.read(Path(given["UPSTREAMS_FILE"]), _FILE_KEYS, given, problems)
    for number, table in enumerate(tables, 1):
        where = upstreams_file.place(number, table)
        names = {**{name: f"{where}: {name}" for name in _HINTS}, "api_key": f"{where}: the key of api_key_env"}
        problems += [
            f"{names[name]} is not set: allowed is {values.allowed(name, _HINTS[name])}"
            for name in ("name", "dialect")
            if name not in table
        ]
        problems += [  # passed over in silence, it would look effective
            f"{names[name]} means nothing to dialect {table['dialect']!r}; leave it out"
            for name in table
            if name not in _fields_of(table)
        ]
        if "SYSTEM_PROMPT" in given:
            table.setdefault("system_prompt", given["SYSTEM_PROMPT"])
        yield _checked(table, names, problems)


def _checked(table: upstreams_file.Table, names: Mapping[str, str], problems: list[str]) -> UpstreamSettings | None:
    """Return the upstream, None where something is wrong.

    What means nothing to the dialect is passed over, so that UPSTREAM=demo can try a configured service out.
    """
    before = len(problems)
    fields = values.read(table, _HINTS, names, problems, strict=True)
    preset = fields.pop("dialect", None)
    if preset is None:
        return None
    dialect, preset_url = _PRESETS[preset]
    fields = {"name": preset, **{name: value for name, value in fields.items() if name in _fields_of(table)}}
    url = fields.setdefault("url", preset_url) if "url" not in table else fields.get("url", "")
    if preset in _NEED_KEY and "api_key" not in table and urlsplit(url).hostname == urlsplit(preset_url).hostname:
        problems.append(f"{names['api_key']} is not set: {urlsplit(url).hostname} asks for one")
    if dialect == "openai" and "model" not in table and "/deployments/" not in url:  # Azure's URL holds the model
        problems.append(f"{names['model']} is not set: allowed is the name of a model that the upstream offers")
    return UpstreamSettings(**fields, dialect=dialect) if len(problems) == before else None


def _fields_of(table: upstreams_file.Table) -> set[str]:
    """Return the fields that mean something to the table's dialect; all where that is unknown."""
    dialect = table.get("dialect")
    return _FIELDS[_PRESETS[dialect][0]] if isinstance(dialect, str) and dialect in _PRESETS else set(_HINTS)
