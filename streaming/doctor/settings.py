"""Settings that are each allowed, and together do not mean what their names say."""

from collections.abc import Iterator

from streaming.doctor.verdict import Verdict, ok, warn
from streaming.settings import Settings

CHECK = "settings"
BURST_MS = 1000  # flushed so rarely, an answer no longer seems to flow


def contradictions(settings: Settings) -> list[Verdict]:
    """Return a warning for each contradiction, or one verdict that there is none."""
    found = [*_streams(settings), *_times(settings)]
    return [warn(CHECK, says, fix) for says, fix in found] or [ok(CHECK, "nothing contradicts itself")]


def _streams(s: Settings) -> Iterator[tuple[str, str]]:
    if s.web_concurrency > 1 and not s.redis_url:
        yield (
            f"WEB_CONCURRENCY={s.web_concurrency} without REDIS_URL: one worker runs, as runs live in its memory",
            "Set REDIS_URL, or WEB_CONCURRENCY=1.",
        )
    if s.disconnect_grace_seconds <= s.retry_ms / 1000:
        says = (
            f"DISCONNECT_GRACE_SECONDS={s.disconnect_grace_seconds:g} is not more than RETRY_MS={s.retry_ms}: "
            "a browser that was cut finds its run abandoned"
        )
        yield says, "Set DISCONNECT_GRACE_SECONDS to several times RETRY_MS, 30 at best."
    if 0 < s.stream_max_seconds <= s.heartbeat_seconds:
        says = (
            f"STREAM_MAX_SECONDS={s.stream_max_seconds:g} ends streams before HEARTBEAT_SECONDS="
            f"{s.heartbeat_seconds:g} have passed"
        )
        yield says, "Set STREAM_MAX_SECONDS a little below what the router allows: 840 for Railway's 15 minutes."
    if s.flush_ms > BURST_MS:
        yield (
            f"FLUSH_MS={s.flush_ms}: answers come in bursts, on purpose",
            "Set FLUSH_MS to 50 or less; 0 sends each token at once.",
        )
    if s.compress == "all":
        yield (
            "COMPRESS=all: some proxies hold live streams back when they are compressed",
            "Set COMPRESS=auto, unless `flask doctor URL` finds nothing held back.",
        )


def _times(s: Settings) -> Iterator[tuple[str, str]]:
    if s.progress_timeout_seconds < s.idle_timeout_seconds:
        says = (
            f"PROGRESS_TIMEOUT_SECONDS={s.progress_timeout_seconds:g} comes before IDLE_TIMEOUT_SECONDS="
            f"{s.idle_timeout_seconds:g}, which then means nothing"
        )
        yield says, "Set IDLE_TIMEOUT_SECONDS to the smaller one."
    if s.run_max_seconds < s.idle_timeout_seconds:
        says = (
            f"RUN_MAX_SECONDS={s.run_max_seconds:g} ends runs before IDLE_TIMEOUT_SECONDS={s.idle_timeout_seconds:g}: "
            "a silent upstream looks like an answer that is too long"
        )
        yield says, "Set IDLE_TIMEOUT_SECONDS to the smaller one."
    if s.conversation_ttl_seconds < s.run_max_seconds:
        says = (
            f"CONVERSATION_TTL_SECONDS={s.conversation_ttl_seconds:g} is less than RUN_MAX_SECONDS="
            f"{s.run_max_seconds:g}: a conversation may be forgotten while its answer is written"
        )
        yield says, "Set CONVERSATION_TTL_SECONDS to an hour at least."
