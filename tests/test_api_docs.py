"""docs/api.md against /openapi.json, and its commands against a relay."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from app import create_app
from streaming.settings import Settings
from streaming.web.openapi import meanings
from streaming.web.openapi.description import document
from streaming.web.openapi.operations import OPERATIONS
from streaming.web.streams import MEDIA_TYPES
from streaming.wire.answer import EVENT_TYPES
from streaming.wire.errors import FAILURES, REFUSALS
from streaming.wire.events import Digest, EndError, Timing, Usage
from tests.live import relay

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "api.md").read_text("utf-8")


MARK = "---- the next block ----"


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the tables between a heading and the next one."""
    part = re.split(r"^#+ ", DOCS.partition(f"\n{heading}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_routes_are_those_of_the_description() -> None:
    paths = document(create_app(Settings()))["paths"]
    there = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    told = [name for row in rows("## Routes") for name in names(row[0])]
    assert sorted(told) == sorted(there)
    assert len(OPERATIONS) > 20


def test_the_fields_of_an_ask_are_told_in_the_same_words() -> None:
    assert rows("## Asking") == [[f"`{name}`", sentence] for name, sentence in meanings.ASK.items()]


def test_the_options_are_those_of_the_type() -> None:
    options = document(create_app(Settings()))["components"]["schemas"]["Options"]["properties"]
    (told,) = re.findall(r"^`options` are (.*?)\.\n", DOCS, re.MULTILINE | re.DOTALL)
    assert names(told) == list(options)


def test_the_formats_and_their_media_types() -> None:
    assert {row[0].strip("`"): row[1].strip("`") for row in rows("## Formats")} == {
        format_: media_type for media_type, format_ in MEDIA_TYPES.items()
    }


def test_the_events_and_their_fields() -> None:
    assert {row[0].strip("`"): names(row[1]) for row in rows("## Events")} == {
        name: list(kind.__struct_fields__) for name, kind in EVENT_TYPES.items()
    }


def test_what_is_inside_an_end_and_its_failures() -> None:
    inside = {"error": EndError, "usage": Usage, "digest": Digest, "timing": Timing}
    told = rows("### The end")
    assert {row[0].strip("`"): names(row[1]) for row in told[: len(inside)]} == {
        name: list(kind.__struct_fields__) for name, kind in inside.items()
    }
    assert told[len(inside) :] == [
        [f"`{code}`", str(kind.status), kind.message, "yes" if kind.retryable else "no"]
        for code, kind in FAILURES.items()
    ]


def test_the_headers_are_told_in_the_same_words() -> None:
    assert rows("## Headers") == [[f"`{name}`", sentence] for name, sentence in meanings.HEADERS.items()]


def test_the_refusals_are_told_in_the_same_words() -> None:
    told = {row[0].strip("`"): row[1:] for row in rows("## Refusals")}
    assert told == {code: [str(status), meanings.REFUSALS[code]] for code, status in REFUSALS.items()}


def test_the_links_lead_somewhere() -> None:
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", DOCS)} - {""}
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """What each block of commands prints, one shell for all: the third one uses a variable of the second."""
    blocks = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    script = "set -e\n" + f"echo {MARK}\n".join(blocks)
    with relay() as server:
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        done = subprocess.run(
            ["bash", "-c", script.replace("localhost:8000", server.url.removeprefix("http://"))],
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(f"{MARK}\n")


def test_the_commands_do_what_is_said_of_them(printed: list[str]) -> None:
    stream, formats, later, stopped, refused = printed
    assert stream.count("event: end") == 1
    assert '"type":"end"' in formats
    assert "demo upstream" in formats
    assert '"state":"running"' in later
    assert '"seq":3' in later
    assert '{"seq":2,' not in later
    assert '"reason":' in stopped
    assert "Unknown field 'promt'; did you mean 'prompt'?" in refused
