"""A run that another worker produces, as its followers here see it: a copy of its log, and a way to reach its owner."""

import time
from collections.abc import Callable

from streaming.relay.conversations import Conversation, Turn
from streaming.relay.run import STOP_SECONDS, Run
from streaming.relay.store import Log
from streaming.wire import jsontext
from streaming.wire.answer import fold
from streaming.wire.ask import Context, Message
from streaming.wire.events import LOST_END_SKIP, End, Entry, Timing
from streaming.wire.journal import decode_end
from streaming.wire.usage import RunningDigest, estimate

AHEAD_MAX_EVENTS = 1000  # more than any upstream says in the time that Redis is behind the owner

Tell = Callable[[str, str, bool], None]
"""`tell(run_id, what, by_us)`: say something to the run's owner; it must neither block nor raise."""


class RemotePresence:
    """Tells the owner who is there: "join", "leave", "seen", "soften". See run.Attendance."""

    def __init__(self, run_id: str, tell: Tell) -> None:
        self.subscribers = 0
        self.idle_since = time.monotonic()
        self._run_id = run_id
        self._tell = tell

    def joined(self) -> None:
        """See run.Attendance."""
        self.subscribers += 1
        if self.subscribers == 1:
            self._tell(self._run_id, "join", False)

    def left(self, *, by_us: bool) -> None:
        """See run.Attendance."""
        self.subscribers -= 1
        self.idle_since = time.monotonic()
        if not self.subscribers:
            self._tell(self._run_id, "leave", by_us)

    def seen(self) -> None:
        """See run.Attendance."""
        self._tell(self._run_id, "seen", False)

    def soften(self) -> None:
        """See run.Attendance."""
        self._tell(self._run_id, "soften", False)


class RemoteRun(Run):
    """See run.Run. `offer` feeds the copy, in any order and as often as it likes."""

    def __init__(self, run_id: str, log: Log, tell: Tell) -> None:
        super().__init__(run_id, Turn(Context(messages=[], user="")), log)
        self.presence = self.followers = RemotePresence(run_id, tell)
        self.stopping = False  # the owner is told until it has done it
        self._tell = tell
        self._ahead: list[tuple[int, list[Entry]]] = []  # stretches that came before those in front of them

    @property
    def known(self) -> bool:
        """Return whether there is anything of it: every run has a first event."""
        return self.last_seq > 0

    @property
    def has_gap(self) -> bool:
        """Return whether something is missing that must be fetched."""
        return bool(self._ahead)

    def ask_was(self, question: str) -> None:
        """Take what the owner keeps beside the log."""
        self.turn.context.messages[:] = [Message("user", question)]

    def offer(self, entries: list[Entry], *, from_stream: bool = False) -> None:
        """Take consecutive entries. `from_stream`: nothing is missing before them, so an end may skip."""
        skips = from_stream and [entry.type for entry in entries] == ["end"]
        if self.ended or not entries or entries[-1].seq <= self.last_seq:
            return
        unknown = not self.known and not from_stream  # a journal still has runs that have expired
        if unknown or (entries[0].seq > self.last_seq + 1 and not skips):
            self._ahead.append((entries[0].seq, entries))
            return
        for entry in entries:
            if entry.seq > self.last_seq:
                self._append(entry)
        ahead, self._ahead = sorted(self._ahead), []
        for _, stretch in ahead:
            self.offer(stretch)

    def _append(self, entry: Entry) -> None:
        self.last_seq = entry.seq
        self.has_token = self.has_token or entry.type == "token"
        if entry.type == "end":
            self._ahead.clear()
            self.end = decode_end(entry)
        self.log.append(entry.type, entry.data, entry.seq)
        if entry.type == "start":
            id_ = fold([entry]).conversation_id
            self.turn.conversation = Conversation(id=id_, owner=None, upstream="", user="") if id_ else None

    def has(self, seq: int) -> bool:
        """See run.Run. A cursor from another worker may be ahead of what Redis has, or what it will ever have."""
        return super().has(seq - AHEAD_MAX_EVENTS)

    def end_early(self, reason: str, within_seconds: float = STOP_SECONDS) -> None:
        """See run.Run. From elsewhere a run can only be stopped."""
        if not self.ended:
            self.stopping = True
            self._tell(self.id, "stop", False)

    def lost_end(self) -> Entry:
        """Return the end that is written for a dead owner: it tells what the store has kept."""
        answer = self.answer()
        digest = RunningDigest()
        digest.add(answer.text)
        question = "".join(message.text() for message in self.turn.context.messages) if answer.upstream else ""
        end = End(
            reason="interrupted",
            usage=estimate(question, answer.text + answer.reasoning),
            digest=digest.value(),
            timing=Timing(),
        )
        return Entry(self.last_seq + LOST_END_SKIP, end.type, jsontext.dumps(end))
