"""docs/operating.md, deploy/alerts.yml and deploy/grafana.json speak of what there is, and of all of it."""

import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from streaming.lines import Lines
from streaming.relay.observing import Refused
from streaming.wire.events import EndError, Timing
from streaming.wire.trace import Trace
from tests.test_metrics import HAPPENINGS, exposition, run_ended

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "operating.md").read_text("utf-8")
ALERTS = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text("utf-8"))
DASHBOARD = json.loads((ROOT / "deploy" / "grafana.json").read_text("utf-8"))
FAMILIES = list(text_string_to_metric_families(exposition(*HAPPENINGS)))
SERIES = {sample.name: set(sample.labels) for family in FAMILIES for sample in family.samples}
PROMETHEUS_OWN = {"instance", "job"}  # labels that come with the scrape
TRACE = Trace(trace_id="1" * 32, span_id="2" * 16)


def section(name: str) -> str:
    return DOCS.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def names_in_first_cells(text: str) -> set[str]:
    cells = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_table_is_what_there_is() -> None:
    rows = re.findall(r"^\| `(sluice_\w+)` \| (\w+) \| ([^|]*)\|", section("Metrics"), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    assert documented == {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in FAMILIES
    }


def expressions() -> list[str]:
    """Return every expression in PromQL that this project shows to anybody."""
    alerts = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    shown = re.findall(r"```promql\n(.*?)```", DOCS, re.DOTALL)
    assert len(alerts) >= 4
    assert len(panels) >= 20
    assert shown
    return [*alerts, *panels, *shown[0].splitlines()]


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_only_what_there_is(expression: str, tmp_path: Path) -> None:
    plain = expression.replace("$__rate_interval", "5m").replace("$upstream", ".*")
    rules = {"groups": [{"name": "one", "rules": [{"record": "one", "expr": plain}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    promtool("check", "rules", str(tmp_path / "rules.yml"))
    named = set(re.findall(r"\bsluice_\w+", plain))
    assert named
    assert named <= set(SERIES)
    labels = set(re.findall(r"(\w+)\s*=~?\s*\"|(\w+)\s*!=\s*\"", plain))
    groups = re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", plain)
    used = {label for pair in labels for label in pair if label}
    used |= {label.strip() for group in groups for label in group.split(",")}
    assert used <= set.union(*(SERIES[name] for name in named)) | PROMETHEUS_OWN


def test_the_alerts_are_raised_when_they_should_be() -> None:
    promtool("check", "rules", "deploy/alerts.yml")
    promtool("test", "rules", "tests/alerts.yml")
    raised = set(re.findall(r"- alertname: (\w+)", (ROOT / "tests" / "alerts.yml").read_text()))
    alerts = {rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]}
    assert raised == alerts == names_in_first_cells(section("Dashboard and alerts"))


def test_the_dashboard_is_one() -> None:
    """What Grafana needs to show it: ids that differ, places, a source of data; and every metric is on it."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert DASHBOARD["schemaVersion"] >= 36
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "upstream"}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(
                re.findall(r"\w+", target["expr"])
            ), panel["title"]
    shown = " ".join(target["expr"] for panel in panels for target in panel.get("targets", []))
    unshown = {family.name for family in FAMILIES if family.name not in shown}
    assert unshown == set()


def test_the_log_fields_are_those_of_the_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    error = EndError(code="internal", message="", retryable=False, retry_after=None, status=500)
    timing = Timing(connect=1.0, headers=1.0, first_token=1.0, total=1.0)
    Lines(1.0)(msgspec.structs.replace(run_ended(error=error, timing=timing), trace=TRACE))
    Lines(1.0)(Refused(code="bad_request", status=400, endpoint="relay.stream", request_id="asked", trace=TRACE))
    told: list[Any] = [set(record.fields) for record in caplog.records]  # type: ignore[attr-defined]
    of_runs, _, of_refusals = section("Logs").partition("A refused request leaves")
    assert told == [names_in_first_cells(of_runs), names_in_first_cells(of_refusals)]


def promtool(*arguments: str) -> None:
    checked = subprocess.run(
        ["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
