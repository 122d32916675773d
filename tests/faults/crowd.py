"""A process full of clients, so that they can vanish together: `python -m tests.faults.crowd HOST PORT`.

It reads one line of JSON: a list of [request, marker]. Each gets a connection; when all requests are sent, what comes
back is read until the marker is there (an empty one: not at all). Then it prints a line of JSON, the X-Run-Id of each
answer that was read, and waits for a word:

reset   all connections are closed with an RST
close   all connections are closed with a FIN

It says "gone" and stays, so that nothing else happens to the connections, until its input ends. Nothing but the
standard library: it runs in network namespaces, where only loopback and one wire are.
"""

import json
import re
import resource
import socket
import struct
import sys

WAIT_SECONDS = 60.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Client:
    """One connection."""

    def __init__(self, address: tuple[str, int], request: str, marker: str) -> None:
        self.connection = socket.create_connection(address, timeout=WAIT_SECONDS)
        self.connection.sendall(request.encode())
        self._marker = marker.encode()
        self._seen = b""

    def await_marker(self) -> None:
        """Read until the marker has come."""
        while self._marker not in self._seen:
            data = self.connection.recv(65536)
            if not data:
                raise SystemExit(f"a connection ended early: {self._seen!r}")
            self._seen += data

    def run_id(self) -> str:
        """Return the run that the answer's head names, "" where there is none."""
        found = re.search(rb"x-run-id: (\S+)", self._seen, re.IGNORECASE)
        return found[1].decode() if found else ""

    def vanish(self, how: str) -> None:
        """Close the connection."""
        if how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.connection.close()


def main(host: str, port: str) -> None:
    """Be the crowd."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = json.loads(sys.stdin.readline())
    clients = [Client((host, int(port)), *each) for each in wanted]
    for client in clients:
        client.await_marker()
    print(json.dumps([client.run_id() for client in clients]), flush=True)
    how = sys.stdin.readline().strip()
    for client in clients if how else []:
        client.vanish(how)
    print("gone", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
