"""A network of its own, joined to this one by a single wire that can fail: what a client on a train is to a server."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Namespace:
    """A Linux network namespace. `here` is our end's address, `prefix` begins the command of a process inside."""

    name: str
    here: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def swallow(self) -> None:
        """From now on nothing leaves the namespace: no data, no FIN, no RST, not even an acknowledgement."""
        _ip("-n", self.name, "route", "add", "blackhole", f"{self.here}/32")


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    if result.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace for the length of a `with` block. Skips the test where that is impossible, but not in CI."""
    pid = os.getpid()
    name, wire = f"sluice-{pid}", f"sl{pid}"
    base = 4 * (pid % (1 << 14))  # 198.18.0.0/15 is for tests; each process has its own four addresses
    here, there = (f"198.18.{base >> 8}.{(base & 255) + host}" for host in (1, 2))
    try:
        _ip("netns", "add", name)
    except OSError as error:
        reason = f"network namespaces need Linux, root and iproute2: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        _ip("link", "add", wire, "type", "veth", "peer", "name", "wire", "netns", name)
        _ip("address", "add", f"{here}/30", "dev", wire)
        _ip("link", "set", wire, "up")
        _ip("-n", name, "address", "add", f"{there}/30", "dev", "wire")
        _ip("-n", name, "link", "set", "wire", "up")
        yield Namespace(name, here)
    finally:
        with contextlib.suppress(OSError):
            _ip("link", "delete", wire)
        _ip("netns", "delete", name)
