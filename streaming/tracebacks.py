"""Tracebacks that tell where, and not with what: an exception's own words can hold a prompt or a key.

`KeyError('the prompt')`, `UnicodeEncodeError(…)`, a library's "invalid URL 'https://…?key=…'": all of them quote.
"""

import logging
import traceback
from types import TracebackType

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class QuietFormatter(logging.Formatter):
    """A formatter whose tracebacks have the frames and the exceptions' types, and none of their messages."""

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        """Return the traceback, that of the cause first."""
        error, blocks, seen = ei[1], list[str](), set[int]()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            frames = "".join(traceback.format_tb(error.__traceback__))
            blocks.append(f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n\nwhich led to\n\n".join(reversed(blocks))
