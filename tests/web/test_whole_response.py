"""An answer in one piece leaves in one write; the client reads what gunicorn alone would have sent."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from gunicorn.http import wsgi

from streaming.web import whole_response, worker
from streaming.web.whole_response import ONE_WRITE_BYTES, WholeResponse

FIELDS = [("Content-Type", "application/json"), ("X-Run-Id", "é")]


def sent_by(
    kind: type[wsgi.Response],
    method: str,
    status: str,
    length: int | None,
    pieces: list[bytes],
    *,
    version: tuple[int, int] = (1, 1),
    closes: bool = False,
    failed: bool = False,
) -> list[bytes]:
    """Return the writes of one response."""
    writes: list[bytes] = []
    body = SimpleNamespace(failed=failed)
    request = SimpleNamespace(method=method, version=version, should_close=lambda: closes, body=body)
    response = kind(request, SimpleNamespace(sendall=writes.append), SimpleNamespace(protocol="http"))
    response.start_response(status, FIELDS + ([] if length is None else [("Content-Length", str(length))]))
    for piece in pieces:
        response.write(piece)
    response.close()
    return writes


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let it be the same second in all answers."""
    monkeypatch.setattr(whole_response.util, "http_date", lambda *seconds: "Sat, 21 Nov 2026 12:00:00 GMT")
    whole_response._date.cache_clear()
    yield
    whole_response._date.cache_clear()


@pytest.mark.usefixtures("still_clock")
@pytest.mark.parametrize(
    ("method", "status", "length", "pieces"),
    [
        ("GET", "200 OK", 2, [b"{}"]),
        ("POST", "401 UNAUTHORIZED", 3, [b"{}\n"]),
        ("GET", "200 OK", 4, [b"{}", b"{}"]),
        ("GET", "200 OK", 2, [b"{}{}"]),
        ("GET", "200 OK", 0, [b""]),
        ("HEAD", "200 OK", 2, []),
        ("GET", "204 NO CONTENT", None, []),
        ("GET", "200 OK", None, [b"", b"token", b"token"]),
        ("GET", "200 OK", ONE_WRITE_BYTES + 1, [b"x" * (ONE_WRITE_BYTES + 1)]),
    ],
)
def test_the_bytes_are_those_of_gunicorn(method: str, status: str, length: int | None, pieces: list[bytes]) -> None:
    ours = sent_by(WholeResponse, method, status, length, pieces)
    assert b"".join(ours) == b"".join(sent_by(wsgi.Response, method, status, length, pieces))
    if [len(piece) for piece in pieces] == [length]:
        assert len(ours) == (1 if length <= ONE_WRITE_BYTES else 2)  # a large one is not copied


@pytest.mark.usefixtures("still_clock")
@pytest.mark.parametrize(("version", "closes"), [((1, 1), True), ((1, 0), True), ((1, 0), False)])
def test_what_becomes_of_the_connection_is_told_as_by_gunicorn(version: tuple[int, int], closes: bool) -> None:
    ours, theirs = (
        sent_by(kind, "GET", "200 OK", 2, [b"{}"], version=version, closes=closes)
        for kind in (WholeResponse, wsgi.Response)
    )
    assert ours == [b"".join(theirs)]


def test_the_worker_answers_with_it() -> None:
    assert worker.wsgi.create.keywords == {"response_class": WholeResponse}


def test_a_connection_whose_body_was_not_read_to_its_end_is_told_to_close() -> None:
    (told,) = sent_by(WholeResponse, "POST", "413 X", 2, [b"{}"], failed=True)
    assert b"\r\nConnection: close\r\n" in told
