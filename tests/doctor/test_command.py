"""The report: for people, for machines, and what it refuses."""

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from streaming.doctor.command import Report, doctor_command
from streaming.doctor.verdict import Verdict, fail, ok, skipped, warn

ALL = [ok("a", "good"), warn("b", "hm", "change it"), skipped("d", "no")]
BAD = fail("c", "bad \x1b[31m", "mend it")


def verdicts(*more: Verdict) -> Iterator[Verdict]:
    return iter([*ALL, *more])


def test_on_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert Report("here", as_json=False).take(verdicts(BAD)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "here",
        "ok    a               good",
        "warn  b               hm",
        "      fix             change it",
        "-     d               no",
        "FAIL  c               bad \ufffd[31m",  # headers are another's words
        "      fix             mend it",
    ]


def test_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("here", as_json=True)
    report.way("nginx")
    assert report.take(verdicts()) == 0  # a warning is no failure
    told = json.loads(capsys.readouterr().out)
    assert (told["place"], told["ok"], told["way"]) == ("here", True, "nginx")
    assert told["checks"][1] == {"check": "b", "state": "warn", "says": "hm", "fix": "change it"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["http://127.0.0.1", "--local"],
        ["127.0.0.1:8000"],
        ["ftp://x"],
        ["http://[::1"],
        ["http://x?a=b"],
        ["http://x", "--minutes", "61"],
    ],
)
def test_a_wrong_call_asks_nobody(arguments: list[str]) -> None:
    command = doctor_command(lambda: pytest.fail("not to be read"), lambda _: pytest.fail("not to be asked"))
    assert CliRunner().invoke(command, arguments).exit_code == 2
