"""The other end of the WebSocket: websocket-client, and bare frames for what no client library sends."""

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import websocket
from websocket import ABNF

from tests.live import WAIT_SECONDS, Relay

Frame = dict[str, Any]


class Client:
    """One open socket. `frame()` waits for the next text frame; the library answers pings and closes by itself."""

    def __init__(self, server: Relay, **options: Any) -> None:
        self.library = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}/ws",
            timeout=WAIT_SECONDS,
            skip_utf8_validation=True,  # in Python, byte by byte; json looks at it anyway
            **{"suppress_origin": True, **options},
        )

    def say(self, **message: Any) -> None:
        """Send one message."""
        self.library.send(json.dumps(message))

    def frame(self) -> Frame:
        """Return the next frame."""
        opcode, data = self.library.recv_data()
        assert opcode == ABNF.OPCODE_TEXT, (opcode, data)
        return json.loads(data, object_pairs_hook=_without_doubles)

    def frames(self, last: str = "end") -> list[Frame]:
        """Return the frames up to the first one of a type."""
        found = [self.frame()]
        while found[-1]["type"] != last:
            found.append(self.frame())
        return found

    def answer(self, **message: Any) -> Frame:
        """Send one message and return the next frame."""
        self.say(**message)
        return self.frame()

    def closed(self) -> int:
        """Wait for the server's close, whatever comes before it; return its code."""
        opcode, data = self.library.recv_data()
        while opcode != ABNF.OPCODE_CLOSE:
            opcode, data = self.library.recv_data()
        return int.from_bytes(data[:2])

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.library.sock.sendall(data)

    def cut(self) -> None:
        """Reset the connection."""
        self.library.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.library.shutdown()


def _without_doubles(pairs: list[tuple[str, Any]]) -> Frame:
    assert len(dict(pairs)) == len(pairs), pairs  # JSON.parse takes the last of a name, others the first
    return dict(pairs)


def masked(data: bytes | str, opcode: int = ABNF.OPCODE_TEXT, fin: int = 1) -> bytes:
    """Return one frame as clients send them."""
    return ABNF.create_frame(data, opcode, fin).format()


@contextmanager
def connected(server: Relay, **options: Any) -> Iterator[Client]:
    """Keep a socket open for the length of a `with` block."""
    client = Client(server, **options)
    try:
        yield client
    finally:
        client.library.shutdown()


def text_of(frames: list[Frame]) -> str:
    """Return the answer that the frames tell."""
    return "".join(frame["text"] for frame in frames if frame["type"] == "token")
