"""A TCP proxy that breaks connections at an exact byte: between client and relay, or relay and upstream."""

import contextlib
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass

TO_CLIENT, TO_SERVER = "to_client", "to_server"
LINGER_AND_RESET = b"\x01\0\0\0\0\0\0\0"


@dataclass(frozen=True)
class Fault:
    """What happens to a connection once `position` bytes have been passed on in `direction` (0: at the first byte).

    cut         FIN in both directions; whatever else is sent is swallowed
    reset       RST in both directions
    half-close  FIN in `direction` alone; the other one goes on
    delay       a pause of `seconds`
    trickle     the next `size_bytes` go one by one
    stall       nothing more is passed on in `direction`, and nothing is closed
    """

    kind: str
    direction: str
    position: int
    seconds: float = 0.02
    size_bytes: int = 64


class Link:
    """One proxied connection. `passed` counts the bytes of each direction, `happened` says that the fault did."""

    def __init__(self, client: socket.socket, server: socket.socket, fault: Fault | None) -> None:
        self.fault = fault
        self.passed = {TO_CLIENT: 0, TO_SERVER: 0}
        self.happened = threading.Event()
        self._sockets = (client, server)
        self._swallow = {TO_CLIENT: False, TO_SERVER: False}
        self._threads = [
            threading.Thread(target=self._pump, args=(TO_SERVER, client, server), daemon=True),
            threading.Thread(target=self._pump, args=(TO_CLIENT, server, client), daemon=True),
        ]
        self._pumping = len(self._threads)
        self._lock = threading.Lock()
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Begin to pass bytes on."""
        for thread in self._threads:
            thread.start()

    def _pump(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._pass_on(direction, sink, data)
            if not self._swallow[direction]:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.reset()  # what breaks on one side breaks on the other
        finally:
            with self._lock:
                self._pumping -= 1
                last = not self._pumping
            if last:
                self._close()

    def _pass_on(self, direction: str, sink: socket.socket, data: bytes) -> None:
        fault = self.fault
        if fault is not None and fault.direction == direction and not self.happened.is_set():
            before = fault.position - self.passed[direction]
            if before <= len(data):
                self._send(direction, sink, data[:before])
                self.happened.set()
                data = self._break(fault, sink, data[before:])
        self._send(direction, sink, data)

    def _send(self, direction: str, sink: socket.socket, data: bytes) -> None:
        if data and not self._swallow[direction]:
            sink.sendall(data)
            self.passed[direction] += len(data)

    def _break(self, fault: Fault, sink: socket.socket, data: bytes) -> bytes:
        """Do it; return what is left to be passed on."""
        if fault.kind == "reset":
            self.reset()
        elif fault.kind == "cut":
            self._swallow = dict.fromkeys(self._swallow, True)
            for each in self._sockets:
                each.shutdown(socket.SHUT_WR)
        elif fault.kind in {"half-close", "stall"}:
            self._swallow[fault.direction] = True
            if fault.kind == "half-close":
                sink.shutdown(socket.SHUT_WR)
        elif fault.kind == "delay":
            time.sleep(fault.seconds)
        elif fault.kind == "trickle":
            for at in range(min(fault.size_bytes, len(data))):
                self._send(fault.direction, sink, data[at : at + 1])
                time.sleep(0)
            return data[fault.size_bytes :]
        return data

    def reset(self) -> None:
        """Send RST to both sides: what lies unread at either of them may be lost too."""
        self._swallow = dict.fromkeys(self._swallow, True)
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
        self._close()

    def _close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RD)  # wakes a thread that reads from it, and sends nothing
            each.close()

    def join(self) -> None:
        """Wait until both directions are over."""
        for thread in self._threads:
            thread.join(10)


class Proxy:
    """Passes connections on to the servers, in turn. The next one takes the next of `faults`; without any it is whole.

    `listening` False: connections are refused until `listen()`; the port is kept meanwhile.
    """

    def __init__(self, *server_ports: int, listening: bool = True) -> None:
        self.faults: deque[Fault] = deque()
        self.links: list[Link] = []
        self._server_ports = deque(server_ports)
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        if listening:
            self.listen()

    def listen(self) -> None:
        """Let connections in from now on."""
        self._listener.listen(128)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fault = self.faults.popleft() if self.faults else None
            server = self._next_server()
            if server is None:
                client.close()
                continue
            link = Link(client, server, fault)
            self.links.append(link)
            link.start()

    def _next_server(self) -> socket.socket | None:
        for _ in range(len(self._server_ports)):
            self._server_ports.rotate(-1)
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", self._server_ports[0]))
        return None

    def close(self) -> None:
        """Refuse new connections and reset those that are open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._thread.ident is not None:
            self._thread.join(10)
        for link in self.links:
            link.reset()
            link.join()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
