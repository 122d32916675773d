"""The terminal of `flask chat`: the answer on stdout, everything else on stderr, and nothing of it trusted."""

import re
import sys
from io import TextIOWrapper
from typing import TextIO

import click

# ESC would let a model move the cursor, rewrite the title or fill the clipboard; so would the eight-bit C1 controls.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Return `text` with every control character but LF and TAB shown as U+FFFD."""
    return _CONTROLS.sub("\ufffd", text)


class Screen:
    """Two streams that may share one terminal: neither goes on in the other's unfinished line."""

    def __init__(self, *, show_reasoning: bool | None) -> None:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # a locale without the character is no reason to fail
        self._out, self._err = sys.stdout, sys.stderr
        self._dim = self._err.isatty()
        self._show_reasoning = self._dim if show_reasoning is None else show_reasoning
        self._unfinished: set[TextIO] = set()

    def answer(self, text: str) -> None:
        """Append to the answer."""
        self._write(self._out, self._err, harmless(text))

    def reasoning(self, text: str) -> None:
        """Append to the thinking."""
        if self._show_reasoning:
            text = harmless(text)
            self._write(self._err, self._out, text, click.style(text, dim=True) if self._dim else text)

    def notice(self, text: str) -> None:
        """Show a line of our own."""
        self._finish_line(self._err)
        self._write(self._err, self._out, harmless(text) + "\n")

    def finish_answer(self) -> None:
        """End the answer's last line."""
        self._finish_line(self._out)

    def _write(self, stream: TextIO, other: TextIO, text: str, styled: str = "") -> None:
        if not text:
            return
        if other.isatty():  # a file's lines are nobody's business but its own
            self._finish_line(other)
        stream.write(styled or text)
        stream.flush()
        (self._unfinished.discard if text.endswith("\n") else self._unfinished.add)(stream)

    def _finish_line(self, stream: TextIO) -> None:
        if stream in self._unfinished:
            stream.write("\n")
            stream.flush()
            self._unfinished.discard(stream)
