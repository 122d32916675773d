"""Trace context: which of somebody's traces a request belongs to (W3C Trace Context, sections 3.2 and 3.3)."""

import re

import msgspec

SAMPLED = 0x01
_KNOWN_FLAGS = 0x03  # sampled, and level 2's "the trace id is random": others are not passed on
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?\Z")
_STATE_MAX_CHARACTERS = 512  # what must be passed on at least; more would be a stranger's way to long upstream headers
_STATE_MAX_MEMBERS = 32
_STATE_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]\Z"
)


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A request's place in a trace. Ids are lower-case hex.

    `span_id` is our own part of the trace; `parent_id` that of who called us, None = the trace begins here.
    """

    trace_id: str
    span_id: str
    parent_id: str | None = None
    flags: int = SAMPLED
    state: str = ""

    @property
    def sampled(self) -> bool:
        """Return whether whoever began the trace wants it recorded."""
        return bool(self.flags & SAMPLED)

    def renewed(self, span_id: str) -> "Trace":
        """Return another part of the same trace, beside ours."""
        return msgspec.structs.replace(self, span_id=span_id)

    def headers(self) -> dict[str, str]:
        """Return what tells the next server, which becomes a child of our part."""
        headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"}
        return {**headers, "tracestate": self.state} if self.state else headers


def parse(traceparent: str, tracestate: str, span_id: str) -> Trace | None:
    """Return the trace that two headers tell ("" = absent), with `span_id` as our part; None where they tell none.

    A broken `traceparent` makes both worthless, a broken `tracestate` only itself (section 4.3).
    """
    match = _TRACEPARENT.match(traceparent.strip(" \t"))
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(parent_id, 16):
        return None
    known = int(flags, 16) & (_KNOWN_FLAGS if version == "00" else SAMPLED)
    return Trace(trace_id=trace_id, span_id=span_id, parent_id=parent_id, flags=known, state=_state(tracestate))


def _state(text: str) -> str:
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    good = len(keys) == len(members) <= _STATE_MAX_MEMBERS and all(map(_STATE_MEMBER.match, members))
    state = ",".join(members)
    return state if good and len(state) <= _STATE_MAX_CHARACTERS else ""
