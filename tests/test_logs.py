"""How log lines look."""

import json
import logging
import sys

import pytest

from streaming.logs import JsonFormatter, TextFormatter, config, fields

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
