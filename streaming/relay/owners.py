"""Whose a run or an uploaded file is, where that says who may rate it, or ask about it."""

from collections.abc import Iterator
from typing import Any

from streaming.relay.store import Keys, Store
from streaming.wire.ask import Ask
from streaming.wire.errors import Refusal

INPUT_DEPTH = 4  # a form's field is a file or a list of files


class Owners:
    """Remembers for `ttl_seconds`. What has no owner is whose id it is that is held."""

    def __init__(self, store: Store, *, ttl_seconds: float) -> None:
        self._runs = store.keys("run-owners")
        self._files = store.keys("file-owners")
        self._ttl_seconds = ttl_seconds

    def note_run(self, run_id: str, owner: str | None) -> None:
        """Remember who began a run."""
        if owner is not None:
            self._runs.put(run_id, owner.encode(), self._ttl_seconds)

    def note_file(self, file_id: str, owner: str | None) -> None:
        """Remember who uploaded a file."""
        if owner is not None:
            self._files.put(file_id, owner.encode(), self._ttl_seconds)

    def check_run(self, run_id: str, owner: str | None) -> None:
        """Raise Refusal("run_not_found") where the run is another caller's."""
        if _is_anothers(self._runs, run_id, owner):
            raise Refusal("run_not_found", "No such run.")

    def check_files(self, ask: Ask, owner: str | None) -> None:
        """Raise Refusal("file_not_found") where the ask names another caller's file."""
        for file_id in _file_ids([ask.files, ask.inputs], INPUT_DEPTH):
            if _is_anothers(self._files, file_id, owner):
                raise Refusal("file_not_found", "No such file: upload it again.")


def _is_anothers(keys: Keys, id_: str, owner: str | None) -> bool:
    there = keys.get(id_)
    return there is not None and there.decode() != owner


def _file_ids(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(value.get("upload_file_id"), str):
        yield value["upload_file_id"]
    if depth:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from _file_ids(each, depth - 1)
