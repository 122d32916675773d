"""A real nginx for tests, on free ports, with everything it writes in a directory of its own."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import requests

from tests.live import ROOT, WAIT_SECONDS, free_port, wait_until

DEPLOYED = ROOT / "deploy" / "nginx.conf"
_MAIN = """
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
worker_shutdown_timeout {shutdown_seconds}s;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{http}
}}
"""


class Nginx:
    """One master with a worker. `http` is what stands in its http block."""

    def __init__(self, http: str, port: int, shutdown_seconds: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._directory = tempfile.TemporaryDirectory()
        self.path = Path(self._directory.name)
        self._main = self.path / "main.conf"
        # As root it would give its workers away to a user who may not read here.
        user = "user root;" if os.geteuid() == 0 else ""
        self._main.write_text(
            _MAIN.format(user=user, directory=self.path, shutdown_seconds=shutdown_seconds, http=http), "utf-8"
        )
        self._process = subprocess.Popen(
            [*self._command(), "-g", "daemon off;"], stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait_until(self._answers, "nginx answers")
        except AssertionError as error:
            self.close()
            raise AssertionError(f"{error}\n{self.log()}") from None

    def _command(self) -> list[str]:
        return ["nginx", "-c", str(self._main), "-e", str(self.path / "error.log")]

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError("nginx did not start")
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{self.url}/healthz", timeout=5)  # whatever it says
            return True
        return False

    def log(self) -> str:
        """Return what it has complained about."""
        log = self.path / "error.log"
        return log.read_text() if log.exists() else ""

    def check(self) -> str:
        """Return what `nginx -t` says of its configuration; fail where that is bad."""
        checked = subprocess.run([*self._command(), "-t"], capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert checked.returncode == 0, checked.stderr
        return checked.stderr

    def workers(self) -> set[str]:
        """Return the process ids of its workers, those that are shutting down included."""
        pid = self._process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def reload(self) -> None:
        """Have new workers serve new connections; the old one goes when its last has ended."""
        before = self.workers()
        subprocess.run([*self._command(), "-s", "reload"], check=True, timeout=WAIT_SECONDS)
        wait_until(lambda: self.workers() - before, "a new worker is there")

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(WAIT_SECONDS)
        finally:
            self._directory.cleanup()


@contextlib.contextmanager
def nginx(http: str, port: int, shutdown_seconds: int = 60) -> Iterator[Nginx]:
    """Run nginx for the length of a `with` block. An old worker's streams are cut `shutdown_seconds` after a reload."""
    server = Nginx(http, port, shutdown_seconds)
    try:
        yield server
    finally:
        server.close()


def proxied(relay_port: int, *lines: str, names: str = "") -> tuple[str, int]:
    """Return an http block that proxies everything to a relay, with further lines; and its port."""
    port = free_port()
    inside = "\n".join(lines)
    server = f"listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{relay_port}; {inside} }}"
    return f"{names} server {{ {server} }}", port


def deployed(*relay_ports: int, tls: tuple[Path, Path, int] | None = None) -> tuple[str, int]:
    """Return deploy/nginx.conf with these relays, and its port. `tls`: certificate, key, port, as a user fills in."""
    port = free_port()
    text = DEPLOYED.read_text("utf-8")
    servers = iter(relay_ports)
    text = re.sub(r"server relay-\d:8000", lambda _: f"server 127.0.0.1:{next(servers, relay_ports[-1])}", text)
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    if tls is not None:
        certificate, key, tls_port = tls
        text = text.replace("#tls ", "").replace("listen 443 ", f"listen 127.0.0.1:{tls_port} ")
        text = text.replace("/etc/nginx/tls/fullchain.pem", str(certificate))
        text = text.replace("/etc/nginx/tls/privkey.pem", str(key))
    return text, port


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1, good for two days, and its key."""
    certificate, key = directory / "fullchain.pem", directory / "privkey.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=20)
    return certificate, key
