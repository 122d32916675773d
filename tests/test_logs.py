"""How log lines look."""

import json
import logging
import subprocess
import sys

import pytest

from streaming.logs import JsonFormatter, TextFormatter, config, fields
from tests.answering import answering

ODD_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno header\r\n\r\n"
FETCH = """
import logging.config, sys, requests
from streaming.logs import config
logging.config.dictConfig(config("text"))
requests.get(sys.argv[1], timeout=10)
logging.getLogger("sluice").info("done")
"""
AWKWARD = 'two words\n"and" 词 \ud83d'


def record(message: str = "run ended", **told: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "sluice", "levelno": logging.INFO, "levelname": "INFO", "msg": message})
    made.created = 1_700_000_000.25
    made.__dict__.update(fields(**told))
    return made


def test_json_lines_are_one_object_each() -> None:
    line = JsonFormatter().format(record(run="ab", tries=1, exact=False, model=AWKWARD, code=None))
    assert "\n" not in line
    assert line.isascii()  # half a character must not stop a log
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "sluice",
        "message": "run ended",
        "run": "ab",
        "tries": 1,
        "exact": False,
        "model": AWKWARD,
    }


def test_text_lines_cannot_be_forged_by_a_value() -> None:
    line = TextFormatter().format(record(run="ab", tries=1, exact=False, ms=1.5, model=AWKWARD, code=None))
    assert line.endswith(f" INFO sluice run ended run=ab tries=1 exact=false ms=1.5 model={json.dumps(AWKWARD)}")
    assert "\n" not in line


def test_others_lines_have_no_fields() -> None:
    plain = logging.makeLogRecord({"name": "gunicorn.error", "levelname": "INFO", "msg": "pid %d", "args": (7,)})
    assert TextFormatter().format(plain).endswith(" INFO gunicorn.error pid 7")
    assert json.loads(JsonFormatter().format(plain))["message"] == "pid 7"


def test_a_traceback_stays_in_its_json_line() -> None:
    failed = record("it broke")
    try:
        raise ValueError("why")
    except ValueError:
        failed.exc_info = sys.exc_info()
    line = JsonFormatter().format(failed)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("\nValueError")  # its words may quote a prompt
    assert TextFormatter().format(failed).endswith("\nValueError")


@pytest.mark.parametrize("format_", ["text", "json"])
def test_gunicorns_lines_go_the_same_way(format_: str) -> None:
    made = config(format_)  # type: ignore[arg-type]
    assert made["root"]["handlers"] == ["stderr"]
    assert made["loggers"]["gunicorn.error"]["handlers"] == []
    assert made["loggers"]["gunicorn.error"]["propagate"]


def test_a_librarys_warning_quotes_no_url() -> None:
    """The exporter of traces calls its collector through requests; its path may hold a key."""
    with answering([ODD_HEAD], None, closes=True) as (url, _):
        command = [sys.executable, "-c", FETCH, f"{url}in-the-path/v1/traces"]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert told.endswith(" INFO sluice done\n")
    assert "in-the-path" not in told
