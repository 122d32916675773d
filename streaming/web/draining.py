"""How a worker ends: runs finish inside the platform's window, the rest end in good order, and nobody is kept."""

import time
from collections.abc import Callable, Collection

import gevent

from streaming.relay.runs import Runs
from streaming.web.connection import ClientSocket
from streaming.web.relay import Relay

LAST_SECONDS = 1.0  # for upstreams' stop calls, and then for clients to read the rest; a tenth of a short grace
LOOK_SECONDS = 0.05


def drain(
    relay: Relay, clients: Collection[ClientSocket], window_end: Callable[[], float], look: Callable[[], None]
) -> None:
    """Let runs finish until `window_end()` (monotonic), end the rest, and return as soon as nobody is left.

    `clients` are those who are connected at each moment; `look` is called in each turn. The window's end comes nearer
    when somebody hurries a shutdown that has begun.
    """
    runs = relay.runs
    runs.drain()
    last_seconds = min(LAST_SECONDS, relay.shutdown_grace_seconds / 10)
    last_run_ended: float | None = None
    while clients or last_run_ended is None:
        look()
        _let_idle_go(clients)
        now = time.monotonic()
        if runs.moving:
            _send_away(clients)
        if runs.counts()["unfinished"]:
            _interrupt(runs, last_seconds, in_window=now < window_end())
        elif last_run_ended is None:
            last_run_ended = now
        elif now - last_run_ended >= last_seconds:
            break
        gevent.sleep(LOOK_SECONDS)
    runs.close()
    for client in list(clients):
        client.drop()
    gevent.sleep(0)


def _interrupt(runs: Runs, within_seconds: float, *, in_window: bool) -> None:
    """End what runs too long. A log that lives here alone is for nobody, once its last reader has gone."""
    if not in_window or not runs.moving:
        runs.interrupt(within_seconds, only_unfollowed=in_window)


def _send_away(clients: Collection[ClientSocket]) -> None:
    for client in list(clients):
        client.send_away()


def _let_idle_go(clients: Collection[ClientSocket]) -> None:
    for client in list(clients):
        if not client.serving:
            client.let_go()
