"""docs/troubleshooting.md knows every check that can go wrong."""

import re

from tests.live import ROOT

_CALLED = re.compile(r'\b(?:fail|warn)\(\s*(?:check|CHECK|f?"([a-z ]+?)(?: \{|"))')


def test_every_check_that_can_go_wrong_has_its_place_in_the_troubleshooting() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "streaming" / "doctor").glob("*.py"))
    named = {name for name in _CALLED.findall(sources) if name} | {"tls", "settings", "upstream", "first byte"}
    assert len(named) >= 12
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    assert {name for name in named if f"**{name}**" not in text} == set()
