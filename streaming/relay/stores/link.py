"""The connection to Redis: alone, behind Sentinel, or a Cluster. Nothing here waits longer than it says.

No greenlet is ever killed inside a command: its connection would go back with the answer still to come, to somebody
else (redis-py#1134). Time limits are the sockets' own.
"""

import logging
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from gevent.lock import BoundedSemaphore
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import ClusterDownError, ReadOnlyError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from streaming.relay.observing import Observer, RedisAnswered, nobody
from streaming.wire.errors import Refusal

log = logging.getLogger(__name__)

SOCKET_SECONDS = 2.0  # Redis answers within milliseconds or is not there
ASKING_MAX = 6  # commands that requests have under way: what one worker may take of Redis' connections
REST_SECONDS = 1.0  # after a failure nobody else waits in vain
RETRY_AFTER_SECONDS = 5

Command = tuple[Any, ...]


class Down(Exception):
    """Redis did not answer; whether it did what it was told is unknown."""


class Link:
    """`send` is for the relay's own few greenlets, `ask` for requests, of which there may be any number.

    `breaks` counts how often the connection was found broken: what Redis held before may be gone after.
    """

    def __init__(self, url: str, *, tls_insecure: bool = False, observer: Observer = nobody) -> None:
        self.breaks = 0
        self._url = url
        self._tls_insecure = tls_insecure
        self._observer = observer
        self._client: Any = None
        self._unbroken_since: float | None = None  # monotonic; None = broken
        self._broke_at = float("-inf")  # monotonic
        self._asking = BoundedSemaphore(ASKING_MAX)

    @property
    def unbroken_seconds(self) -> float:
        """Return for how long Redis has been answering without a break."""
        return 0.0 if self._unbroken_since is None else time.monotonic() - self._unbroken_since

    def broke(self, how: str) -> None:
        """Somebody found a connection broken."""
        if self._unbroken_since is not None:
            log.warning("the connection to Redis broke: %s", how)
            self.breaks += 1
        self._unbroken_since = None
        self._broke_at = time.monotonic()

    def send(self, *commands: Command) -> list[Any]:
        """Return the replies, in order; they travel together. An error reply stands in its place. Raises Down."""
        begun = time.monotonic()
        try:
            replies = self._send(commands)
        except (RedisError, OSError, ValueError) as error:  # ValueError: another command's failover closed this one's
            self.broke(type(error).__name__)
            raise Down(type(error).__name__) from None  # its text may hold the URL, and so the password
        self._observer(RedisAnswered(commands=len(commands), seconds=time.monotonic() - begun))
        if any(isinstance(reply, ReadOnlyError | ClusterDownError) for reply in replies):
            self._drop_client()  # a failover: the next connection finds the new master
            self.broke("failover")
            raise Down("failover")
        if self._unbroken_since is None:
            self._unbroken_since = time.monotonic()
        return replies

    def ask(self, *commands: Command) -> list[Any]:
        """Return the replies. Raises Refusal("store_unavailable"), for an error reply too."""
        if time.monotonic() - self._broke_at < REST_SECONDS and self._unbroken_since is None:
            raise unavailable()
        if not self._asking.acquire(timeout=SOCKET_SECONDS):
            raise unavailable()
        try:
            replies = self._send_again_if_broken(commands)
        except Down:
            raise unavailable() from None
        finally:
            self._asking.release()
        for reply in replies:
            if isinstance(reply, Exception):
                log.error("Redis refused a command: %s", str(reply).partition(" ")[0])  # OOM, NOPERM…
                raise unavailable()
        return replies

    def _send_again_if_broken(self, commands: tuple[Command, ...]) -> list[Any]:
        """A kept connection may have died unnoticed. What is asked here may be asked twice."""
        try:
            return self.send(*commands)
        except Down:
            return self.send(*commands)

    def pubsub(self) -> Any:
        """Return a subscriber with a connection of its own. Raises Down."""
        try:
            return self._open().pubsub(ignore_subscribe_messages=False)
        except (RedisError, OSError) as error:
            raise Down(type(error).__name__) from None

    def close(self) -> None:
        """Close the connections. Nobody may be inside a command any more."""
        self._drop_client()

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        client.close()
        manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
        for sentinel in manager.sentinels if manager is not None else ():  # redis-py leaves these open
            sentinel.close()

    def _send(self, commands: tuple[Command, ...]) -> list[Any]:
        client = self._open()
        published = {n for n, command in enumerate(commands) if command[0] == "PUBLISH"}
        if not published or not isinstance(client, RedisCluster):
            return _pipeline(client, commands)
        # A message has no slot: redis-py's Cluster refuses it in a pipeline.
        rest = iter(_pipeline(client, [each for n, each in enumerate(commands) if n not in published]))
        return [
            client.execute_command(*command) if n in published else next(rest) for n, command in enumerate(commands)
        ]

    def _open(self) -> Any:
        if self._client is None:
            self._client = connect(self._url, tls_insecure=self._tls_insecure)
        return self._client


def _pipeline(client: Any, commands: Any) -> list[Any]:
    if not commands:
        return []
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute(raise_on_error=False)
    return replies


def unavailable() -> Refusal:
    """Return the refusal of what needs Redis while it does not answer."""
    return Refusal(
        "store_unavailable", "The store that this relay shares does not answer.", retry_after=RETRY_AFTER_SECONDS
    )


def connect(url: str, *, tls_insecure: bool = False) -> Any:
    """Return a client for `redis[s]://…`, `redis[s]+sentinel://user:password@host:port,host:port/service/db` or
    `redis[s]+cluster://…`. A plain URL connects at the first command, the others may ask at once.

    `tls_insecure`: the server's certificate is not checked (managed services with chains of their own).
    """
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    options: dict[str, Any] = {"socket_timeout": SOCKET_SECONDS, "socket_connect_timeout": SOCKET_SECONDS}
    if base == "rediss" and tls_insecure:
        options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    once = Retry(NoBackoff(), 0)  # who calls knows better whether to try again
    if not kind:
        return redis.Redis.from_url(url, retry=once, **options)
    parts = urlsplit(f"{base}://{rest}")
    user, password = (unquote(part) if part else None for part in (parts.username, parts.password))
    options |= {"username": user, "password": password, "ssl": base == "rediss"}
    hosts = [_host(each, 26379 if kind == "sentinel" else 6379) for each in parts.netloc.rpartition("@")[2].split(",")]
    if kind == "cluster":
        return RedisCluster(startup_nodes=[ClusterNode(*host) for host in hosts], retry=once, **options)
    service, _, db = parts.path.strip("/").partition("/")
    sentinels = Sentinel(hosts, sentinel_kwargs={**options, "retry": once}, retry=once, **options)
    return sentinels.master_for(service, db=int(db or 0))


def _host(text: str, port: int) -> tuple[str, int]:
    name, colon, digits = text.rpartition(":")
    return (name.strip("[]"), int(digits)) if colon and digits.isdigit() else (text.strip("[]"), port)
