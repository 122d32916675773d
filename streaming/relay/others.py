"""What a worker knows of the others of its site, where there is a shared store (Elsewhere). Whose run an id names."""

import secrets
import string
from typing import Protocol

from streaming.relay.own_run import OwnRun
from streaming.relay.run import Run

TAG_CHARACTERS = 4  # of the worker that began a run, at the front of its id


def new_tag() -> str:
    """Return a worker's tag. Ids begin with it, and so with a letter or digit."""
    first = secrets.choice(string.ascii_letters + string.digits)
    return first + secrets.token_urlsafe(TAG_CHARACTERS)[: TAG_CHARACTERS - 1]


class Others(Protocol):
    """The other workers. Everything raises Refusal("store_unavailable") while the shared store is away."""

    @property
    def tag(self) -> str:
        """Return this worker's own tag."""

    @property
    def state(self) -> str:
        """Return "starting", "ready", or "store_unavailable": away for longer than anybody would wait."""

    @property
    def lag_seconds(self) -> float:
        """Return for how long the oldest event has been waiting for the shared store, 0 = none waits."""

    def close(self) -> None:
        """Write what there is and stop, for the end of the process: all its runs have ended."""

    def refuse_if_away(self) -> None:
        """Raise the refusal where a new run could not be shared."""

    def began(self, run: OwnRun) -> None:
        """Share a run of ours from now on."""

    def get(self, run_id: str) -> Run | None:
        """Return another worker's run, None where it is not known (any more)."""

    def is_over(self, run_id: str) -> bool:
        """Return whether another worker's run has ended or is gone; that of a dead worker ends here and now."""
