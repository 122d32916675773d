"""Verdicts on what happens to a stream: held back, compressed, cut in silence or after a time, resumed or not."""

from itertools import pairwise

from streaming.doctor.hops import Hop, advice, names
from streaming.doctor.measured import Answer, Start, Stream
from streaming.doctor.verdict import Verdict, fail, ok, skipped, warn

SAME_CUT = 1.25  # a stream with frames that lives this much longer than a silent one was not cut for its length


def no_probe(answer: Answer) -> Verdict:
    """Return the verdict where /probe gave no frames: nothing else can be measured."""
    if answer.status == 200:
        return fail(
            "buffering",
            "nothing of a stream came, or something that is none",
            "Something on the way waits for its end or answers in the relay's place: look at what /probe says.",
        )
    fix = "Let GET /probe through, with its query." if answer.status != 503 else "Try again in a few seconds."
    return fail("probe", f"/probe: {answer}", fix)


def buffering(stream: Stream, posted: Stream | None, hops: list[Hop]) -> Verdict:
    """Return the verdict on whether frames came as they were sent. `posted`: the same by POST, where GET was held."""
    count, seconds = len(stream.frames), stream.frames[-1].sent if stream.frames else 0.0
    if not stream.held_back:
        worst_ms = max(stream.lateness, default=0.0) * 1000
        return ok("buffering", f"{count} frames came as they were sent (at most {worst_ms:.0f} ms late)")
    lumps = "one lump" if stream.lumps == 1 else f"{stream.lumps} lumps"
    worst = max(stream.lateness)
    says = f"{count} frames, sent over {seconds:.1f} s, came in {lumps}, up to {worst:.1f} s late; by {names(hops)}"
    otherwise = (
        "something that names itself nowhere holds streams back (an inner proxy, a tunnel, antivirus on this machine): "
        "ask the relay directly, then through each hop, and see where the lumps begin"
    )
    fix = advice(hops, "buffering", otherwise)
    if posted is not None and posted.frames and not posted.held_back:
        says, fix = f"{says}; by POST they flow", f"{fix}; until then pages that POST do (this relay's own does)"
    return fail("buffering", says, f"{fix}.")


def compression(plain: Stream, packed: Stream, hops: list[Hop]) -> Verdict:
    """Return the verdict on a stream whose client accepts gzip and zstd, beside one whose client accepts neither."""
    own = packed.start is not None and packed.start.compress == "all"
    by = "the relay (COMPRESS=all)" if own else f"somebody on the way ({names(hops)})"
    if packed.answer.status != 200 or (plain.held_back and packed.held_back):
        return skipped("compression", "cannot be told while streams are held back anyway")
    if packed.held_back or (packed.cut and not packed.frames and not plain.cut):
        encoding = packed.encoding or "compression"
        if own:
            fix = "Set COMPRESS=auto: then live streams are left alone."
        else:
            fix = (
                "Switch compression off for text/event-stream there; `Cache-Control: no-transform` asks for it already."
            )
        return fail("compression", f"{encoding} by {by} holds frames back from clients that accept it", fix)
    if plain.encoding:
        return warn("compression", f"{plain.encoding} though nobody asked for it, by {by}", "Switch it off there.")
    if packed.encoding:
        return ok("compression", f"{packed.encoding} by {by}, flushed at each frame")
    return ok("compression", "streams are not compressed on the way")


def heartbeat(silent: Stream, flowing: Stream, hops: list[Hop]) -> Verdict:
    """Return the verdict on a silence; `flowing`: a stream full of frames, longer than a silent one that was cut."""
    start = silent.start
    if silent.answer.status != 200 or start is None:
        return skipped("heartbeat", f"not measured: {silent.answer}")
    if flowing.held_back:
        return fail("heartbeat", "held back like all the rest", "See buffering. Routers cut what seems silent.")
    if silent.cut:
        return _cut_in_silence(silent, flowing, start.heartbeat_seconds, hops)
    gap = _longest_gap(silent)
    if not silent.pings:
        says = f"HEARTBEAT_SECONDS is {start.heartbeat_seconds:g}, but nothing came for {gap:.1f} s"
        return fail("heartbeat", says, "Somebody takes the comments out of streams, and routers cut what seems silent.")
    return ok("heartbeat", f"the longest silence was {gap:.1f} s")


def _cut_in_silence(silent: Stream, flowing: Stream, heartbeat_seconds: float, hops: list[Hop]) -> Verdict:
    if flowing.cut and flowing.seconds < silent.seconds * SAME_CUT:
        return skipped("heartbeat", f"cut after {silent.seconds:.1f} s whether silent or not: see longest stream")
    limits = advice(hops, "limits", "whoever it is")
    return fail(
        "heartbeat",
        f"cut after {silent.seconds:.1f} s of silence; HEARTBEAT_SECONDS is {heartbeat_seconds:g}",
        f"HEARTBEAT_SECONDS={silent.seconds / 2:.2g}, or a longer idle limit on the way: {limits}.",
    )


def _longest_gap(stream: Stream) -> float:
    times = sorted([stream.first_byte or 0.0, *stream.pings, *(frame.came for frame in stream.frames)])
    return max((after - before for before, after in pairwise(times)), default=0.0)


def longest(streams: list[Stream], asked: bool, hops: list[Hop]) -> Verdict:
    """Return the verdict on streams that were full of frames; `asked`: one of them as long as the operator said."""
    longest_seconds = max((stream.seconds for stream in streams if stream.ended), default=0.0)
    cuts = [stream.seconds for stream in streams if stream.cut]
    start = next((stream.start for stream in streams if stream.start), None)
    if not cuts:
        says = f"{longest_seconds:.0f} s came through" + ("" if asked else "; more was not tried (--minutes 15 does)")
        return ok("longest stream", says) if asked else skipped("longest stream", says)
    cut = min(cuts)
    if start is not None and 0 < start.stream_max_seconds < cut:
        says = f"the way is cut after {cut:.1f} s; STREAM_MAX_SECONDS={start.stream_max_seconds:g} ends streams before"
        return ok("longest stream", says)
    return fail(
        "longest stream",
        f"cut after {cut:.1f} s, although frames came; on the way: {names(hops)}",
        f"STREAM_MAX_SECONDS={max(1, int(cut * 0.9))}: the relay then ends streams itself, and clients resume; "
        f"or a longer limit: {advice(hops, 'limits', 'whoever it is')}.",
    )


def resume(first: Stream, again: list[Stream], hops: list[Hop]) -> Verdict:
    """Return the verdict on a client that was cut and came back; `again`: each time it tried, until it was let in."""
    if not first.frames or not again:
        return skipped("resume", "no stream was there to go on with")
    statuses = [stream.answer.status for stream in again]
    last, seen = again[-1], first.frames[-1].seq
    if statuses[0] != 200:
        then = "and then let it in" if statuses[-1] == 200 else f"{len(statuses)} times"
        return fail(
            "resume",
            f"a client that came back got {again[0].answer}, {then}; EventSource gives up for good at a status",
            "Something takes the relay out of service when a client leaves, or looks at Last-Event-ID; nginx: "
            f"`max_fails=0` with a single relay; look at the router's own log. On the way: {names(hops)}.",
        )
    if last.start is not None and last.start.seq != seen:
        return fail(
            "resume",
            "the header Last-Event-ID does not reach the relay: what was cut begins anew, and is paid again",
            f"Let Last-Event-ID through; clients may say ?last_event_id= instead. On the way: {names(hops)}.",
        )
    got = [frame.seq for frame in last.frames]
    if got != list(range(seen + 1, seen + 1 + len(got))) or not last.ended:
        return fail("resume", "frames are missing after a resume", "Look at what buffering and longest stream say.")
    return ok("resume", f"left after frame {seen}, came back, and missed none")


def instances(starts: list[Start]) -> Verdict:
    """Return the verdict on who answered."""
    tags = {start.instance for start in starts}
    if len(tags) < 2:
        return ok("instances", f"one answered {len(starts)} times")
    if all(start.shared_store for start in starts):
        return ok("instances", f"{len(tags)} answered, and share their runs")
    return fail(
        "instances",
        f"{len(tags)} answered, each with runs of its own: resumes and stops end with other_instance",
        "Set REDIS_URL for all of them, or run one: Fly.io `fly scale count 1`, Cloud Run `--max-instances=1`, "
        "Heroku `web=1`. A relay that restarted meanwhile looks the same: try again.",
    )
