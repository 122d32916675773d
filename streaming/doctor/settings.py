"""Settings that are each allowed, and together do not mean what their names say."""

from streaming.doctor.verdict import Verdict, ok, warn
from streaming.settings import Settings

CHECK = "settings"


def contradictions(settings: Settings) -> list[Verdict]:
    """Return a warning for each contradiction, or one verdict that there is none."""
    s = settings
    rules = [
        (
            s.web_concurrency > 1 and not s.redis_url,
            f"WEB_CONCURRENCY={s.web_concurrency} without REDIS_URL: one worker runs, as runs live in its memory",
            "Set REDIS_URL, or WEB_CONCURRENCY=1.",
        ),
        (
            s.disconnect_grace_seconds <= s.retry_ms / 1000,
            (
                f"DISCONNECT_GRACE_SECONDS={s.disconnect_grace_seconds:g} is not more than RETRY_MS={s.retry_ms}: "
                "a browser that was cut finds its run abandoned"
            ),
            "Set DISCONNECT_GRACE_SECONDS to several times RETRY_MS, 30 at best.",
        ),
        (
            0 < s.stream_max_seconds <= s.heartbeat_seconds,
            (
                f"STREAM_MAX_SECONDS={s.stream_max_seconds:g} ends streams before HEARTBEAT_SECONDS="
                f"{s.heartbeat_seconds:g} have passed"
            ),
            "Set STREAM_MAX_SECONDS a little below what the router allows: 840 for Railway's 15 minutes.",
        ),
        (
            s.progress_timeout_seconds < s.idle_timeout_seconds,
            (
                f"PROGRESS_TIMEOUT_SECONDS={s.progress_timeout_seconds:g} comes before IDLE_TIMEOUT_SECONDS="
                f"{s.idle_timeout_seconds:g}, which then means nothing"
            ),
            "Set IDLE_TIMEOUT_SECONDS to the smaller one.",
        ),
        (
            s.run_max_seconds < s.idle_timeout_seconds,
            f"RUN_MAX_SECONDS={s.run_max_seconds:g} ends runs before IDLE_TIMEOUT_SECONDS={s.idle_timeout_seconds:g}",
            "A silent upstream then looks like an answer that is too long: make IDLE_TIMEOUT_SECONDS the smaller one.",
        ),
        (
            s.conversation_ttl_seconds < s.run_max_seconds,
            (
                f"CONVERSATION_TTL_SECONDS={s.conversation_ttl_seconds:g} is less than RUN_MAX_SECONDS="
                f"{s.run_max_seconds:g}: a conversation may be forgotten while its answer is written"
            ),
            "Set CONVERSATION_TTL_SECONDS to an hour at least.",
        ),
        (
            s.flush_ms > 1000,
            f"FLUSH_MS={s.flush_ms}: answers come in bursts, on purpose",
            "Set FLUSH_MS to 50 or less; 0 sends each token at once.",
        ),
        (
            s.compress == "all",
            "COMPRESS=all: some proxies hold live streams back when they are compressed",
            "Set COMPRESS=auto, unless `flask doctor URL` finds nothing held back.",
        ),
    ]
    return [warn(CHECK, says, fix) for wrong, says, fix in rules if wrong] or [ok(CHECK, "nothing contradicts itself")]
