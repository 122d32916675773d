"""What one check says."""

from typing import Literal

import msgspec

State = Literal["ok", "warn", "fail", "skipped"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`says` is what was measured, `fix` what to change ("" = nothing). Only `fail` makes the command fail."""

    check: str
    state: State
    says: str
    fix: str = ""


def ok(check: str, says: str) -> Verdict:
    """Return a verdict with nothing to change."""
    return Verdict(check=check, state="ok", says=says)


def warn(check: str, says: str, fix: str) -> Verdict:
    """Return a verdict on what works, but not for everybody."""
    return Verdict(check=check, state="warn", says=says, fix=fix)


def fail(check: str, says: str, fix: str) -> Verdict:
    """Return a verdict on what does not work."""
    return Verdict(check=check, state="fail", says=says, fix=fix)


def skipped(check: str, says: str) -> Verdict:
    """Return that nothing can be said."""
    return Verdict(check=check, state="skipped", says=says)
