"""What a test, or a relay process, must not leave behind."""

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import gevent

from tests.live import Relay, wait_until

SETTLE_SECONDS = 10.0  # how long what was told to end may take on a loaded machine

_spawned: "weakref.WeakSet[gevent.Greenlet]" = weakref.WeakSet()  # threads too: in a patched process they are greenlets


def _sockets() -> set[str]:
    """Return this process's sockets, each by its inode."""
    return {link for _, link in descriptors(os.getpid()) if link.startswith("socket:")}


def descriptors(pid: int) -> list[tuple[int, str]]:
    """Return number and target of each open descriptor of a process."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append((int(entry.name), str(entry.readlink())))
    return found


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail where greenlets or sockets that were made inside the `with` block outlive it."""
    gevent.Greenlet.add_spawn_callback(_spawned.add)
    _spawned.clear()
    sockets = _sockets()
    yield
    greenlets = [greenlet for greenlet in _spawned if not greenlet.dead]
    gevent.joinall(greenlets, timeout=SETTLE_SECONDS)
    alive = [greenlet for greenlet in greenlets if not greenlet.dead]
    assert not alive, f"greenlets left behind: {alive}"
    wait_until(lambda: _sockets() <= sockets, "the sockets are closed", SETTLE_SECONDS)


def worker_pid(server: Relay) -> int:
    """Return the process id of the relay's one worker."""
    pid = server.process.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(worker)
