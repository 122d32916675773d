"""The shape of the code: who may import whom, what the pure core may not touch, and how long a reader has to read."""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("*.py"), *(ROOT / "streaming").rglob("*.py")])
LAYERS = ("wire", "relay", "web")  # each may import itself and those before it

# A reader's comfort: lines of code, that is without blank lines, comments and docstrings.
FILE_LINES = 260
FUNCTION_LINES = 50


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, tree: ast.AST) -> Iterator[str]:
    """Yield the full name of every module or member that is imported, at whatever depth of the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module_of(path).split(".")
            if path.name != "__init__.py":
                package = package[:-1]
            package = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "streaming" and parts[1] in LAYERS else None


def test_there_is_something_to_check() -> None:
    assert {layer_of(module_of(path)) for path in SOURCES} >= set(LAYERS)
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way_from_web_to_relay_to_wire(path: Path) -> None:
    layer = layer_of(module_of(path))
    if layer is None:
        return
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    wrong = [name for name in imports(path, tree_of(path)) if layer_of(name) not in {None, *allowed}]
    assert wrong == []


# What the pure core is made of. A new name here is a decision: it must bring no I/O, no clock and no environment.
PURE = {
    "collections.abc",
    "dataclasses",
    "difflib",
    "email.utils",  # parses HTTP dates
    "itertools",
    "json",
    "msgspec",
    "re",
    "typing",
    "urllib.parse",
    "zlib",
}
IMPURE_CALLS = {"now", "utcnow", "today", "fromtimestamp", "open", "print", "input", "localtime", "formatdate"}


@pytest.mark.parametrize("path", [path for path in SOURCES if layer_of(module_of(path)) == "wire"], ids=name_of)
def test_the_core_does_no_io_and_reads_neither_clock_nor_environment(path: Path) -> None:
    tree = tree_of(path)
    wrong = [
        name
        for name in imports(path, tree)
        if name not in PURE and name.rpartition(".")[0] not in PURE and layer_of(name) != "wire"
    ]
    assert wrong == []
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in called}
    assert names & IMPURE_CALLS == set()


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent != ROOT], ids=name_of)
def test_the_environment_is_read_only_where_the_parts_are_put_together(path: Path) -> None:
    """Settings are parsed once from a mapping: a test needs no environment, and nothing depends on it in secret."""
    tree = tree_of(path)
    read = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    assert {name.rpartition(".")[2] for name in imports(path, tree) if name.startswith("os.")} & read == set()
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in read]
    assert [node.lineno for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "os"] == []


PROBE = """
import importlib, os, pkgutil, sys, threading

def sockets():
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass
    return sorted(name for name in found if name.startswith(("socket:", "anon_inode:", "pipe:")))

def threads():
    return len(os.listdir("/proc/self/task"))

before = sockets(), threads()
import streaming
names = [info.name for info in pkgutil.walk_packages(streaming.__path__, "streaming.")]
for name in names:
    importlib.import_module(name)
after = sockets(), threads()
assert before == after, f"{before} became {after}"
print(len(names))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads Linux's /proc")
def test_importing_starts_no_thread_and_opens_no_socket() -> None:
    """A server that forks after the import, and a test that only wants one function, rely on it."""
    probe = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert probe.returncode == 0, probe.stderr
    assert int(probe.stdout) >= len([path for path in SOURCES if module_of(path).startswith("streaming.")])


def code_lines(path: Path, tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that hold code: no blank lines, comments, docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                lines.difference_update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_can_be_read_in_one_sitting(path: Path) -> None:
    tree = tree_of(path)
    lines = code_lines(path, tree)
    assert len(lines) <= FILE_LINES, f"{len(lines)} lines of code"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = len(lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
            assert size <= FUNCTION_LINES, f"{node.name} has {size} lines of code"
