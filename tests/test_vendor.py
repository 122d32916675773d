"""Code of others that the page loads: unaltered, with its licence, small."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

VENDOR = Path(__file__).parent.parent / "static" / "vendor"
PACKAGES = json.loads((VENDOR / "vendor.json").read_text(encoding="utf-8"))
LICENCES = {"BSD-3-Clause": "Redistribution and use in source and binary forms"}


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_there_is_nothing_else() -> None:
    listed = {VENDOR / package["directory"] / name for package in PACKAGES for name in package["files"]}
    assert {*files_in(VENDOR)} == {VENDOR / "vendor.json", *listed}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package["name"])
def test_files_are_what_upstream_published(package: dict) -> None:
    directory = VENDOR / package["directory"]
    hashes = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in package["files"]}
    assert hashes == package["files"]
    assert package["version"] in package["directory"]  # a new version has new addresses: no cache mixes the two
    assert f"v{package['version']} " in (directory / "es/core.min.js").read_text(encoding="utf-8")[:200]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package["name"])
def test_the_licence_is_there(package: dict) -> None:
    assert package["licence_file"] in package["files"]
    text = (VENDOR / package["directory"] / package["licence_file"]).read_text(encoding="utf-8")
    assert LICENCES[package["licence"]] in " ".join(text.split())
    assert "Copyright" in text


def test_the_page_has_a_grammar_for_each_language_it_names() -> None:
    code = (VENDOR.parent / "code.js").read_text(encoding="utf-8")
    [directory] = [package["directory"] for package in PACKAGES if package["name"] == "highlight.js"]
    assert f'"./vendor/{directory}/es"' in code
    table = re.search(r"const LANGUAGES = \{(.*?)\};", code, re.DOTALL)
    assert table
    named = set(re.findall(r"^  (\w+):", table[1], re.MULTILINE))
    assert named == {path.name.removesuffix(".min.js") for path in files_in(VENDOR / directory / "es/languages")}


def test_all_languages_together_stay_small() -> None:
    scripts = [path for path in files_in(VENDOR) if path.suffix == ".js"]
    assert sum(len(gzip.compress(path.read_bytes())) for path in scripts) <= 32 * 1024
