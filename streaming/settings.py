"""Every setting: its variable, default and range. The fields of Settings are the table; nothing else repeats it.

A field is read from the variable of its name in capitals, an empty one counts as unset, and the unit at the end of a
name tells how its text is read. Only from_env checks: code that builds Settings itself may leave the ranges.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_type_hints

from msgspec import Meta

from streaming import access_settings, upstream_settings, values
from streaming.access_settings import STRANGERS_RATE, ApiKeyText, CountText, JwtKey, Proxies, RateText, Secret
from streaming.logs import LogFormat
from streaming.upstream_settings import UpstreamSettings
from streaming.wire.ask import FlushMs

UpToAnHour = Annotated[float, Meta(gt=0, le=3600)]
UpToADay = Annotated[float, Meta(gt=0, le=86_400)]
UpToAYear = Annotated[float, Meta(gt=0, le=31_536_000)]
Size = Annotated[int, Meta(ge=1024)]
Count = Annotated[int, Meta(ge=1)]
Host = Annotated[
    str,
    Meta(
        pattern=r"\A([0-9A-Za-z._-]+|[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,})\Z",
        description="an address or a host name, without a port",
    ),
]

Origin = Annotated[
    str,
    Meta(
        pattern=r"\A(\*|https?://(\*\.)?([0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?)\Z",
        description="origins such as https://example.com or https://*.example.com, with commas between, or * for all",
    ),
]

CollectorUrl = Annotated[
    str,
    Meta(pattern=r"\A(https?://[^\s/?#@]+(/[^\s?#]*)?|)\Z", description="http:// or https://, without user and query"),
]

RedisUrl = Annotated[
    str,
    Meta(
        pattern=r"\A(rediss?(\+cluster)?://[^\s/?#]+|rediss?://[^\s?#]+(\?\S*)?|unix:///\S+"
        r"|rediss?\+sentinel://[^\s/?#]+/[^\s/?#]+(/[0-9]+)?|)\Z",
        description="redis://host:port/0, rediss://… with TLS, redis+sentinel://host:port,host:port/service or "
        "redis+cluster://host:port,host:port",
    ),
]


class SettingsError(ValueError):
    """The settings cannot be used. `problems` are sentences, one a line of the message; none shows a secret."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator may set. The order of `upstreams` is the order in which they are tried."""

    upstreams: tuple[UpstreamSettings, ...] = (UpstreamSettings(),)

    host: Host = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000  # 0 = any free one
    embed_origins: tuple[Origin, ...] = ()  # whose pages may show ours in a frame, beside our own
    cors_origins: tuple[Origin, ...] = ()  # whose pages may use the API, beside our own
    web_concurrency: Count = 1  # as asked: without a shared store one worker runs
    redis_url: RedisUrl = ""  # the store that several workers share; "" = this process's memory
    redis_tls_insecure: bool = False  # managed services with certificates of their own

    api_keys: tuple[ApiKeyText, ...] = field(default=(), repr=False)
    jwt_secret: Secret = field(default="", repr=False)  # HS256
    jwt_public_key: JwtKey = field(default="", repr=False)
    jwt_audience: str = ""  # "" = tokens that name one are refused
    jwt_issuer: str = ""  # "" = any
    allow_anonymous: bool = False  # whoever reaches the relay may ask
    public_page: bool = False  # the visitors of its page may ask
    secret_key: Secret = field(default="", repr=False)  # signs visitors' tokens; "" = one that this process makes
    rate_limit: tuple[RateText, ...] = (STRANGERS_RATE,)
    max_streams_per_caller: tuple[CountText, ...] = ()  # unfinished answers; () = any number
    daily_tokens_per_caller: tuple[CountText, ...] = ()  # () = any number
    trusted_proxies: Proxies = "auto"  # "auto" once read: on no known platform, so none is trusted

    heartbeat_seconds: Annotated[float, Meta(gt=0, le=25)] = 15.0  # routers cut what is silent for 30 s
    retry_ms: Annotated[int, Meta(ge=100, le=60_000)] = 2000  # how long a browser waits before it reconnects
    chat_wait_seconds: Annotated[float, Meta(gt=0, le=28)] = 25.0  # then 202: routers cut at 30 s
    disconnect_grace_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0  # a run without subscribers goes on
    write_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    shutdown_grace_seconds: Annotated[float, Meta(ge=4, le=3600)] = 30.0  # the platform's
    stream_max_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 0.0  # of one response; 0 = never
    flush_ms: FlushMs = 0  # how long tokens may wait for each other; 0 = each leaves at once
    compress: Literal["auto", "all", "off"] = "auto"  # auto: all but live SSE and live text
    ws_idle_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 300.0  # a WebSocket without a run and without a word

    connect_timeout_seconds: UpToAnHour = 5.0
    idle_timeout_seconds: UpToAnHour = 60.0  # no byte from the upstream
    progress_timeout_seconds: UpToAnHour = 300.0  # bytes, but nothing said: keep-alives of a queue that never moves

    run_max_seconds: UpToADay = 600.0  # a model that never stops costs money
    run_max_bytes: Size = 4 << 20  # of one run's log
    log_max_bytes: Size = 128 << 20  # of all logs: bounds the process's memory
    max_tries: Annotated[int, Meta(ge=1, le=10)] = 3  # of one upstream
    max_runs: Count = 5000  # unfinished ones
    run_ttl_seconds: UpToAYear = 3600.0  # after the end
    conversation_ttl_seconds: UpToAYear = 86_400.0  # after the last turn
    conversation_max_turns: Count = 50  # the oldest go first: each turn sent again is paid again

    log_format: LogFormat = "text"
    log_sample: Annotated[float, Meta(ge=0, le=1)] = 1.0  # of the ordinary runs' lines
    otel_exporter_otlp_endpoint: CollectorUrl = ""  # "" = no traces

    max_body_bytes: Size = 1 << 20  # of a request
    max_upload_bytes: Size = 15 << 20  # of a file for Dify

    @property
    def bind(self) -> str:
        """Return host and port as servers take them: an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def open(self) -> bool:
        """Return whether nobody has said who may ask."""
        return not (self.api_keys or self.jwt_secret or self.jwt_public_key or self.public_page or self.allow_anonymous)

    @classmethod
    def from_env(cls, mapping: Mapping[str, str]) -> "Settings":
        """Return the settings in a mapping such as os.environ. Raises SettingsError, with all that is wrong."""
        given = {variable: text.strip() for variable, text in mapping.items() if text.strip()}
        problems: list[str] = []
        table = {name: given[variable] for name, variable in _VARIABLES.items() if variable in given}
        checked = values.read(table, _HINTS, _VARIABLES, problems, strict=False)
        if "PORT" in given:  # a platform sets it, and its router comes from outside
            checked.setdefault("host", "0.0.0.0")  # noqa: S104
        if checked.get("trusted_proxies", "auto") == "auto":
            checked["trusted_proxies"] = access_settings.platform(given)
        problems += access_settings.problems(checked)
        settings = cls(**checked, upstreams=upstream_settings.from_env(given, problems))
        if settings.log_max_bytes < settings.run_max_bytes:
            problems.append(
                f"LOG_MAX_BYTES is {settings.log_max_bytes} bytes: allowed is at least "
                f"RUN_MAX_BYTES, which is {settings.run_max_bytes} bytes"
            )
        if problems:
            raise SettingsError(problems)
        return settings

    @staticmethod
    def suspicious(mapping: Mapping[str, str]) -> list[str]:
        """Return a warning for each variable that looks like a misspelt setting.

        Only names that share a setting's first word count: an environment is full of other programs' variables.
        """
        warnings = []
        for name in sorted(mapping.keys() - set(VARIABLES)):
            if mapping.get("UPSTREAMS_FILE") and "KEY" in name:
                continue  # beside a file, the variable that holds a key has any name
            first_word, underscore, _ = name.partition("_")
            family = [variable for variable in VARIABLES if underscore and variable.startswith(first_word)]
            if close := difflib.get_close_matches(name, family, n=1, cutoff=0.85):
                warnings.append(f"{name} is not a setting; did you mean {close[0]}?")
        return warnings


_HINTS = get_type_hints(Settings, include_extras=True)
_VARIABLES = {name: name.upper() for name in _HINTS if name != "upstreams"}

VARIABLES = (*upstream_settings.VARIABLES, "UPSTREAMS_FILE", *_VARIABLES.values())
"""Every variable that is a setting."""
