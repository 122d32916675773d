"""Dify's progress events as our `step`s.

Inputs, outputs, tool arguments and error texts stay behind: they hold prompts, documents and provider details that a
visitor's browser must not see.
"""

from typing import Any, ClassVar

from streaming.wire.events import Event, Step

_FAILED = {"failed", "exception", "error", "stopped"}


class Steps:
    """Turns progress events into steps, leaving out repetitions. One per answer."""

    EVENTS: ClassVar[dict[str, tuple[str, str]]] = {  # event -> kind, status (finished may turn out failed)
        "node_started": ("node", "started"),
        "node_retry": ("node", "started"),
        "node_finished": ("node", "finished"),
        "iteration_started": ("iteration", "started"),
        "iteration_next": ("iteration", "started"),
        "iteration_completed": ("iteration", "finished"),
        "loop_started": ("loop", "started"),
        "loop_next": ("loop", "started"),
        "loop_completed": ("loop", "finished"),
        "parallel_branch_started": ("branch", "started"),
        "parallel_branch_finished": ("branch", "finished"),
        "agent_thought": ("thought", "started"),
        "agent_log": ("log", "started"),
    }

    def __init__(self) -> None:
        self._last: dict[str, Step] = {}

    def read(self, name: str, event: dict[str, Any]) -> list[Event]:
        """Return the step of one event, nothing where it tells nothing new."""
        kind, status = self.EVENTS[name]
        step = _thought(event) if kind == "thought" else _of_data(event.get("data"), kind, status)
        if step is None or self._last.get(step.id) == step:
            return []
        self._last[step.id] = step
        return [step]


def _thought(event: dict[str, Any]) -> Step | None:
    """An agent's thought is sent again as it fills in; its text repeats what `agent_message` streams."""
    if not isinstance(event.get("id"), str):
        return None
    tool = event.get("tool")
    status = "finished" if event.get("observation") else "started"
    return Step(id=event["id"], kind="thought", name=tool if isinstance(tool, str) else "", status=status)


def _of_data(data: Any, kind: str, status: str) -> Step | None:
    if not isinstance(data, dict):
        return None
    id_ = next(
        (data[key] for key in ("id", "node_execution_id", "parallel_branch_id") if _is_name(data.get(key))), None
    )
    if id_ is None:
        return None
    told = data.get("status")
    if status == "finished" or kind == "log":
        if isinstance(told, str) and told in _FAILED:
            status = "failed"
        elif kind == "log" and told in ("success", "succeeded"):
            status = "finished"
    name = next((data[key] for key in ("title", "label") if isinstance(data.get(key), str)), "")
    detail = {
        ours: data[theirs]
        for ours, theirs in (("node_type", "node_type"), ("index", "index"), ("retry", "retry_index"))
        if isinstance(data.get(theirs), str | int)
    }
    return Step(id=id_, kind=kind, name=name, status=status, detail=detail or None)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""
