"""How full one process is."""

import msgspec

from streaming.relay.cursor import Cursor
from streaming.relay.others import Others
from streaming.relay.runs import Runs
from streaming.relay.store import Store


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """What a process holds and may hold. `breakers`: states by upstream; `redis_lag_seconds`: see others.Others."""

    runs: int  # unfinished
    runs_limit: int
    subscribers: int
    log_bytes: int
    log_limit_bytes: int
    breakers: dict[str, str]
    redis_lag_seconds: float


class Meter:
    """Reads the levels. `others` None = there is no Redis."""

    def __init__(
        self, runs: Runs, store: Store, others: Others | None, *, runs_limit: int, log_limit_bytes: int
    ) -> None:
        self._runs = runs
        self._store = store
        self._others = others
        self._runs_limit = runs_limit
        self._log_limit_bytes = log_limit_bytes

    def read(self) -> Levels:
        """Return the levels of this moment."""
        return Levels(
            runs=self._runs.counts()["unfinished"],
            runs_limit=self._runs_limit,
            subscribers=Cursor.open_ones,
            log_bytes=self._store.size_bytes,
            log_limit_bytes=self._log_limit_bytes,
            breakers=self._runs.breakers(),
            redis_lag_seconds=self._others.lag_seconds if self._others is not None else 0.0,
        )
