"""Ten thousand requests that are refused: what one costs, and what good callers notice."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from tests.abuse.scene import scene
from tests.abuse.sender import REFUSED, SPENT, WAYS, send
from tests.live import ROOT

COUNT = 10_000
ALONE = 2000


def flood(name: str, how: str) -> str:
    """Return what so many of these refusals cost: a part of them alone, the rest beside a good caller."""
    request, settings = REFUSED[name]
    with scene(**settings) as played:
        if name == "over the limit":
            played.ask(SPENT)
        before = sum(played.cpu_seconds())
        send(played.server.port, request, ALONE, how)
        cost = (sum(played.cpu_seconds()) - before) / ALONE * 1000
        command = [sys.executable, "-m", "tests.abuse.sender", str(played.server.port), name, how, str(COUNT - ALONE)]
        began = time.monotonic()
        with played.watched():
            subprocess.run(command, cwd=ROOT, check=True)
        rate = (COUNT - ALONE) / (time.monotonic() - began)
        return f"{cost:.2f} ms CPU each; {rate:.0f} a second; {played.told()}"


SCENES: dict[str, Callable[[], str]] = {
    f"{COUNT} refused, {name}, {how}": partial(flood, name, how) for name in REFUSED for how in WAYS
}
