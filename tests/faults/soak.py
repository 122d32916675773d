"""Mixed traffic with every fault for a long time: `python -m tests.faults.soak --seconds 1800`.

Every client checks what it gets; in the end nothing may be left and nothing may have grown (memory is judged from a
minute on). Exits non-zero where something was wrong. Of greenlets nothing is counted: each would keep a descriptor, or
memory that is seen.
"""

from gevent import monkey

monkey.patch_all()

import argparse
import random
import re
import statistics
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.faults.soak_clients import CLIENTS, WRITE_TIMEOUT_SECONDS, LeftOut, World
from tests.faults.soak_upstreams import Dify, OpenAI, Seen, broken
from tests.leaks import descriptors, worker_pid
from tests.live import Relay, ScriptedUpstream, relay, scripted, wait_until

AT_ONCE = 50
RUN_TTL_SECONDS = 8
SETTINGS = {
    "HEARTBEAT_SECONDS": "0.5",
    "DISCONNECT_GRACE_SECONDS": "5",
    "WRITE_TIMEOUT_SECONDS": str(WRITE_TIMEOUT_SECONDS),
    "CHAT_WAIT_SECONDS": "1",
    "IDLE_TIMEOUT_SECONDS": "3",
    "MAX_TRIES": "2",
    "RUN_TTL_SECONDS": str(RUN_TTL_SECONDS),
    "RUN_MAX_BYTES": "1MiB",
    "LOG_MAX_BYTES": "12MiB",  # soon full, and then the oldest go
    "CONVERSATION_TTL_SECONDS": "5",
}
WARM_UP_SECONDS = 30  # until then pools fill, the first logs expire and the allocator finds its size
NOISE_MB = 10.0
"""What the allocator's fragments make of the same load at two moments (7 MB seen in a minute, 0 after that)."""
REMEMBERED_BYTES = 500
"""What a run leaves for an hour by design, and bounded: its id for the 410, sometimes its idempotency key."""
WRONG_WORDS = ("ERROR", "CRITICAL", "Traceback")
GIVE_UP_VIOLATIONS = 10


@dataclass(frozen=True)
class Sample:
    """What the worker holds. `files` without the connections that are kept for the next upstream call."""

    rss_mb: float
    files: int
    threads: int


class Meter:
    """Looks at the relay's worker from outside."""

    def __init__(self, server: Relay, upstreams: list[ScriptedUpstream]) -> None:
        self.pid = worker_pid(server)
        self._upstream_ports = {int(re.findall(r":(\d+)/", upstream.url)[0]) for upstream in upstreams}

    def sample(self) -> Sample:
        status = Path(f"/proc/{self.pid}/status").read_text()
        rss, threads = (re.findall(rf"{name}:\s+(\d+)", status)[0] for name in ("VmRSS", "Threads"))
        return Sample(int(rss) / 1024, self._files(), int(threads))

    def _files(self) -> int:
        upstream_sockets = set()
        for row in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = row.split()
            if int(fields[2].rpartition(":")[2], 16) in self._upstream_ports:
                upstream_sockets.add(f"socket:[{fields[9]}]")
        return sum(link not in upstream_sockets for _, link in descriptors(self.pid))


def work(world: World, seed: str) -> None:
    """Be one client after the other."""
    chance = random.Random(seed)
    while not world.over.is_set() and len(world.violations) < GIVE_UP_VIOLATIONS:
        (client,) = chance.choices(list(CLIENTS), list(CLIENTS.values()))
        try:
            client(world, chance)
            world.done[client.__name__] += 1
        except LeftOut as why:
            world.left_out[f"{client.__name__}: {why}"] += 1
        except Exception:
            world.violations.append(f"{client.__name__}: {traceback.format_exc(limit=-8)}")


def traffic(world: World, seconds: float, seed: int, meter: Meter, upstreams: list[ScriptedUpstream]) -> list[Sample]:
    """Let the clients work; return a sample a second."""
    threads = [threading.Thread(target=work, args=(world, f"{seed}.{number}")) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    samples, end = [], time.monotonic() + seconds
    while time.monotonic() < end and len(world.violations) < GIVE_UP_VIOLATIONS:
        samples.append(meter.sample())
        for upstream in upstreams:
            upstream.forget()
        world.over.wait(min(1.0, seconds / 20))
    world.over.set()
    for thread in threads:
        thread.join(60)
    if any(thread.is_alive() for thread in threads):
        world.violations.append("clients hang")
    return samples


def median_mb(samples: list[Sample]) -> float:
    return statistics.median(sample.rss_mb for sample in samples)


def settled(world: World, meter: Meter, before: Sample) -> None:
    """Check that nothing is left when nobody asks any more."""
    server = world.server
    empty = {"unfinished": 0, "ended": 0}
    checks = {
        "every run has ended and is forgotten": lambda: server.counts() == empty,
        "as many descriptors are open as before": lambda: meter.sample().files <= before.files,
        "as many threads run as before": lambda: meter.sample().threads <= before.threads,
    }
    for what, check in checks.items():
        try:
            wait_until(check, what, RUN_TTL_SECONDS + 30)
        except AssertionError as error:
            world.violations.append(f"{error}; {server.counts()}, {meter.sample()}, before {before}")
    if worker_pid(server) != meter.pid:
        world.violations.append("the worker was restarted")
    wrong = [line for line in server.log().splitlines() if any(word in line for word in WRONG_WORDS)]
    world.violations += [f"in the relay's log: {line}" for line in wrong[:GIVE_UP_VIOLATIONS]]


def growth(world: World, seconds: float, samples: list[Sample]) -> tuple[float, float, float]:
    """Compare the memory after the warm-up with that of the end; return both and what is allowed."""
    window = max(3, len(samples) // 10)
    warm = int(len(samples) * min(0.8, WARM_UP_SECONDS / seconds))
    early, late = median_mb(samples[warm : warm + window]), median_mb(samples[-window:])
    allowed = NOISE_MB + sum(world.done.values()) * REMEMBERED_BYTES / 1e6
    if late - early > allowed and seconds >= 2 * WARM_UP_SECONDS:
        world.violations.append(f"memory grew from {early:.1f} MB to {late:.1f} MB, allowed is {allowed:.1f}")
    return early, late, allowed


def report(world: World, seconds: float, samples: list[Sample], before: Sample, after: Sample) -> None:
    """Print what happened."""
    early, late, allowed = growth(world, seconds, samples)
    print(f"{sum(world.done.values())} clients in {seconds:.0f} s")
    for name, count in sorted([*world.done.items(), *world.left_out.items()]):
        print(f"  {name:32}{count:8}")
    print(f"{'':12}{'before':>10}{'warm':>10}{'end':>10}{'settled':>10}")
    print(f"{'RSS, MB':12}{before.rss_mb:10.1f}{early:10.1f}{late:10.1f}{after.rss_mb:10.1f}  (may grow {allowed:.1f})")
    print(f"{'descriptors':12}{before.files:10}{'':10}{samples[-1].files:10}{after.files:10}")
    print(f"{'threads':12}{before.threads:10}{'':10}{samples[-1].threads:10}{after.threads:10}")
    for violation in world.violations:
        print(f"VIOLATION {violation}")


def soak(seconds: float, seed: int) -> bool:
    """Return whether all went well."""
    seen = Seen()
    with scripted(broken) as bad, scripted(OpenAI(seen)) as good, scripted(Dify(seen)) as dify:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            dialects = {"broken": ("openai", bad), "good": ("openai", good), "dify": ("dify", dify)}
            for name, (dialect, upstream) in dialects.items():
                file.write(f'[[upstream]]\nname = "{name}"\ndialect = "{dialect}"\nurl = "{upstream.url}"\n')
                file.write("" if dialect == "dify" else 'model = "m"\n')
            file.flush()
            with relay(UPSTREAMS_FILE=file.name, **SETTINGS) as server:
                meter, world = Meter(server, [bad, good, dify]), World(server, seen)
                before = meter.sample()
                samples = traffic(world, seconds, seed, meter, [bad, good, dify])
                settled(world, meter, before)
                report(world, seconds, samples, before, meter.sample())
    return not world.violations


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    sys.exit(0 if soak(arguments.seconds, arguments.seed) else 1)
