"""The .env file beside the program: settings for one's own machine. The real environment wins."""

import io
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import parse_stream  # the documented functions pass over lines that they cannot read

from streaming.settings import SettingsError


def load_dotenv(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment, completed by the file's values; `environment` itself stays as it is.

    No file is fine. Raises SettingsError for one that cannot be read or has malformed lines.
    """
    values = _values(path)
    if "PORT" in values and "PORT" not in environment:
        # A port of one's own choice is no platform's: only that one opens the service to the network.
        values.setdefault("HOST", "127.0.0.1")
    return {**values, **environment}


def _values(path: Path) -> dict[str, str]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise SettingsError([f"{path} is not UTF-8"]) from None
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from None
    values, problems = {}, []
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            leading = len(binding.original.string) - len(binding.original.string.lstrip())
            line = binding.original.line + binding.original.string.count("\n", 0, leading)
            problems.append(
                f"{path}, line {line} (not shown): allowed are NAME=value, export NAME=value and # comments"
            )
        elif binding.key is not None:
            values[binding.key] = binding.value or ""
    if problems:
        raise SettingsError(problems)
    return values
