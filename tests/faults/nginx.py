"""A real nginx in front of a relay, with kept connections behind it: where two servers can read one request as two."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.live import Relay, free_port, wait_until

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/errors;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream relay {{ server 127.0.0.1:{relay_port}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://relay;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_buffering off;
      proxy_request_buffering off;
    }}
    location /runs {{ return 403; }}
  }}
}}
"""


@contextmanager
def nginx(server: Relay, folder: Path) -> Iterator[int]:
    """Run nginx for the length of a `with` block; yield its port. It lets nobody to /runs: whoever gets there has been
    smuggled past it.
    """
    port, configuration = free_port(), folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port, relay_port=server.port))
    process = subprocess.Popen(["nginx", "-e", folder / "errors", "-c", configuration])
    try:
        wait_until(lambda: _answers(port), "nginx is ready")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False
