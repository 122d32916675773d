"""What a test, or a relay process, must not leave behind."""

import contextlib
import gc
import os
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path

import gevent
import requests

from tests.live import WAIT_SECONDS, Relay, wait_until

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
    if _sockets() - sockets:
        gc.collect()  # urllib3's exceptions and their frames hold each other
    wait_until(lambda: _sockets() <= sockets, "the sockets are closed", SETTLE_SECONDS)


@contextlib.contextmanager
def nothing_kept(server: Relay, kept_to: Collection[int] = ()) -> Iterator[None]:
    """Fail where the relay is left with an unfinished run, or with more open files than before the `with` block.

    `kept_to`: connections to these ports are not counted: the relay keeps some for the next call.
    """
    requests.post(f"{server.url}/chat", json={"prompt": "hi"}, timeout=20)  # opens what is opened once
    before = len(_open_files(server, kept_to))
    yield
    wait_until(lambda: server.counts()["unfinished"] == 0, "every run has ended", 2 * WAIT_SECONDS)
    try:
        wait_until(lambda: len(_open_files(server, kept_to)) <= before, "as many files are open as before")
    except AssertionError as error:
        raise AssertionError(f"{error}: {_open_files(server, kept_to)}, before {before}") from None


def _open_files(server: Relay, kept_to: Collection[int]) -> list[str]:
    kept = {link for port in kept_to for link in connections_to(server, port)}
    return [link for _, link in descriptors(worker_pid(server)) if link not in kept]


def connections_to(server: Relay, port: int) -> set[str]:
    """Return the relay's connections to a port, in any state."""
    pid, found = worker_pid(server), set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) == port:
            found.add(f"socket:[{fields[9]}]")
    return found & {link for _, link in descriptors(pid)}


def worker_pid(server: Relay) -> int:
    """Return the process id of the relay's one worker."""
    pid = server.process.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(worker)
