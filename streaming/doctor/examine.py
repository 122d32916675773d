"""The checks of a deployed relay, in their order. Each needs a few seconds; no run is started, so none costs money."""

import time
from collections.abc import Callable, Iterator

from streaming.doctor import flow, transport
from streaming.doctor.hops import Hop, hops_of
from streaming.doctor.measured import Stream, Tls, Unreachable
from streaming.doctor.site import Site
from streaming.doctor.verdict import Verdict

FRAMES = 20
INTERVAL_SECONDS = 0.1  # slower than any network's own lumps, faster than anybody's patience
QUICK_SECONDS = 0.02
LEAVE_AFTER = 5  # frames, then the connection is closed to come back
COME_BACK_TRIES = 3
VISITS = 8  # enough to meet both of two instances, but for once in a hundred times
LONG_INTERVAL_SECONDS = 5.0  # a run that thinks is no busier


def examine(
    site: Site, minutes: float, found: Callable[[list[Hop]], object], sleep: Callable[[float], None] = time.sleep
) -> Iterator[Verdict]:
    """Yield a verdict for each check. `minutes` 0: no long stream; `found` is told who is on the way."""
    told: Tls | None = None
    try:
        told = site.tls() if site.encrypted else None
        yield transport.tls(told) if told else transport.not_encrypted(site.host)
        verdict = transport.reachable(site.get("/healthz"), site.url)
        yield verdict
        if verdict.state != "fail":
            yield from _streams(site, told, minutes, found, sleep)
    except Unreachable as error:
        yield transport.unreachable(error)


def _streams(
    site: Site,
    told: Tls | None,
    minutes: float,
    found: Callable[[list[Hop]], object],
    sleep: Callable[[float], None],
) -> Iterator[Verdict]:
    plain = site.watch(frames=FRAMES, interval=INTERVAL_SECONDS)
    hops = hops_of(plain.answer.headers, site.host)
    found(hops)
    if plain.answer.status != 200 or plain.start is None:
        yield flow.no_probe(plain.answer)
        return
    yield transport.http_version(plain, told)
    yield transport.headers(plain, site.authority, hops)
    posted = site.watch(frames=FRAMES, interval=INTERVAL_SECONDS, method="POST") if plain.held_back else None
    yield flow.buffering(plain, posted, hops)
    yield transport.first_byte(plain)
    packed = site.watch(frames=FRAMES, interval=INTERVAL_SECONDS, headers={"Accept-Encoding": "gzip, zstd"})
    yield flow.compression(plain, packed, hops)

    heartbeat = plain.start.heartbeat_seconds
    silent = site.watch(frames=2, interval=QUICK_SECONDS, silence=1.3 * heartbeat + 1)
    flowing = [plain]
    if silent.cut and not plain.cut:
        flowing.append(_flowing(site, silent.seconds * 1.5 + 1, INTERVAL_SECONDS))
    yield flow.heartbeat(silent, flowing[-1], hops)

    first, again = _come_back(site, sleep)
    yield flow.resume(first, again, hops)
    visits = [site.watch(frames=1, interval=QUICK_SECONDS) for _ in range(VISITS)]
    yield flow.instances([stream.start for stream in [*visits, first, *again] if stream.start is not None])
    yield transport.websocket(site.upgrade(), hops)
    if minutes:
        flowing.append(_flowing(site, minutes * 60, LONG_INTERVAL_SECONDS))
    yield flow.longest(flowing, minutes > 0, hops)


def _flowing(site: Site, seconds: float, interval: float) -> Stream:
    return site.watch(frames=round(seconds / interval) + 1, interval=interval)


def _come_back(site: Site, sleep: Callable[[float], None]) -> tuple[Stream, list[Stream]]:
    """Leave in the middle and come back with the last id, more than once where that is refused."""
    first, again = site.watch(frames=FRAMES, interval=QUICK_SECONDS, leave_after=LEAVE_AFTER), list[Stream]()
    while first.frames and len(again) < COME_BACK_TRIES:
        if again:
            sleep(1)
        last = {"Last-Event-ID": first.frames[-1].cursor}
        again.append(site.watch(frames=FRAMES, interval=QUICK_SECONDS, headers=last))
        if again[-1].answer.status == 200:
            break
    return first, again
