"""An upstream in a process of its own, so that it can be killed: `python upstream_process.py WIRE STAGE`.

It prints its port, answers one call up to the stage, prints "reached", and waits to be killed. When its stdin ends it
leaves by itself.
"""

import json
import re
import socket
import sys
from collections.abc import Iterator

TEXTS = ["你好", " 早上", "好 👋"]
STAGES = [
    "not listening",
    "accepted",  # the request lies unread in the socket
    "asked",
    "headers",
    "mid-event",  # of the second token
    "mid-character",
    "last token",
    "finished",  # all is said but the wire's last word
]
WIRES = ["openai chunked", "openai until close", "dify chunked", "dify chatflow chunked"]


def events_of(wire: str) -> tuple[list[bytes], bytes]:
    """Return the tokens' events, and what comes next and says that the answer is complete."""
    if wire.startswith("openai"):
        tokens = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in TEXTS]
        finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    else:
        ids = {"task_id": "t-1", "conversation_id": "c-1", "message_id": "m-1"}
        tokens = [{"event": "message", "answer": text, **ids} for text in TEXTS]
        finish = {"event": "message_end", "metadata": {}, **ids}
        if "chatflow" in wire:
            tokens.insert(0, {"event": "workflow_started", "data": {"id": "w-1"}, **ids})
    *tokens_data, finish_data = (
        b"data: %s\n\n" % json.dumps(each, ensure_ascii=False).encode() for each in [*tokens, finish]
    )
    return tokens_data, finish_data


def pieces_of(wire: str, stage: str) -> Iterator[bytes]:
    """Yield what is written up to the stage, one write each; the pieces of a body without its framing."""
    tokens, finish = events_of(wire)
    whole = tokens if stage in {"last token", "finished"} else tokens[:-2]
    yield from whole
    second = tokens[-2]
    if stage == "mid-event":
        yield second[: second.index(TEXTS[1].encode())]
    elif stage == "mid-character":
        yield second[: second.index(TEXTS[1].encode()) + 2]  # a space and the first of three bytes
    elif stage == "finished":
        yield finish


def serve(wire: str, stage: str, connection: socket.socket) -> None:
    """Answer up to the stage."""
    at = STAGES.index(stage)
    if at < STAGES.index("asked"):
        return
    request = connection.recv(65536)
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head, body = request.split(b"\r\n\r\n", 1)
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None
    while len(body) < int(length[1]):
        body += connection.recv(65536)
    if at < STAGES.index("headers"):
        return
    framing = b"Transfer-Encoding: chunked" if "chunked" in wire else b"Connection: close"
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%s\r\n\r\n" % framing)
    if at == STAGES.index("headers"):
        return
    for piece in pieces_of(wire, stage):
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if "chunked" in wire else piece)


def main() -> None:
    """See above."""
    wire, stage = sys.argv[1:]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        if stage != "not listening":
            connection, _ = listener.accept()
            serve(wire, stage, connection)
            print("reached", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
