"""An answer that is there in one piece leaves in one write.

gunicorn writes its head and its body one after the other: the client is woken twice, and so is everything between. For
a refused request the second write was a tenth of what it costs.
"""

import time
from functools import lru_cache

from gunicorn import util
from gunicorn.http import wsgi

ONE_WRITE_BYTES = 64 * 1024
"""A larger body would be held twice for a client that takes nothing: a run's snapshot has up to 4 MiB."""


class WholeResponse(wsgi.Response):
    """gunicorn's response, but for the first write."""

    def write(self, arg: bytes) -> None:
        """Write a piece of the body; the head before it, or with it where the piece is a whole body and small."""
        whole = len(arg) == self.response_length and 0 < len(arg) <= ONE_WRITE_BYTES
        if self.headers_sent or self._omits_body or not whole:
            super().write(arg)  # type: ignore[no-untyped-call]
            return
        major, minor = self.req.version
        # The connection ends too where the body was not read to its end; gunicorn forgets to say so.
        closes = self.req.body.failed or self.should_close()  # type: ignore[no-untyped-call]
        connection = "close" if closes else "keep-alive"
        head = (
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {_date(int(time.time()))}\r\nConnection: {connection}\r\n"
        )
        fields = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
        self.headers_sent = True
        self.sent = len(arg)
        self.sock.sendall(f"{head}{fields}\r\n".encode("latin-1") + arg)


@lru_cache(1)
def _date(unix_seconds: int) -> str:
    """Return the time as HTTP writes it, made once a second."""
    return str(util.http_date(unix_seconds))
