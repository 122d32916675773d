"""From measurements to verdicts: the check, how bad it is, and words that must be in the sentence and in the fix."""

from collections.abc import Callable

import pytest

from streaming.doctor import flow
from streaming.doctor.hops import hops_of
from streaming.doctor.verdict import Verdict
from tests.doctor.streams import HEADERS, STEADY, answer, frames, start, stream

HELD = [2.0] * 20
NGINX = hops_of({**HEADERS, "server": "nginx"}, "relay.example")
QUICK_TUNNEL = hops_of({**HEADERS, "cf-ray": "x"}, "a.trycloudflare.com")
PACKED = answer(content_encoding="gzip")


def silent(*pings: float, **fields: object) -> object:
    return stream([0.0, 20.5], pings=list(pings), **fields)


def resumed(after: int = 5, **fields: object) -> object:
    return stream(**{"frames": frames(*STEADY[after:], first=after + 1), "start": start(seq=after), **fields})


LEFT = stream(STEADY[:5], ended=False)
CASES: list[tuple[str, Callable[[], Verdict], str, str, str]] = [
    ("steady", lambda: flow.buffering(stream(), None, []), "ok", "20 frames came as they were sent", ""),
    ("held by nginx", lambda: flow.buffering(stream(HELD), stream(HELD), NGINX), "fail", "by nginx", "proxy_buffering"),
    ("held by nobody", lambda: flow.buffering(stream(HELD), None, []), "fail", "one lump", "each hop"),
    (
        "only GET is held",
        lambda: flow.buffering(stream(HELD), stream(), QUICK_TUNNEL),
        "fail",
        "by POST they flow",
        "named tunnel",
    ),
    ("not compressed", lambda: flow.compression(stream(), stream(), []), "ok", "not compressed", ""),
    (
        "held when packed",
        lambda: flow.compression(stream(), stream(HELD, answer=PACKED), NGINX),
        "fail",
        "gzip by somebody on the way (nginx)",
        "text/event-stream",
    ),
    (
        "held, and it is ours",
        lambda: flow.compression(stream(), stream(HELD, answer=PACKED, start=start(compress="all")), []),
        "fail",
        "the relay (COMPRESS=all)",
        "COMPRESS=auto",
    ),
    ("packed and flushed", lambda: flow.compression(stream(), stream(answer=PACKED), []), "ok", "flushed", ""),
    (
        "packed unasked",
        lambda: flow.compression(stream(answer=PACKED), stream(answer=PACKED), []),
        "warn",
        "though nobody asked",
        "off",
    ),
    ("held anyway", lambda: flow.compression(stream(HELD), stream(HELD), []), "skipped", "held back anyway", ""),
    ("beats", lambda: flow.heartbeat(silent(15.0), stream(), []), "ok", "longest silence was 15.0 s", ""),
    ("no beats", lambda: flow.heartbeat(silent(), stream(), []), "fail", "nothing came for 20.5 s", "comments"),
    ("held beats", lambda: flow.heartbeat(silent(15.0), stream(HELD), []), "fail", "held back", "buffering"),
    (
        "cut in silence",
        lambda: flow.heartbeat(stream([0.0], ended=False, seconds=10.0), stream(seconds=16.0), NGINX),
        "fail",
        "cut after 10.0 s of silence; HEARTBEAT_SECONDS is 15",
        "HEARTBEAT_SECONDS=5, ",
    ),
    (
        "cut anyway",
        lambda: flow.heartbeat(stream([0.0], ended=False, seconds=5.0), stream(ended=False, seconds=5.2), []),
        "skipped",
        "see longest stream",
        "",
    ),
    ("no silence", lambda: flow.heartbeat(stream(answer=answer(503)), stream(), []), "skipped", "HTTP 503", ""),
    ("not asked", lambda: flow.longest([stream()], False, []), "skipped", "--minutes", ""),
    ("asked", lambda: flow.longest([stream(), stream(seconds=900.0)], True, []), "ok", "900 s came through", ""),
    (
        "cut",
        lambda: flow.longest([stream(), stream(ended=False, seconds=30.0)], False, NGINX),
        "fail",
        "cut after 30.0 s",
        "STREAM_MAX_SECONDS=27:",
    ),
    (
        "cut, but rolled over before",
        lambda: flow.longest([stream(ended=False, seconds=300.0, start=start(stream_max_seconds=280.0))], True, []),
        "ok",
        "STREAM_MAX_SECONDS=280 ends streams before",
        "",
    ),
    ("resumed", lambda: flow.resume(LEFT, [resumed()], []), "ok", "left after frame 5", ""),
    (
        "refused once",
        lambda: flow.resume(LEFT, [stream([], answer=answer(502)), resumed()], []),
        "fail",
        "HTTP 502, and then let it in",
        "max_fails",
    ),
    (
        "refused for good",
        lambda: flow.resume(LEFT, [stream([], answer=answer(0))] * 3, []),
        "fail",
        "no answer, 3 times",
        "Last-Event-ID",
    ),
    ("header lost", lambda: flow.resume(LEFT, [stream()], []), "fail", "does not reach the relay", "last_event_id="),
    ("frame lost", lambda: flow.resume(LEFT, [resumed(6, start=start(seq=5))], []), "fail", "frames are missing", ""),
    ("cut again", lambda: flow.resume(LEFT, [resumed(ended=False)], []), "fail", "frames are missing", ""),
    ("nothing to resume", lambda: flow.resume(stream([], ended=False), [], []), "skipped", "no stream", ""),
    ("one instance", lambda: flow.instances([start()] * 9), "ok", "one answered 9 times", ""),
    (
        "two that share",
        lambda: flow.instances([start(shared_store=True), start(shared_store=True, instance="b")]),
        "ok",
        "share their runs",
        "",
    ),
    ("two that do not", lambda: flow.instances([start(), start(instance="b")]), "fail", "other_instance", "REDIS_URL"),
    ("busy with probes", lambda: flow.no_probe(answer(503)), "fail", "HTTP 503", "Try again"),
    ("an old relay", lambda: flow.no_probe(answer(404)), "fail", "HTTP 404", "/probe"),
    ("something else", lambda: flow.no_probe(answer()), "fail", "or something that is none", "/probe"),
]


@pytest.mark.parametrize(("judge", "state", "says", "fix"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_the_verdict(judge: Callable[[], Verdict], state: str, says: str, fix: str) -> None:
    verdict = judge()
    assert verdict.state == state
    assert says in verdict.says
    assert fix in verdict.fix
    assert bool(verdict.fix) == (state in {"warn", "fail"})
