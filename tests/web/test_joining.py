"""Small modules become one script, or the reason why not is said."""

from pathlib import Path

import pytest

from streaming.web.joining import joined_modules
from tests.live import ROOT


def write(folder: Path, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"{name}.js").write_text(text, encoding="utf-8")


def test_each_module_comes_once_before_those_that_need_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        deep="export const DEPTH = 3;\n",
        left='import { DEPTH } from "./deep.js";\nexport class Left {}\n',
        right='import { DEPTH } from "./deep.js";\nexport async function right() {}\nfunction own() {}\n',
        page='import { Left } from "./left.js";\nimport { right } from "./right.js";\nconsole.log(import.meta.url);\n',
    )
    script = joined_modules(tmp_path, "page")
    starts = [script.index(f"const ${name} =") for name in ("deep", "left", "right", "page")]
    assert starts == sorted(starts)
    assert script.count("const $deep") == 1
    assert "const { DEPTH } = $deep;" in script
    assert "return { right };" in script


@pytest.mark.parametrize(
    "line",
    [
        "export default 1;",
        "export { a };",
        'import * as all from "./deep.js";',
        'import all from "./deep.js";',
        'import {\n  DEPTH,\n} from "./deep.js";',
    ],
)
def test_what_it_cannot_read_it_refuses(tmp_path: Path, line: str) -> None:
    write(tmp_path, deep="export const DEPTH = 3;\n", page=f"{line}\n")
    with pytest.raises(ValueError, match=r"page\.js: cannot be joined: (import|export)"):
        joined_modules(tmp_path, "page")


def test_loading_later_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, page='const { a } = await import("./later.js");\n')
    assert 'await import("./later.js")' in joined_modules(tmp_path, "page")


def test_block_comments_are_not_sent(tmp_path: Path) -> None:
    page = '/** Two\n * lines */\nconst a = "/* text */"; // said /* in passing */\n  /** one */\n  a();\n'
    write(tmp_path, page=page)
    script = joined_modules(tmp_path, "page")
    assert script == (
        'const $page = (() => {\nconst a = "/* text */"; // said /* in passing */\n  a();\nreturn {  };\n})();\n'
    )


def test_the_pages_own_modules_can_be_joined() -> None:
    script = joined_modules(ROOT / "static", "page")
    assert "const $client" in script
    assert "const $markdown" in script
