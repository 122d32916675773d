"""What the README tells a newcomer to type, typed: from a clone to the first token, a page to embed, nginx in front."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.live import ROOT, WAIT_SECONDS, free_port, wait_until

READMES = ("README.md", "README.zh-CN.md")


def commands(name: str) -> list[str]:
    """Return the lines of the README's shell blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)
    lines = (line.partition("  #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


def the(word: str) -> str:
    """Return the one command that has a word in it."""
    [command] = [line for line in commands("README.md") if word in line]
    return command


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone, with what set-up installs in place already."""
    folder = tmp_path_factory.mktemp("newcomer") / "sluice"
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True, timeout=60)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


@contextlib.contextmanager
def typed(command: str, clone: Path, answers_at: int, **environment: str) -> Iterator[None]:
    """Type a command that serves, and Ctrl-C at the end of the `with` block."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=clone,
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    output = ""
    try:
        wait_until(lambda: process.poll() is not None or _answers(answers_at), "it serves", 3 * WAIT_SECONDS)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=2 * WAIT_SECONDS)
    assert "Traceback" not in output, output


def _answers(port: int) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    return False


def shell(command: str, clone: Path, port: int) -> str:
    """Type a command that ends; the README's port is the one that is free here."""
    command = command.replace("localhost:8000", f"localhost:{port}").replace(
        "https://relay.example", f"http://localhost:{port}"
    )
    done = subprocess.run(command, shell=True, cwd=clone, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_from_a_clone_to_a_token_and_back_after_a_cut(clone: Path) -> None:
    port = free_port()
    with typed("make run", clone, port, PORT=str(port), HOST="127.0.0.1", HEARTBEAT_SECONDS="1"):
        said = shell(the("prompt=你好"), clone, port)
        ids = re.findall(r"^id: (\S+)$", said, re.MULTILINE)
        assert said.count("event: end\n") == 1
        [back] = re.findall(r"`(curl -N localhost:8000/stream -H '[^`]*)`", (ROOT / "README.md").read_text("utf-8"))
        rest = shell(back.replace("<id>", ids[3]), clone, port)
        assert re.findall(r"^id: (\S+)$", rest, re.MULTILINE) == ids[4:]
        assert re.search("^ok +buffering", shell(the("flask doctor https"), clone, port), re.MULTILINE)


def test_a_page_to_embed(clone: Path) -> None:
    port = free_port()
    with typed(the("EMBED_ORIGINS="), clone, port, PORT=str(port), HOST="127.0.0.1"):
        url = f"http://127.0.0.1:{port}"
        assert requests.get(f"{url}/embed.js", timeout=WAIT_SECONDS).status_code == 200
        page = requests.get(url, headers={"Accept": "text/html"}, timeout=WAIT_SECONDS)
        assert "frame-ancestors 'self' https://www.example.com" in page.headers["Content-Security-Policy"]


def test_nginx_in_front(clone: Path) -> None:
    behind, front = free_port(), free_port()
    with typed(the("NGINX=1"), clone, front, PORT=str(behind), NGINX_PORT=str(front)):
        assert shell(the("prompt=你好"), clone, front).count("event: end\n") == 1
        page = requests.get(f"http://127.0.0.1:{front}/", headers={"Accept": "text/html"}, timeout=WAIT_SECONDS)
        assert (page.status_code, page.headers["Server"].partition("/")[0]) == (200, "nginx")


def test_settings_and_upstreams_are_looked_at_before_a_deploy(clone: Path) -> None:
    assert "demo" in shell(the("--local"), clone, 0)


def test_both_languages_have_the_same_commands_and_links() -> None:
    first, second = (commands(name) for name in READMES)
    assert first == second
    links = [set(re.findall(r"[^!]\[[^]]*\]\(([^)#\s]+)", (ROOT / name).read_text("utf-8"))) for name in READMES]
    assert links[0] - {"README.zh-CN.md"} == links[1] - {"README.md"}
    for link in links[0] | links[1]:
        assert link.startswith("https://") or (ROOT / link).exists(), link
