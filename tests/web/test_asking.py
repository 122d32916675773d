"""What a live client cannot show in reasonable time: bodies that never come, or break off."""

import io

import gevent
import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from streaming.web import asking
from streaming.wire.errors import Refusal


class Slow(io.RawIOBase):
    """A body whose bytes never come."""

    def read(self, size: int = -1) -> bytes:
        gevent.sleep(10)
        return b""

    def readinto(self, buffer: object) -> int:
        gevent.sleep(10)
        return 0

    def readable(self) -> bool:
        return True


def request(body: io.RawIOBase | io.BytesIO, length: int) -> Request:
    environ = EnvironBuilder(method="POST", content_type="application/json").get_environ()
    return Request({**environ, "wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": str(length)})


def test_a_body_that_never_comes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BODY_SECONDS", 0.05)
    with pytest.raises(Refusal) as caught:
        asking.read_ask(request(Slow(), 20))
    assert (caught.value.code, caught.value.status) == ("request_timeout", 408)


def test_a_body_that_breaks_off_is_refused() -> None:
    with pytest.raises(Refusal) as caught:
        asking.read_ask(request(io.BytesIO(b'{"prompt": "hi"}'), 40))
    assert caught.value.status == 400
