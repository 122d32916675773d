"""Streams as they might have been measured."""

from typing import Any

from streaming.doctor.measured import Answer, Frame, Start, Stream

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-store, no-transform",
    "x-content-type-options": "nosniff",
    "x-accel-buffering": "no",
    "x-request-id": "r1",
}
INTERVAL = 0.1


def answer(status: int = 200, seconds: float = 0.01, **headers: str | None) -> Answer:
    """Return an answer with a stream's headers; None takes one away, `_` stands for `-`."""
    changed = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in changed.items() if value is not None}
    return Answer(status=status, version="HTTP/1.1", headers=kept, seconds=seconds)


def start(**fields: Any) -> Start:
    """Return what a relay says of itself."""
    usual: dict[str, Any] = {
        "instance": "a1B2",
        "shared_store": False,
        "seq": 0,
        "protocol": "HTTP/1.1",
        "host": "relay.example",
        "heartbeat_seconds": 15.0,
        "stream_max_seconds": 0.0,
        "compress": "auto",
    }
    return Start(**{**usual, **fields})


def frames(*came: float, first: int = 1) -> list[Frame]:
    """Return frames that were sent one an interval and came at these times."""
    return [Frame(seq, f"a1B2.{seq}", (seq - first) * INTERVAL, at) for seq, at in enumerate(came, first)]


STEADY = [0.03 + n * INTERVAL for n in range(20)]


def stream(came: list[float] | None = None, **fields: Any) -> Stream:
    """Return a stream whose frames came so; steadily unless told otherwise."""
    times = STEADY if came is None else came
    usual: dict[str, Any] = {
        "answer": answer(),
        "interval": INTERVAL,
        "request_id": "r1",
        "start": start(),
        "frames": frames(*times),
        "first_byte": times[0] if times else None,
        "seconds": times[-1] if times else 1.0,
        "ended": True,
    }
    return Stream(**{**usual, **fields})
