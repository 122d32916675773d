"""The rest of a body that nobody wants: read and dropped.

It stands before the next request on its connection, and an answer sent while the client still writes may reach it as a
reset.
"""

import logging
from typing import Any

import gevent

DRAIN_MAX_BYTES = 16 * 1024 * 1024
DRAIN_SECONDS = 2.0
PIECE_BYTES = 64 * 1024

log = logging.getLogger(__name__)


def drop(source: Any, *, hurried: bool) -> None:
    """Read a request's `wsgi.input` to its end.

    Where the end does not come within DRAIN_SECONDS or DRAIN_MAX_BYTES, `source.failed` is set and the connection ends
    with the answer: the rest would be read as the next request, perhaps as another client's of a proxy in front.
    `hurried`: what is not there is not waited for, because connections run out, and whoever is waited for holds one.
    """
    reader = getattr(source, "reader", None)  # of gunicorn's Body; None = the body has been read, and is in memory
    if reader is None or source.failed:
        return
    read_bytes, over = 0, _nothing_left(reader)
    if over:
        return
    try:
        with gevent.Timeout(0 if hurried else DRAIN_SECONDS, False):
            while not over and read_bytes < DRAIN_MAX_BYTES:
                piece = source.read(PIECE_BYTES)
                read_bytes += len(piece)
                over = not piece or _nothing_left(reader)
    except Exception as error:  # a body that breaks off or is badly chunked: nothing is lost, it was unwanted
        log.debug("an unwanted body could not be read to its end: %s", type(error).__name__)
    if not over:
        source.failed = True  # so gunicorn's Body tells that nobody knows where the next request begins


def _nothing_left(reader: Any) -> bool:
    return getattr(reader, "length", None) == 0  # a chunked body has none, and says at a read that it is over
