"""One run for one idempotency key, whoever asks, wherever, and however often."""

import hashlib
import time
from collections.abc import Callable

import gevent
import msgspec

from streaming.relay.run import Run
from streaming.relay.store import Keys
from streaming.wire.ask import Ask
from streaming.wire.errors import Refusal

BEGINNING_SECONDS = 2.0  # from the claim of a key to its run: over a shared store that takes a moment
LOOK_SECONDS = 0.02


class Idempotency:
    """Keys that have begun runs. They are kept for `ttl_seconds`: longer than their runs."""

    def __init__(self, keys: Keys, ttl_seconds: float) -> None:
        self._keys = keys
        self._ttl_seconds = ttl_seconds

    def start(self, key: str, ask: Ask, run_id: str, start: Callable[[], Run], get: Callable[[str], Run]) -> Run:
        """Return what `start()` does, which begins `run_id`, or what `get` finds of the run that the key began before.

        Raises Refusal: idempotency_mismatch, run_expired, or what start and get raise.
        """
        fingerprint = _fingerprint(ask)
        while True:
            there = self._keys.claim(key, f"{run_id} {fingerprint}".encode(), self._ttl_seconds)
            if there is None:
                try:
                    return start()
                except BaseException:
                    self._keys.delete(key)  # nothing was begun: the key is free again
                    raise
            begun, _, of_ask = there.decode().partition(" ")
            if of_ask != fingerprint:
                raise Refusal("idempotency_mismatch", "This idempotency key was used with another request.")
            if (run := self._await(key, begun, get)) is not None:
                return run

    def _await(self, key: str, run_id: str, get: Callable[[str], Run]) -> Run | None:
        """Return the run, None where it could not be begun and the key is free again."""
        deadline = time.monotonic() + BEGINNING_SECONDS
        while True:
            try:
                return get(run_id)
            except Refusal as refusal:
                if refusal.code != "run_not_found":
                    raise
            if self._keys.get(key) is None:
                return None
            if time.monotonic() > deadline:  # it was begun, and nobody has it any more
                raise Refusal("run_expired", "This run has expired.")
            gevent.sleep(LOOK_SECONDS)


def _fingerprint(ask: Ask) -> str:
    """Return what makes two asks the same: everything but the key, as parsed."""
    bare = msgspec.structs.replace(ask, idempotency_key=None)
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()
