"""What was measured: answers and streams, with the times at which their parts came, in seconds since the request."""

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Literal

import msgspec

LATE_INTERVALS = 1.5  # a frame that comes later than this many pauses has been held back
LATE_SHARE = 0.25  # of all frames: a busy machine delays a few, a buffer delays most


class Answer(msgspec.Struct, kw_only=True):
    """An answer's head; `headers` in lower case, `version` such as "HTTP/1.1". Status 0: no answer came."""

    status: int
    version: str
    headers: Mapping[str, str]
    seconds: float

    def __str__(self) -> str:
        return f"HTTP {self.status}" if self.status else "no answer"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What the relay says at the start of a probe: see web/probe.py."""

    instance: str
    shared_store: bool
    seq: int
    protocol: str
    host: str
    heartbeat_seconds: float
    stream_max_seconds: float
    compress: str


class Frame(msgspec.Struct, frozen=True):
    """One frame of a probe: its cursor, when it left (after the start) and when it came, both in seconds."""

    seq: int
    cursor: str
    sent: float
    came: float


class Stream(msgspec.Struct, kw_only=True, dict=True):
    """One probe as it came. `first_byte` None: nothing of the body came. `ended`: its `end` came."""

    answer: Answer
    interval: float = 0.0  # as asked
    request_id: str = ""  # as sent
    start: Start | None = None
    frames: list[Frame] = []
    pings: list[float] = []
    first_byte: float | None = None
    seconds: float = 0.0
    ended: bool = False

    @property
    def cut(self) -> bool:
        """Return whether it is a probe that broke off."""
        return self.answer.status == 200 and not self.ended

    @property
    def encoding(self) -> str:
        """Return the content encoding, "" = none."""
        return self.answer.headers.get("content-encoding", "")

    @cached_property
    def lateness(self) -> list[float]:
        """Return how much later than the fastest frame each came, in seconds.

        Neither the clocks' difference nor the way's length matters: the frame that was least held back is the measure.
        """
        travelled = [frame.came - frame.sent for frame in self.frames]
        return [seconds - min(travelled) for seconds in travelled]

    @property
    def held_back(self) -> bool:
        """Return whether the frames came in lumps, not as they were sent."""
        late = [seconds for seconds in self.lateness if seconds > LATE_INTERVALS * self.interval]
        return len(late) >= max(2, LATE_SHARE * len(self.frames))

    @property
    def lumps(self) -> int:
        """Return in how many pieces the frames came."""
        times = [frame.came for frame in self.frames]
        gaps = [after - before for before, after in pairwise(times)]
        return min(1, len(times)) + len([gap for gap in gaps if gap > self.interval / 3])


class Tls(msgspec.Struct, frozen=True):
    """A TLS handshake: its version, what the edge speaks to browsers ("h2", "http/1.1", ""), the certificate's days."""

    version: str
    protocol: str
    days_left: float


class Upgrade(msgspec.Struct, frozen=True):
    """A WebSocket handshake's status (101 = open, 0 = the connection broke), and whether a message was answered."""

    status: int
    answered: bool = False


Trouble = Literal["refused", "timeout", "dns", "tls", "broken"]


class Unreachable(Exception):
    """No HTTP answer came. `trouble` says how it failed; the message is the library's own."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        self.trouble: Trouble = trouble
        super().__init__(message)
