"""Who may answer an ask: the upstreams in the order in which they are tried, each with its breaker."""

from collections.abc import Sequence

from streaming.relay.attempts import Candidate
from streaming.relay.conversations import Conversation
from streaming.relay.upstream import Upstream
from streaming.wire.ask import Ask, AskError
from streaming.wire.errors import Refusal


class Candidates:
    """All upstreams. At least one."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._all = {upstream.name: Candidate(upstream) for upstream in upstreams}

    @property
    def upstreams(self) -> list[Upstream]:
        """Return the upstreams in their order."""
        return [candidate.upstream for candidate in self._all.values()]

    def breakers(self) -> dict[str, str]:
        """Return the state of each upstream's breaker, by name."""
        return {name: candidate.breaker.state for name, candidate in self._all.items()}

    def choose(self, ask: Ask, conversation: Conversation | None) -> list[Candidate]:
        """Return who may answer, in order: the one that the ask names alone, or else all that can take its place."""
        if ask.upstream is not None:
            if ask.upstream not in self._all:
                raise Refusal("unknown_upstream", f"Field 'upstream': known are {', '.join(self._all)}.")
            first = self._all[ask.upstream]
        elif conversation is not None and conversation.upstream in self._all:
            first = self._all[conversation.upstream]
        else:
            first = next(iter(self._all.values()))
        first.upstream.check(ask)
        # A conversation that an upstream keeps is nowhere else.
        if ask.upstream is not None or (conversation is not None and first.upstream.history == "upstream"):
            return [first]
        return [first, *(each for each in self._all.values() if each is not first and _fits(each, first, ask))]


def _fits(other: Candidate, first: Candidate, ask: Ask) -> bool:
    """Return whether `other` can answer in the place of `first`: who keeps the history must not change."""
    if other.upstream.history != first.upstream.history:
        return False
    try:
        other.upstream.check(ask)
    except AskError:
        return False
    return True
