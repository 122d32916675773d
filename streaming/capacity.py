"""How many runs and connections the process can hold, from what it may open."""

import resource

import msgspec

SPARE_FILES = 200  # listeners, logs, libraries, names being resolved
MAX_OPEN_FILES = 65_536  # more than one process serves; some systems refuse to set "unlimited"
KEPT_FOR_RESUMES = 0.1
"""The share of all connections that new runs may not take: a resume is never refused, and beyond the last connection
clients would wait in the backlog without any answer."""
KEPT_FREE = 0.25
"""The share that is kept free of those who ask nothing: without it whoever opens connections, and says nothing or asks
what is refused, would take every place."""
IDLE_PLACES = 0.1
"""The share that those have even then: who has just connected must have time to ask."""


class Capacity(msgspec.Struct, frozen=True):
    """`runs` unfinished at a time, each with an upstream connection; client `connections`, followers included."""

    runs: int
    connections: int

    @property
    def crowded_at(self) -> int:
        """Return the number of connections from which on new runs are refused with a 503."""
        return int(self.connections * (1 - KEPT_FOR_RESUMES))

    @property
    def nearly_full_at(self) -> int:
        """Return the number of connections from which on idle ones make room, and each is closed after its answer."""
        return int(self.connections * (1 - KEPT_FREE))

    @property
    def idle_places(self) -> int:
        """Return how many idle connections are left alone even then."""
        return int(self.connections * IDLE_PLACES)


def capacity(max_runs: int, open_files: int) -> Capacity:
    """Return what fits into `open_files` descriptors: `max_runs`, or fewer where it must be."""
    usable = max(20, open_files - SPARE_FILES)
    runs = min(max_runs, usable // 3)  # one descriptor upstream; two for clients, some runs have several followers
    return Capacity(runs=runs, connections=min(3 * max_runs + 1000, usable - runs))


def raise_open_files() -> int:
    """Raise this process's limit of open files as far as it may go; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
