"""What gunicorn is asked once is still right for each request."""

from collections.abc import Iterable

import pytest
from gunicorn.config import Config
from gunicorn.http.unreader import IterUnreader

from streaming.web.gunicorn_caches import Request, base_environ

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n\r\n"
PROXY, STRANGER = ("192.0.2.1", 1), ("192.0.2.2", 1)


def schemes(peers: Iterable[object]) -> list[str | None]:
    cfg = Config()
    cfg.set("forwarded_allow_ips", "192.0.2.1")
    return [Request(cfg, IterUnreader([HEAD]), peer, 1).scheme for peer in peers]


@pytest.mark.parametrize("first", [0, 1])
def test_only_a_trusted_peer_tells_the_scheme_whoever_came_before(first: int) -> None:
    peers = [PROXY, STRANGER, PROXY, STRANGER][first:]
    assert schemes(peers) == ["https" if peer is PROXY else "http" for peer in peers]


def test_a_unix_sockets_peer_is_trusted() -> None:
    assert schemes([b"", ""]) == ["https", "https"]


def test_another_server_may_trust_others() -> None:
    assert schemes([PROXY]) == ["https"]
    assert Request(Config(), IterUnreader([HEAD]), PROXY, 1).scheme == "http"


def test_each_request_has_an_environ_of_its_own() -> None:
    cfg = Config()
    base_environ(cfg)["HTTP_X"] = "another's"
    assert "HTTP_X" not in base_environ(cfg)
