"""What a fuzzer begins with: files of tests/fuzz/seeds/NAME, and for dialects the answers that are tested anyway."""

from pathlib import Path

from streaming.wire.ask import Ask, Options
from tests.wire import dialect_fixtures

FOLDER = Path(__file__).parent / "seeds"
_MODES = ("chat", "completion", "workflow")
_WORDS = (
    "type",
    "follow",
    "stop",
    "ping",
    "ref",
    "run_id",
    "after",
    "role",
    "user",
    "parts",
    "text",
    "\\\\u0000",
    "data: ",
    "HTTP/1.1 200 ",
    "HTTP/1.1 103 ",
    "Content-Length: ",
    "Transfer-Encoding: chunked",
    "Connection: ",
    "\\x0d\\x0a",
)


def of(name: str) -> list[bytes]:
    """Return a target's seeds."""
    found = [path.read_bytes() for path in sorted((FOLDER / name).glob("*"))]
    if name in {"openai_reader", "dify_reader"}:
        for fixture in map(dialect_fixtures.load, dialect_fixtures.names()):
            if name == f"{fixture.kind}_reader":
                first = bytes([_MODES.index(fixture.mode)]) if fixture.kind == "dify" else b""
                found.append(first + fixture.raw)
    return found


def write(name: str, folder: Path) -> None:
    """Write a target's seeds into a new folder, a file each."""
    folder.mkdir()
    for number, seed in enumerate(of(name)):
        (folder / str(number)).write_bytes(seed)


def dictionary() -> str:
    """Return words that bytes alone would seldom find, in libFuzzer's form."""
    words = {*Ask.__struct_fields__, *Options.__struct_fields__, *_WORDS}
    return "".join(f'"{word}"\n' for word in sorted(words))
