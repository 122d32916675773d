"""A real redis-server for tests, on a free port and without a disk: alone, or six of them as a Cluster."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.live import WAIT_SECONDS, free_port, wait_until

CLUSTER_NODES = 6


class RedisServer:
    """One process. What it held is gone when it is started again."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._directory = tempfile.TemporaryDirectory()
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        fixed = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self.process = subprocess.Popen(
            ["redis-server", *fixed, "--dir", self._directory.name, *self._options],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, "redis-server answers")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """Be a client for the length of a `with` block."""
        client = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=WAIT_SECONDS)
        try:
            yield client
        finally:
            client.close()

    def command(self, *arguments: object) -> object:
        """Send one command; return the reply."""
        with self.client() as client:
            return client.execute_command(*arguments)

    def keys(self) -> list[str]:
        """Return all keys."""
        with self.client() as client:
            return sorted(key.decode() for key in client.scan_iter(count=1000))

    def commands(self) -> int:
        """Return how many commands it has processed."""
        with self.client() as client:
            return int(client.info("stats")["total_commands_processed"])

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it hang, its connections open, for the length of a `with` block."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_SECONDS)

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._directory.cleanup()


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Run a redis-server for the length of a `with` block."""
    server = RedisServer(*options)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def redis_cluster() -> Iterator[str]:
    """Run a Cluster of three masters with a replica each; yield its URL."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                # The bus would be at the port + 10000, which may be none.
                redis_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            )
            for _ in range(CLUSTER_NODES)
        ]
        hosts = [f"127.0.0.1:{node.port}" for node in nodes]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *hosts, "--cluster-replicas", "1", "--cluster-yes"],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=2 * WAIT_SECONDS,
        )
        wait_until(lambda: all(_is_whole(node) for node in nodes), "the Cluster is whole", 2 * WAIT_SECONDS)
        yield f"redis+cluster://{hosts[0]},{hosts[1]}"


def _is_whole(node: RedisServer) -> bool:
    with node.client() as client:
        info = client.execute_command("CLUSTER INFO")
        return str(info["cluster_state"]) == "ok" and int(info["cluster_known_nodes"]) == CLUSTER_NODES
