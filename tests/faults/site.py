"""A site: two masters that share a redis-server, behind a proxy that knows nothing of who began which run."""

import json
import random
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import gevent
import requests

from streaming.wire.events import LOST_END_SKIP
from tests.faults.proxy import Proxy
from tests.live import WAIT_SECONDS, Call, Relay, ScriptedUpstream, relay, scripted
from tests.redis_server import RedisServer, redis_server
from tests.relay.support import DONE, FINISH, token_chunk
from tests.web.client import HeadCut, request, sse_events


class Paced:
    """A script: `count` tokens, one every `seconds`; what the answer is, `text` tells."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count = count
        self.seconds = seconds
        self.text = "".join(f"{n}词 " for n in range(count))

    def __call__(self, call: Call) -> None:
        call.start()
        for n in range(self.count):
            call.chunk(token_chunk(f"{n}词 "))
            gevent.sleep(self.seconds)
        call.chunk(FINISH + DONE)
        call.finish()


@dataclass
class Site:
    """Its parts."""

    redis: RedisServer
    upstream: ScriptedUpstream
    masters: list[Relay]
    proxy: Proxy

    def start(self, master: int) -> str:
        """Begin a run at one of the masters; return its id."""
        answer = requests.post(f"{self.masters[master].url}/runs", json={"prompt": "hi"}, timeout=WAIT_SECONDS)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["run_id"])


@contextmanager
def site(script: Any, **settings: str) -> Iterator[Site]:
    """Run a site for the length of a `with` block."""
    with ExitStack() as stack:
        upstream = stack.enter_context(scripted(script))
        redis = stack.enter_context(redis_server())
        shared = {"UPSTREAM": "openai", "UPSTREAM_URL": upstream.url, "UPSTREAM_MODEL": "m", "HEARTBEAT_SECONDS": "0.5"}
        masters = [stack.enter_context(relay(**shared, **{"REDIS_URL": redis.url, **settings})) for _ in range(2)]
        proxy = stack.enter_context(Proxy(*(master.port for master in masters)))
        yield Site(redis, upstream, masters, proxy)


@dataclass
class Follower:
    """A client that comes back with its last id until it has the end. `cuts`: it breaks off by itself, at random."""

    url: str
    cuts: bool = True
    seqs: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    end: dict[str, Any] | None = None
    connections: int = 0

    def follow(self) -> "Follower":
        """Follow to the end."""
        with gevent.Timeout(4 * WAIT_SECONDS):
            while self.end is None:
                with suppress(OSError, HeadCut):
                    self._once(random.randint(1, 20) if self.cuts else 10**9)
                gevent.sleep(random.uniform(0, 0.05))
        return self

    def _once(self, events: int) -> None:
        self.connections += 1
        last = {"Last-Event-ID": str(self.seqs[-1])} if self.seqs else {}
        with request(self.url, headers=last) as response:
            assert response.status == 200, (response.status, response.body())
            for chunk in response.chunks():
                for event in sse_events(chunk):
                    self.seqs.append(int(event.id))
                    if event.type == "message":
                        self.texts.append(json.loads(event.data)["text"])
                    elif event.type == "end":
                        self.end = json.loads(event.data)
                events -= 1
                if self.end is not None or events < 0:
                    return

    def check(self, script: Paced, *, interrupted: bool = False) -> None:
        """Each event came once and in order, and the text is the upstream's, or the beginning of it."""
        assert self.end is not None
        text, last = "".join(self.texts), self.seqs[-1]
        if interrupted:
            assert self.end["reason"] == "interrupted", self.end
            assert script.text.startswith(text)
            last -= LOST_END_SKIP
            assert last <= self.seqs[-2] + 1 + 1  # the store may have kept less than was seen, never more
            assert self.end["digest"]["bytes"] <= len(text.encode())
        else:
            assert self.end["reason"] == "done", self.end
            assert text == script.text
            assert self.end["digest"] == {"bytes": len(text.encode()), "crc32": f"{zlib.crc32(text.encode()):08x}"}
            assert last == len(self.seqs)
        assert self.seqs[:-1] == list(range(1, len(self.seqs)))
