"""What stands on both sides of the relay here: a model that speaks on command, and a network that breaks on command."""

import contextlib
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator

from tests import live
from tests.live import WAIT_SECONDS, Call, ScriptedUpstream


@contextlib.contextmanager
def relay(**settings: str) -> Iterator[live.Relay]:
    """Run a relay; close its output too, or the collector warns of it in a process without gevent."""
    with live.relay(**settings) as server:
        yield server
    server.process.stdout.close()


class Answering:
    """One upstream call, answered word by word by the test."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.over = threading.Event()

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the conversation as it reached the model."""
        return json.loads(self.call.body)["messages"]

    def token(self, text: str) -> None:
        """Say a piece of the answer."""
        self._delta({"content": text})

    def tokens(self, texts: list[str]) -> None:
        """Say many pieces in one write."""
        self.call.chunk("".join(_line({"delta": {"content": text}, "finish_reason": None}) for text in texts).encode())

    def pace(self, texts: list[str], seconds: float) -> None:
        """Say a piece every `seconds`."""
        began = time.monotonic()
        for number, text in enumerate(texts):
            time.sleep(max(0, began + number * seconds - time.monotonic()))
            self.token(text)

    def think(self, text: str) -> None:
        """Say a piece of the reasoning."""
        self._delta({"reasoning_content": text})

    def end(self) -> None:
        """Finish well."""
        self._choice({"delta": {}, "finish_reason": "stop"})
        self.call.chunk(b"data: [DONE]\n\n")
        self.call.finish()
        self.over.set()

    def break_off(self) -> None:
        """Finish without the word that says so."""
        self.call.finish()
        self.over.set()

    def _delta(self, delta: dict[str, str]) -> None:
        self._choice({"delta": delta, "finish_reason": None})

    def _choice(self, choice: dict[str, object]) -> None:
        self.call.chunk(_line(choice).encode())


def _line(choice: dict[str, object]) -> str:
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [{'index': 0, **choice}]})}\n\n"


class Model:
    """An OpenAI-compatible upstream. `calls` are all that came; `next()` waits for one."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.calls: list[Answering] = []
        self._url = upstream.url
        self._arrived: queue.Queue[Answering] = queue.Queue()

    def settings(self) -> dict[str, str]:
        """Return the settings of a relay that asks this model."""
        return {"UPSTREAM": "openai", "UPSTREAM_URL": self._url, "UPSTREAM_MODEL": "m", "UPSTREAM_API_KEY": "k"}

    def serve(self, call: Call) -> None:
        """Be the upstream's script: the headers at once, the rest by the test."""
        answering = Answering(call)
        call.start()
        self.calls.append(answering)
        self._arrived.put(answering)
        answering.over.wait(WAIT_SECONDS)

    def next(self) -> Answering:
        """Return the next call in order of arrival."""
        return self._arrived.get(timeout=WAIT_SECONDS)

    def forget(self) -> None:
        """Leave no call waiting, and none for the next test."""
        for answering in self.calls:
            answering.over.set()
        self.calls.clear()
        self._arrived = queue.Queue()


class CuttingProxy:
    """Passes TCP connections on to a port of this machine, until told to cut them."""

    def __init__(self, port: int) -> None:
        self.refusing = False  # answer 503 with a page, as a platform's router does while an app restarts
        self.refused = threading.Event()  # somebody got that
        self.port = port
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, wherever in the stream it is."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RD)  # wakes its pump, which closes it
        self._open.clear()

    def close(self) -> None:
        """Stop listening; cut."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.refusing:
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                page = b"<h1>Application error</h1>"
                client.sendall(
                    b"HTTP/1.1 503 X\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                    % (len(page), page)
                )
            self.refused.set()
            return
        server = socket.create_connection(("127.0.0.1", self.port))
        self._open += [client, server]
        threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
        self._pump(server, client)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
