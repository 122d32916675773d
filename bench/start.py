"""How fast the relay starts, what it weighs while nothing happens, and how large it is to ship; about 20 seconds:

    .venv/bin/python -m bench.start

Times are from the command to the first 200 of /readyz. The first start of a fresh checkout compiles it too.
"""

import importlib.metadata
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.live import PASSED_ON, ROOT, free_port

STARTS = 9
SHIPPED = ("app.py", "gunicorn.conf.py", "requirements.txt", "streaming", "static", "templates")  # as the image has it
MIB = 1 << 20


@contextmanager
def started() -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Start a relay; yield its process and how many seconds it took."""
    port = free_port()
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    command = [sys.executable, "-m", "gunicorn", "app:app"]
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603
        command,
        cwd=ROOT,
        env={**environment, "HOST": "127.0.0.1", "PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with requests.Session() as session:
            while not _is_ready(session, port):
                time.sleep(0.005)
        yield process, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _is_ready(session: requests.Session, port: int) -> bool:
    try:
        return session.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def memory_bytes(pid: int) -> dict[str, int]:
    """Return a process's memory: `Rss` with what it shares, `Pss` with its part of that, `Private` its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", lines, re.MULTILINE)}
    return {**found, "Private": found["Private_Clean"] + found["Private_Dirty"]}


def worker_of(pid: int) -> int:
    """Return the process id of the one worker."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def processor_seconds(*pids: int) -> float:
    """Return the processor time that processes have taken so far: a busy machine does not change it much."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def packages_bytes() -> tuple[int, int]:
    """Return how many packages the relay needs here, and the size of their files, without compiled ones."""
    locked = (ROOT / "requirements.txt").read_text()
    names = re.findall(r"^([A-Za-z0-9._-]+)==", locked, re.MULTILINE)
    sizes = []
    for name in names:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another system or Python
            continue
        paths = [Path(str(file.locate())) for file in files if file.suffix != ".pyc"]
        sizes.append(sum(path.stat().st_size for path in paths if path.exists()))
    return len(sizes), sum(sizes)


def shipped_bytes() -> int:
    """Return the size of the relay's own files."""
    paths = [path for name in SHIPPED for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")


def main() -> None:
    """Measure, and print."""
    seconds, processor = [], []
    for _ in range(STARTS):
        with started() as (process, took):
            seconds.append(took)
            pids = process.pid, worker_of(process.pid)
            processor.append(processor_seconds(*pids))
            master, worker = (memory_bytes(pid) for pid in pids)
    print(f"start to ready, {STARTS} times: median {statistics.median(seconds):.2f} s, fastest {min(seconds):.2f} s")
    print(f"processor time of it, both processes: median {statistics.median(processor):.2f} s")
    for name, memory in (("worker", worker), ("gunicorn's master", master)):
        sizes = ", ".join(f"{kind} {memory[kind] / MIB:.1f} MiB" for kind in ("Rss", "Pss", "Private"))
        print(f"idle {name}: {sizes}")
    count, size = packages_bytes()
    print(f"to ship: {count} packages {size / MIB:.1f} MiB, the relay itself {shipped_bytes() / MIB:.1f} MiB")


if __name__ == "__main__":
    main()
