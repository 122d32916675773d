"""An answer that is there in one piece leaves in one write.

gunicorn writes its head and its body one after the other: the client is woken twice, and so is everything between. For
a refused request the second write was a tenth of what it costs.
"""

from gunicorn.http import wsgi


class WholeResponse(wsgi.Response):
    """gunicorn's response, but for the first write."""

    def write(self, arg: bytes) -> None:
        """Write a piece of the body; the head before it, or with it where the piece is the whole body."""
        if self.headers_sent or self._omits_body or not arg or len(arg) != self.response_length:
            super().write(arg)  # type: ignore[no-untyped-call]
            return
        lines = self.default_headers()  # type: ignore[no-untyped-call]
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        self.headers_sent = True
        self.sent = len(arg)
        self.sock.sendall("".join([*lines, "\r\n"]).encode("latin-1") + arg)
