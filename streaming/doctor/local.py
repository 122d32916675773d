"""Before a deploy: are the settings sound, does the shared store answer, does each upstream take its key and model?

Each OpenAI-compatible upstream is asked for one token. A Dify app cannot be asked for so little, and each question is
one in its log: its parameters tell that the key is good.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from streaming.authorities import trusting
from streaming.doctor.settings import CHECK, contradictions
from streaming.doctor.verdict import Verdict, fail, ok, warn
from streaming.settings import Settings, SettingsError
from streaming.upstream_settings import UpstreamSettings
from streaming.wire import sse
from streaming.wire.ask import Ask, Context, Message, Options
from streaming.wire.dialects import Dialect, Reader, Request
from streaming.wire.dialects.dify_app import Answered, DifyApp, read_parameters
from streaming.wire.errors import Failure
from streaming.wire.events import Reasoning, Token, ToolCall

ANSWER_MAX_BYTES = 256 * 1024  # of one answer: it is one token long
HELLO = Message(role="user", content="Hi")
_FIXES = {
    "upstream_auth": "The key is not taken: look at UPSTREAM_API_KEY, UPSTREAM_AUTH_HEADER and what the key may do.",
    "upstream_rejected": "The key is taken, the request is not: look at UPSTREAM_MODEL, UPSTREAM_URL and the account.",
    "upstream_busy": "Try again; if it stays, look at the account's limits.",
    "upstream_unreachable": "Look at UPSTREAM_URL, and whether this machine may connect there.",
    "upstream_timeout": "It took the request and said nothing: look at the upstream, then at IDLE_TIMEOUT_SECONDS.",
    "upstream_invalid": "What answers there does not speak this dialect: look at UPSTREAM_URL and UPSTREAM.",
}
_OTHERWISE = "Look at the upstream's own log."
ReadEnvironment = Callable[[], Mapping[str, str]]  # may raise SettingsError: a .env file can be malformed
MakeDialect = Callable[[UpstreamSettings], Dialect]


def examine_settings(read: ReadEnvironment, dialect_of: MakeDialect) -> Iterator[Verdict]:
    """Yield the verdicts. `read`: the variables that count; `dialect_of` puts a configured dialect together."""
    try:
        environment = read()
        settings = Settings.from_env(environment)
    except SettingsError as error:
        yield from (fail(CHECK, problem, "docs/settings.md lists what is allowed.") for problem in error.problems)
        return
    yield from (warn(CHECK, each, "Correct the name, or remove it.") for each in Settings.suspicious(environment))
    yield from contradictions(settings)
    if settings.redis_url:
        yield _store(settings)
    with requests.Session() as session:
        # As the relay itself calls upstreams: past every proxy, trusting the same authorities.
        session.trust_env = False
        session.mount("https://", _Trusting())
        for upstream in settings.upstreams:
            yield _upstream(session, upstream, settings, dialect_of)


class _Trusting(HTTPAdapter):
    """requests trusts Mozilla's authorities alone."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=trusting(), **options)


def _store(settings: Settings) -> Verdict:
    from streaming.relay.stores.link import Down, Link

    link = Link(settings.redis_url, tls_insecure=settings.redis_tls_insecure)
    try:
        (reply,) = link.send(("PING",))
    except Down as down:
        return fail("store", f"REDIS_URL does not answer: {down}", "Look at its host, port, password, and rediss://.")
    finally:
        link.close()
    if isinstance(reply, Exception):
        return fail("store", f"Redis refused a command: {str(reply).partition(' ')[0]}", "Look at the user's rights.")
    return ok("store", "Redis answers")


def _upstream(
    session: requests.Session, upstream: UpstreamSettings, settings: Settings, dialect_of: MakeDialect
) -> Verdict:
    check, begun = f"upstream {upstream.name}", time.monotonic()
    if upstream.dialect == "demo":
        return warn(check, "the built-in demo: no model is behind it", "Set UPSTREAM for real answers.")
    timeout = (settings.connect_timeout_seconds, settings.idle_timeout_seconds)
    try:
        if upstream.dialect == "dify":
            said = _dify(session, DifyApp(url=upstream.url, api_key=upstream.api_key), timeout)
        else:
            said = _one_token(session, dialect_of(upstream), timeout)
    except Failure as failure:
        return fail(check, f"{failure.code}: {failure.message}", _FIXES.get(failure.code, _OTHERWISE))
    return ok(check, f"{said}, after {time.monotonic() - begun:.1f} s")


def _dify(session: requests.Session, app: DifyApp, timeout: tuple[float, float]) -> str:
    with _open(session, app.parameters(), timeout) as response:
        parameters = read_parameters(Answered(response.status_code, _lowered(response), _body(response)))
    needed = [field.name for field in parameters.form if field.required]
    return "the key is taken" + (f"; each question needs inputs: {', '.join(needed)}" if needed else "")


def _one_token(session: requests.Session, dialect: Dialect, timeout: tuple[float, float]) -> str:
    """Ask for one token and return what came. Raises Failure."""
    context = Context(messages=[HELLO], user="doctor")
    ask = Ask(prompt="Hi", options=Options(max_tokens=1))
    with _open(session, dialect.request(ask, context), timeout) as response:
        if response.status_code != 200:
            raise dialect.refusal(response.status_code, _lowered(response), _body(response))
        if response.headers.get("Content-Type", "").lower().startswith(("application/json", "text/html")):
            raise Failure("upstream_invalid")  # a stream was asked for
        reader = dialect.reader(context)
        spoke = _listen(response, reader)
    verdict = reader.eof()
    if verdict.failure is not None:
        raise verdict.failure
    model = dialect.model or "its model"
    return f"{model} streams" if spoke else f"{model} answers"


def _listen(response: requests.Response, reader: Reader) -> bool:
    """Feed the reader to its last word; return whether the model said something. Raises Failure."""
    decoder, spoke, size_bytes = sse.Decoder(ANSWER_MAX_BYTES), False, 0
    try:
        for data in _pieces(response):
            for item in decoder.feed(data):
                events = reader.feed(item) if isinstance(item, sse.ServerSentEvent) else []
                spoke = spoke or any(isinstance(event, Token | Reasoning | ToolCall) for event in events)
            size_bytes += len(data)
            if reader.complete or size_bytes > ANSWER_MAX_BYTES:
                break
    except sse.EventTooLarge:
        raise Failure("upstream_invalid") from None
    return spoke


def _open(session: requests.Session, request: Request, timeout: tuple[float, float]) -> requests.Response:
    try:
        return session.request(
            request.method,
            request.url,
            data=request.body if isinstance(request.body, bytes) else None,
            headers={"Accept-Encoding": "identity", "User-Agent": "sluice", **request.headers},
            timeout=timeout,
            stream=True,
            allow_redirects=False,
        )
    except requests.ReadTimeout:
        raise Failure("upstream_timeout") from None
    except requests.RequestException:
        raise Failure("upstream_unreachable") from None


def _pieces(response: requests.Response) -> Iterator[bytes]:
    try:
        while data := response.raw.read1(16 * 1024, decode_content=True):
            yield data
    except urllib3.exceptions.ReadTimeoutError:
        raise Failure("upstream_timeout") from None
    except (urllib3.exceptions.HTTPError, OSError):
        raise Failure("upstream_truncated") from None


def _body(response: requests.Response) -> bytes:
    body = b""
    for data in _pieces(response):
        body += data
        if len(body) > ANSWER_MAX_BYTES:
            break
    return body


def _lowered(response: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
