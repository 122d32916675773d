"""The page's small modules -> one script. A dozen requests would each wait for the router in front of the relay.

Nothing is built or minified: each module becomes a function that returns what it exports, its text as it stands, but
for the block comments, a quarter of the bytes. That reads only what the modules in static/ are written in: one-line
imports of names, exports where a name is made, block comments on lines of their own.
"""

import re
from pathlib import Path

_IMPORT = re.compile(r'^import (\{ [\w, ]+ \}) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:class|function|const) (\w+))", re.MULTILINE)
_COMMENT = re.compile(r"^ */\*.*?\*/\n", re.MULTILINE | re.DOTALL)
_OTHER = re.compile(r"^(import|export)\b(?!\().*", re.MULTILINE)


def joined_modules(folder: Path, name: str) -> str:
    """Return the module and all that it imports as one module. Raises ValueError for what it cannot read."""
    modules: dict[str, str] = {}
    _add(folder, name, modules)
    return "\n".join(modules.values())


def _add(folder: Path, name: str, modules: dict[str, str]) -> None:
    if name in modules:
        return
    text = (folder / f"{name}.js").read_text(encoding="utf-8")
    for _, needed in _IMPORT.findall(text):
        _add(folder, needed, modules)
    exports = ", ".join(_EXPORT.findall(text))
    text = _COMMENT.sub("", _EXPORT.sub("", _IMPORT.sub(r"const \1 = $\2;", text)))
    if other := _OTHER.search(text):
        raise ValueError(f"{name}.js: cannot be joined: {other[0]}")
    modules[name] = f"const ${name} = (() => {{\n{text}return {{ {exports} }};\n}})();\n"
