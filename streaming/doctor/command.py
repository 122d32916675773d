"""`flask doctor`: the command and its report.

Exit code: 0 where nothing fails (warnings are none), 1 where something does, 2 for a wrong call.
"""

import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import click
import msgspec

from streaming.chat_screen import harmless
from streaming.doctor.examine import examine
from streaming.doctor.hops import names
from streaming.doctor.local import MakeDialect, ReadEnvironment, examine_settings
from streaming.doctor.site import Site
from streaming.doctor.verdict import Verdict

MAX_MINUTES = 60  # as long as any platform lets a request live
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "blue"}
_MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skipped": "-"}


class Report:
    """Prints each verdict when it comes, or all as one JSON object at the end."""

    def __init__(self, place: str, *, as_json: bool) -> None:
        self._place = place
        self._as_json = as_json
        self._verdicts: list[Verdict] = []
        self._way: str | None = None

    def take(self, verdicts: Iterator[Verdict]) -> int:
        """Report the verdicts; return the exit code."""
        if not self._as_json:
            click.echo(self._place)
        for verdict in verdicts:
            self._verdicts.append(verdict)
            if not self._as_json:
                self._print(verdict)
        failed = any(verdict.state == "fail" for verdict in self._verdicts)
        if self._as_json:
            told = {"place": self._place, "ok": not failed, "way": self._way, "checks": self._verdicts}
            click.echo(msgspec.json.encode(told))
        return 1 if failed else 0

    def way(self, way: str) -> None:
        """Take note of who is on the way."""
        self._way = way
        if not self._as_json:
            click.echo(f"      on the way      {harmless(way)}")

    def _print(self, verdict: Verdict) -> None:
        # click takes the colours out where the output is no terminal. Headers are another's words.
        mark = click.style(f"{_MARKS[verdict.state]:4}", fg=_COLOURS[verdict.state])
        click.echo(f"{mark}  {verdict.check:14}  {harmless(verdict.says)}")
        if verdict.fix:
            click.echo(f"      {'fix':14}  {harmless(verdict.fix)}")


def doctor_command(environment: ReadEnvironment, dialect_of: MakeDialect) -> click.Command:
    """Return the command; for `environment` and `dialect_of` see local.examine_settings."""

    @click.command()
    @click.argument("url", required=False)
    @click.option("--local", is_flag=True, help="Check settings, store and upstreams here, before a deploy.")
    @click.option("--minutes", type=click.FloatRange(0, MAX_MINUTES), default=0.0, help="Also hold a stream this long.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
    @click.option("--api-key", envvar="SLUICE_API_KEY", help="Better in the environment: arguments are seen by others.")
    def doctor(url: str | None, local: bool, minutes: float, as_json: bool, api_key: str | None) -> None:
        """Measure a deployed relay at URL, and say what to change. It starts no run, so it costs nothing."""
        if local == (url is not None):
            raise click.UsageError("Give the relay's URL, or --local.")
        if url is None:
            report = Report("settings and upstreams", as_json=as_json)
            sys.exit(report.take(examine_settings(environment, dialect_of)))
        site = Site(_checked(url), api_key.strip() if api_key else None)
        report = Report(site.url, as_json=as_json)
        sys.exit(report.take(examine(site, minutes, lambda hops: report.way(names(hops)))))

    return doctor


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not parts.query:
            return url
    except ValueError:  # brackets that do not match, a port that cannot be
        pass
    raise click.BadParameter(f"{url!r} is no http:// or https:// address", param_hint="URL")
