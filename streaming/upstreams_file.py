"""UPSTREAMS_FILE: several upstreams in one TOML file, in the order in which they are tried. This checks its shape.

    [[upstream]]
    name = "azure"
    dialect = "openai"
    url = "https://example.openai.azure.com/openai/deployments/chat?api-version=2024-10-21"
    api_key_env = "AZURE_KEY"
    auth_header = "api-key"

Keys stay in the environment, so that the file can be committed: `api_key_env` names the variable that holds one.
"""

import difflib
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

Table = dict[str, Any]

# What is no such name may be a key in the wrong place, so it is not shown.
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


def read(path: Path, keys: Collection[str], given: Mapping[str, str], problems: list[str]) -> list[Table]:
    """Return the file's tables in order, with `api_key` in the place of `api_key_env` (None where it is wrong).

    `given` holds the variables that are set. What is wrong is appended to `problems`.
    """
    document = _document(path, problems)
    if document is None:
        return []
    problems += [
        f"UPSTREAMS_FILE: unknown key {key!r}; allowed are [[upstream]] tables" for key in document if key != "upstream"
    ]
    tables = document.get("upstream")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        problems.append(f"UPSTREAMS_FILE is {str(path)!r}, but names no upstream: allowed are [[upstream]] tables")
        return []
    counts = Counter(table["name"] for table in tables if isinstance(table.get("name"), str))
    problems += [
        f"UPSTREAMS_FILE: {n} upstreams are named {name!r}; each needs its own" for name, n in counts.items() if n > 1
    ]
    return [_table(place(number, table), table, keys, given, problems) for number, table in enumerate(tables, 1)]


def place(number: int, table: Table) -> str:
    """Return how messages speak of a table: by its name where it has one."""
    name = table.get("name")
    return f"UPSTREAMS_FILE, upstream {name if isinstance(name, str) else number!r}"


def _document(path: Path, problems: list[str]) -> Table | None:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        reason = f"is not TOML: {' '.join(str(error).split())}"  # it tells the place, never the value
    except UnicodeDecodeError:
        reason = "is not UTF-8"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    problems.append(f"UPSTREAMS_FILE is {str(path)!r}, which {reason}")
    return None


def _table(where: str, table: Table, keys: Collection[str], given: Mapping[str, str], problems: list[str]) -> Table:
    for key in table:
        if key == "api_key":
            problems.append(f"{where}: api_key does not belong in a file; api_key_env names the variable that holds it")
        elif key not in keys:
            close = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(keys)}"
            problems.append(f"{where}: unknown key {key!r}; {hint}")
    known = {key: value for key, value in table.items() if key in keys}
    if "api_key_env" in known:
        known["api_key"] = _api_key(where, known.pop("api_key_env"), given, problems)
    return known


def _api_key(where: str, variable: Any, given: Mapping[str, str], problems: list[str]) -> str | None:
    if not isinstance(variable, str) or not _VARIABLE_NAME.fullmatch(variable):
        problems.append(f"{where}: api_key_env (not shown): allowed is the name of a variable, in capitals")
        return None
    if variable not in given:
        problems.append(f"{where}: api_key_env is {variable!r}, but that variable is not set")
    return given.get(variable)
