"""What a run cost and whether its text is whole: an estimate of tokens, and the digest."""

import zlib

from streaming.wire.events import Digest, Usage

_ASCII_CHARACTERS_PER_TOKEN = 4  # the rule of thumb for English and code
_OTHER_CHARACTERS_PER_TOKEN = 1.5  # between GPT-4o's and Qwen's figures for Chinese; an emoji costs more


def estimate_tokens(text: str) -> int:
    """Return a rough token count; used only where the upstream tells none, and then said so (`exact: false`)."""
    if not text:
        return 0
    ascii_count = len(text.encode("ascii", "ignore"))
    tokens = ascii_count / _ASCII_CHARACTERS_PER_TOKEN + (len(text) - ascii_count) / _OTHER_CHARACTERS_PER_TOKEN
    return max(1, round(tokens))


def estimate(prompt: str, completion: str) -> Usage:
    """Return an estimated usage from what went in and what came out."""
    prompt_tokens, completion_tokens = estimate_tokens(prompt), estimate_tokens(completion)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        exact=False,
    )


class RunningDigest:
    """The digest of an answer that grows token by token."""

    def __init__(self) -> None:
        self._bytes = 0
        self._crc32 = 0

    def add(self, text: str) -> None:
        """Append `text` to the answer."""
        data = text.encode()
        self._bytes += len(data)
        self._crc32 = zlib.crc32(data, self._crc32)

    def replace(self, text: str) -> None:
        """Let `text` be the whole answer."""
        self._bytes = self._crc32 = 0
        self.add(text)

    def value(self) -> Digest:
        """Return the digest of the answer so far."""
        return Digest(bytes=self._bytes, crc32=f"{self._crc32:08x}")
