"""`flask chat`: asks a running relay from the terminal and shows each token when it arrives.

The answer goes to stdout, everything else to stderr, so that `flask chat "…" > file` keeps the answer alone.
Exit code: 0 for a good end, 1 for a bad one or a lost relay, 2 for a refusal, 130 after Ctrl-C.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click
import requests

from streaming.chat_client import ClientError, Refused, Relay, Started
from streaming.chat_screen import Screen
from streaming.wire.events import End, Event, File, Reasoning, Replace, Token, Usage
from streaming.wire.usage import RunningDigest

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_HAPPY_ENDS = {"done", "stopped", "paused"}


class Turn:
    """One question and its answer."""

    def __init__(self, relay: Relay, screen: Screen) -> None:
        self.conversation_id: str | None = None
        self.interrupted = False
        self._relay = relay
        self._screen = screen
        self._run: Started | None = None
        self._digest = RunningDigest()

    def ask(self, ask: dict[str, Any]) -> int:
        """Ask and show; return the exit code. The first Ctrl-C stops the run and its end is still shown."""
        try:
            with _first_ctrl_c(self._interrupt):
                self._run = run = self._relay.start(ask)
                self.conversation_id = run.conversation_id
                if self.interrupted:
                    self._stop(run)
                end: End | None = None
                for event in self._relay.follow(run):
                    self._show(event)
                    end = event if isinstance(event, End) else None
                end, whole = self._settle(run, end)
        finally:
            self._screen.finish_answer()
        self._sum_up(end)
        if self.interrupted:
            return _INTERRUPTED
        return 0 if whole and end.reason in _HAPPY_ENDS else 1

    def _interrupt(self) -> None:
        self.interrupted = True
        if self._run:
            self._stop(self._run)

    def _stop(self, run: Started) -> None:
        # Beside the reading, which it must not cut: what was said before the stop still arrives, then the end.
        threading.Thread(target=self._post_stop, args=(run,), daemon=True).start()

    def _post_stop(self, run: Started) -> None:
        try:
            self._relay.stop(run)
        except ClientError as error:
            self._screen.notice(f"not stopped: {error}")

    def _show(self, event: Event) -> None:
        match event:
            case Token():
                self._digest.add(_encodable(event.text))
                self._screen.answer(event.text)
            case Reasoning():
                self._screen.reasoning(event.text)
            case Replace():
                self._digest.replace(_encodable(event.text))
                self._show_anew("the answer so far was replaced by:", event.text)
            case File():
                self._screen.notice(f"{event.kind}: {event.url}")

    def _show_anew(self, notice: str, text: str) -> None:
        self._screen.finish_answer()
        self._screen.notice(notice)
        self._screen.answer(text)

    def _settle(self, run: Started, end: End | None) -> tuple[End, bool]:
        """Return the end, and whether what is on the screen now is the answer; if not, show the relay's copy first."""
        if end and end.digest in {None, self._digest.value()}:  # None: the relay lost the log, so nothing is provable
            return end, True
        self._screen.finish_answer()
        self._screen.notice("this is not the whole answer; the relay's copy:")
        copy = self._relay.snapshot(run)
        self._screen.answer(copy.text)
        self._digest.replace(_encodable(copy.text))
        end = end or copy.end
        if end is None:
            raise ClientError("the relay has no more events, and no end")
        return end, end.digest in {None, self._digest.value()}

    def _sum_up(self, end: End) -> None:
        if end.error:
            again = f" Try again in {end.error.retry_after} s." if end.error.retry_after else ""
            self._screen.notice(f"error: {end.error.code}: {end.error.message}{again}")
        parts = [end.reason, _tokens(end.usage)]
        if end.timing and end.timing.first_token is not None:
            parts.append(f"first token after {end.timing.first_token:.0f} ms")
        if self.conversation_id:
            parts.append(f"conversation {self.conversation_id}")
        self._screen.notice(", ".join(parts))


def _encodable(text: str) -> str:
    # No relay sends a lone surrogate; one that did would fail the digest, not us.
    return text.encode("utf-8", "replace").decode()


def _tokens(usage: Usage | None) -> str:
    if usage is None or usage.total_tokens is None:
        return "tokens unknown"
    parts = (usage.prompt_tokens, usage.completion_tokens)
    count = str(usage.total_tokens) if None in parts else f"{parts[0]} + {parts[1]}"
    return f"{count} tokens ({'exact' if usage.exact else 'estimated'})"


@contextlib.contextmanager
def _first_ctrl_c(action: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C call `action` and the second one be a KeyboardInterrupt.

    The first raises nothing: it would tear a token that is neither quite read nor quite shown.
    """

    def once(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        action()

    previous = signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@click.command()
@click.argument("question", required=False)
@click.option("--url", envvar="SLUICE_URL", help="Base URL of the relay.  [default: http://127.0.0.1:$PORT]")
@click.option("--port", envvar="PORT", default=8000, hidden=True)
@click.option("--api-key", envvar="SLUICE_API_KEY", help="Better in the environment: arguments are seen by others.")
@click.option("--upstream", help="One of the relay's upstreams, by name.")
@click.option("--conversation", help="Go on with this conversation.")
@click.option(
    "--show-reasoning/--no-show-reasoning", default=None, help="The thinking, on stderr; default: if a terminal."
)
def chat(
    question: str | None,
    url: str | None,
    port: int,
    api_key: str | None,
    upstream: str | None,
    conversation: str | None,
    show_reasoning: bool | None,
) -> None:
    """Ask a running relay. QUESTION is - or absent: read from stdin; absent on a terminal: a conversation."""
    url = _address(url or f"http://127.0.0.1:{port}")
    screen = Screen(show_reasoning=show_reasoning)
    ask = {"upstream": upstream, "conversation_id": conversation, "on_disconnect": "finish"}
    ask = {name: value for name, value in ask.items() if value}
    with requests.Session() as session:
        relay = Relay(session, url, api_key)
        try:
            if question is None and sys.stdin.isatty():
                code = _converse(relay, screen, ask)
            else:
                code = _ask_once(relay, screen, {**ask, "prompt": _question(question)})
        except KeyboardInterrupt:
            screen.finish_answer()
            code = _INTERRUPTED
    sys.exit(code)


def _address(text: str) -> str:
    with contextlib.suppress(ValueError):  # brackets that do not match, a port that cannot be
        parts = urlsplit(text)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return text
    raise click.BadParameter(f"{text!r} is no http:// or https:// address", param_hint="--url")


def _question(argument: str | None) -> str:
    text = sys.stdin.read() if argument in {None, "-"} else str(argument)
    if not text.strip():
        raise click.UsageError("There is no question.")
    return _encodable(text)


def _ask_once(relay: Relay, screen: Screen, ask: dict[str, Any]) -> int:
    try:
        return Turn(relay, screen).ask(ask)
    except ClientError as error:
        screen.notice(str(error))
        return error.exit_code


def _converse(relay: Relay, screen: Screen, ask: dict[str, Any]) -> int:
    """Ask until an empty line or Ctrl-D. What fails is shown, and the next question may do better."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # importing it gives input() its line editing
    screen.notice("An empty line or Ctrl-D leaves; Ctrl-C stops an answer.")
    with contextlib.suppress(EOFError):
        while question := input("> ").strip():
            turn = Turn(relay, screen)
            try:
                turn.ask({**ask, "prompt": _encodable(question)})
            except ClientError as error:
                screen.notice(str(error))
                if isinstance(error, Refused) and error.code == "conversation_not_found":
                    ask.pop("conversation_id", None)  # expired meanwhile: the next question begins a new one
            if turn.conversation_id:
                ask["conversation_id"] = turn.conversation_id
    return 0
