"""A real redis-server for tests, on a free port and without a disk: alone, or six of them as a Cluster."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.live import WAIT_SECONDS, free_port, wait_until

CLUSTER_NODES = 6
AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""Replicas get their copy at once, not after 5 s: one without a copy cannot take its master's place."""


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


class Sentinel(RedisServer):
    """A sentinel that watches the service "main"; it needs a file that it may write to."""

    def __init__(self, master: RedisServer) -> None:
        file = tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False)  # noqa: SIM115
        with file:
            file.write(f"sentinel monitor main 127.0.0.1 {master.port} 1\n")
            file.write("sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n")
        self._file = file.name
        super().__init__(file.name, "--sentinel")

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            ["redis-server", *self._options, "--port", str(self.port), "--bind", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, "the sentinel answers")

    def close(self) -> None:
        """End it for good."""
        super().close()
        Path(self._file).unlink()


class Cluster:
    """Three masters with a replica each."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes
        self.url = f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"

    def master_of(self, key: str) -> RedisServer:
        """Return the node that holds a key."""
        client = redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port)
        try:
            port = client.get_node_from_key(key).port
        finally:
            client.close()
        return next(node for node in self.nodes if node.port == port)


@contextlib.contextmanager
def redis_cluster() -> Iterator[Cluster]:
    """Run a Cluster for the length of a `with` block."""
    with contextlib.ExitStack() as stack:
        # The bus would be at the port + 10000, which may be none.
        options = (*AT_ONCE, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port")
        nodes = [stack.enter_context(redis_server(*options, str(free_port()))) for _ in range(CLUSTER_NODES)]
        hosts = [f"127.0.0.1:{node.port}" for node in nodes]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *hosts, "--cluster-replicas", "1", "--cluster-yes"],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=2 * WAIT_SECONDS,
        )
        wait_until(lambda: all(_is_whole(node) for node in nodes), "the Cluster is whole", 2 * WAIT_SECONDS)
        yield Cluster(nodes)


def _is_whole(node: RedisServer) -> bool:
    with node.client() as client:
        info, role = client.execute_command("CLUSTER INFO"), client.info("replication")
        if str(info["cluster_state"]) != "ok" or int(info["cluster_known_nodes"]) != CLUSTER_NODES:
            return False
        return role["role"] == "master" or role["master_link_status"] == "up"
