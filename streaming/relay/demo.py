"""The built-in upstream: no model, no network, honest about it. For trying the relay, a router, a page.

It speaks at a steady pace, and on request it misbehaves:

    /slow            two tokens a second            /silent 40   says nothing for 40 s, then answers
    /fail            fails in the middle            /long 2000   an answer of 2000 tokens
    /cut             breaks off without an ending   /think       thinks first
"""

import re
from collections.abc import Iterator

import gevent

from streaming.relay.interrupt import Interrupted, Interruptible
from streaming.relay.upstream import Sink
from streaming.wire.ask import Ask, AskError, Context
from streaming.wire.dialects import Verdict
from streaming.wire.errors import Failure
from streaming.wire.events import Reasoning, Token
from streaming.wire.usage import estimate

TOKEN_SECONDS = 0.04
SLOW_TOKEN_SECONDS = 0.5
MAX_SILENCE_SECONDS = 300
MAX_TOKENS = 20_000

_COMMAND = re.compile(r"^/(slow|silent|fail|long|cut|think)(?:\s+(\d{1,6}))?\b\s*")
_PIECES = re.compile(
    r"[一-鿿぀-ヿ，。！？、：；（）]|\s*[^\s一-鿿぀-ヿ，。！？、：；（）]+|\s+"
)  # about what a model calls a token

_ANSWER_EN = (
    "This is **Sluice's demo upstream**: no model is behind it, and it repeats what you wrote:\n\n> {prompt}\n\n"
    "Each word left the relay when it was made. Cut the connection and come back: nothing is lost, nothing doubled. "
    "Try `/slow`, `/silent 40`, `/fail`, `/cut`, `/think` or `/long 2000` before your text. 👋\n\n"
    "For real answers set `UPSTREAM`, `UPSTREAM_API_KEY` and `UPSTREAM_MODEL`."
)
_ANSWER_ZH = (
    "这里是 **Sluice 的演示上游**：背后没有模型，只会重复你写的内容：\n\n> {prompt}\n\n"
    "每个字一产生就立刻送出。断开连接再回来：一个字不丢，一个字不重。"
    "可以在文字前加上 `/slow`、`/silent 40`、`/fail`、`/cut`、`/think` 或 `/long 2000` 试试。👋\n\n"
    "要得到真正的回答，请设置 `UPSTREAM`、`UPSTREAM_API_KEY` 和 `UPSTREAM_MODEL`。"
)


class DemoUpstream:
    """See upstream.Upstream."""

    dialect_name = "demo"
    model = "demo"
    models = ()
    history = "relay"

    def __init__(self, name: str = "demo") -> None:
        self.name = name

    def check(self, ask: Ask) -> None:
        """See upstream.Upstream."""
        if ask.prompt is None and ask.messages is None:
            raise AskError("'prompt' is missing")
        if ask.model not in {None, self.model}:
            raise AskError("field 'model': the demo has no model to choose", "model")

    def exchange(self, ask: Ask, context: Context, sink: Sink) -> "DemoExchange":
        """See upstream.Upstream."""
        return DemoExchange(context.messages[-1].text(), sink)


class DemoExchange:
    """See upstream.Exchange."""

    conversation_id = None

    def __init__(self, prompt: str, sink: Sink) -> None:
        self.upstream_stop: str | None = None
        self._sink = sink
        self._work = Interruptible()
        self._stopping = False
        match = _COMMAND.match(prompt)
        self._command = match[1] if match else ""
        self._number = int(match[2]) if match and match[2] else None
        self._prompt = prompt[match.end() :] if match else prompt

    def run(self) -> Verdict:
        """See upstream.Exchange."""
        if self._stopping:
            raise Interrupted
        with self._work:
            return self._run()

    def _run(self) -> Verdict:
        if self._command == "silent":
            gevent.sleep(min(self._number or 40, MAX_SILENCE_SECONDS))
        self._sink.accepted(None)
        pieces = list(self._answer())
        for position, event in enumerate(pieces):
            if self._command in {"fail", "cut"} and position == len(pieces) // 2:
                raise Failure("upstream_failed" if self._command == "fail" else "upstream_truncated")
            gevent.sleep(SLOW_TOKEN_SECONDS if self._command == "slow" else TOKEN_SECONDS)
            self._sink.append(event)
        text = "".join(event.text for event in pieces)
        return Verdict(reason="done", finish_reason="stop", usage=estimate(self._prompt, text))

    def _answer(self) -> Iterator[Token | Reasoning]:
        if self._command == "long":
            yield from (Token(text=f"{number} ") for number in range(1, min(self._number or 2000, MAX_TOKENS) + 1))
            return
        chinese = any("\u4e00" <= character <= "\u9fff" for character in self._prompt)
        if self._command == "think":
            thought = "让我想一想……演示上游只会重复。" if chinese else "Let me think… the demo can only repeat."
            yield from (Reasoning(text=piece) for piece in _PIECES.findall(thought))
        text = (_ANSWER_ZH if chinese else _ANSWER_EN).format(prompt=self._prompt.strip() or "…")
        yield from (Token(text=piece) for piece in _PIECES.findall(text))

    def stop(self, within_seconds: float) -> None:
        """See upstream.Exchange."""
        if not self._stopping:
            self._stopping = True
            self.upstream_stop = "closed"
            self._work.interrupt()

    def close(self) -> None:
        """See upstream.Exchange: there is nothing to close."""
