"""How log lines look: text for people or JSON for machines, the server's own among them.

The standard library's logging: gunicorn writes through it already, so one formatter covers every line, and structlog
would bring a second way to say the same.
"""

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from streaming.tracebacks import QuietFormatter

LogFormat = Literal["text", "json"]
_PLAIN = re.compile(r"[\w.:/+-]+\Z", re.ASCII)  # a value that needs no quotes


def fields(**named: object) -> dict[str, Any]:
    """Return `extra` for a log call: what the line tells in fields, but for those that are None."""
    return {"fields": {name: value for name, value in named.items() if value is not None}}


class TextFormatter(QuietFormatter):
    """`2026-11-21 10:00:00,123 INFO name message field=value…`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line without its traceback."""
        told: Mapping[str, Any] = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={_text(value)}" for name, value in told.items())])


class JsonFormatter(QuietFormatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, the fields, and perhaps `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time.removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _text(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.match(text) else json.dumps(text)


def config(format_: LogFormat) -> dict[str, Any]:
    """Return what logging.config.dictConfig takes: everything goes to standard error, gunicorn's lines too."""
    formatter = f"{__name__}.{'JsonFormatter' if format_ == 'json' else 'TextFormatter'}"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"level": "INFO", "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True},
            "urllib3": {"level": "ERROR"},  # the exporter of traces is its user; its warnings quote URLs
        },
    }
