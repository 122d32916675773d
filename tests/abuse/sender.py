"""Requests that are refused, and a process that floods a relay with them.

In a process of its own, in the background: a stranger's machine takes no time from ours.
"""

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

KEY = "good-good-good-good"  # of who asks well
SPENT = "spent-spent-spent-spent"  # a key whose allowance is one question an hour
AT_ONCE = 8
PIPELINED = 50  # requests in one write
WAYS = ("kept", "new", "pipelined")
BODY = b'{"prompt": "hi", "unknown": 1}'


def post(path: str, *headers: str, body: bytes = BODY, key: str = KEY) -> bytes:
    """Return a request on a kept connection."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    lines += [f"Authorization: Bearer {key}", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


REFUSED: dict[str, tuple[bytes, dict[str, str]]] = {  # the request, the relay's settings
    "a bad key": (post("/runs", key="wrong-wrong-wrong-wrong"), {}),
    "over the limit": (
        post("/runs", key=SPENT, body=b'{"prompt": "hi"}'),
        {"API_KEYS": f"{KEY},poor@poor:{SPENT}", "RATE_LIMIT": "poor=1/hour"},
    ),
    "too large": (post("/runs", body=b'{"prompt": "' + b"x" * 2000 + b'"}'), {"MAX_BODY_BYTES": "1024"}),
    "a bad field": (post("/runs"), {}),
    "no such page": (post("/nothing"), {}),
    "another site's": (post("/runs", "Origin: https://evil.example"), {}),
    "a bad cursor": (post("/stream", "Last-Event-ID: nonsense"), {}),
}


def send(port: int, request: bytes, count: int, how: str) -> None:
    """Send the request so many times, each when the one before is answered. `how` is one of WAYS.

    kept: on one connection, as long as the relay keeps it · new: each on its own · pipelined: many in one write.
    """
    at_a_time = PIPELINED if how == "pipelined" else 1
    connection: socket.socket | None = None
    for _ in range(count // at_a_time):
        connection = connection or socket.create_connection(("127.0.0.1", port), timeout=120)
        connection.sendall(request * at_a_time)
        data = b""
        while data.count(b"}\n") < at_a_time:
            piece = connection.recv(65536)
            assert piece, data
            data += piece
        assert data.startswith(b"HTTP/1.1 4"), data[:100]
        if how == "new" or b"Connection: close" in data:
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


def main(port: str, name: str, how: str, count: str) -> None:
    """Send a flood over several connections at once."""
    os.nice(10)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        sent = [threads.submit(send, int(port), REFUSED[name][0], int(count) // AT_ONCE, how) for _ in range(AT_ONCE)]
    for each in sent:
        each.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
