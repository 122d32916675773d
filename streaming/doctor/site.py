"""One deployed address, asked from outside. Each request has a connection of its own, as who comes back has.

No proxy of the environment is used: what stands in front of the relay is measured, not what stands behind this machine.
"""

import secrets
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request, TextMessage
from wsproto.utilities import RemoteProtocolError

from streaming.authorities import trusting
from streaming.doctor.measured import Answer, Frame, Start, Stream, Tls, Trouble, Unreachable, Upgrade
from streaming.wire.sse import Comment, Decoder, EventTooLarge, ServerSentEvent

CONNECT_SECONDS = 10.0
PATIENCE_SECONDS = 35.0  # beyond what an answer must take: routers that give up at 30 s then say so themselves
MAX_EVENT_BYTES = 64 * 1024  # what answers may be anything
_READ_BYTES = 64 * 1024
_BROKEN = (urllib3.exceptions.HTTPError, OSError)


class _Sent(msgspec.Struct):
    seq: int
    sent_ms: float


class Site:
    """The relay at a base URL; `api_key` None = it asks for none."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self.host = parts.hostname or ""
        self.authority = parts.netloc.rpartition("@")[2]
        self.encrypted = parts.scheme == "https"
        self._port = parts.port or (443 if self.encrypted else 80)
        self._path = parts.path.rstrip("/")
        self._headers = {"User-Agent": "sluice-doctor"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._context = trusting()

    def get(self, path: str) -> Answer:
        """Return the answer to a GET. Raises Unreachable."""
        begun = time.monotonic()
        with self._pool() as pool:
            response = self._send(pool, "GET", path, {}, PATIENCE_SECONDS)
            return _answer(response, begun)

    def watch(
        self,
        *,
        frames: int,
        interval: float,
        silence: float = 0.0,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        leave_after: int | None = None,
    ) -> Stream:
        """Return a probe as it came; `leave_after` so many frames the connection is closed. Raises nothing."""
        query = {"frames": frames, "interval_ms": round(interval * 1000), "silence_seconds": silence}
        request_id = f"doctor-{secrets.token_hex(8)}"
        sent = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "X-Request-Id": request_id}
        begun, patience = time.monotonic(), frames * interval + silence + PATIENCE_SECONDS
        with self._pool() as pool:
            path = f"/probe?{urlencode(query)}"
            try:
                response = self._send(pool, method, path, {**sent, **(headers or {})}, patience)
            except Unreachable:
                return Stream(answer=Answer(status=0, version="", headers={}, seconds=time.monotonic() - begun))
            stream = Stream(
                answer=_answer(response, begun), interval=interval, request_id=request_id, frames=[], pings=[]
            )
            if response.status == 200:
                _read(response, stream, begun, patience, leave_after)
            stream.seconds = time.monotonic() - begun
            response.close()
            return stream

    def tls(self) -> Tls:
        """Return what the edge agrees on with a browser. Raises Unreachable."""
        context = trusting()
        context.set_alpn_protocols(["h2", "http/1.1"])
        try:
            with (
                socket.create_connection((self.host, self._port), CONNECT_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=self.host) as secured,
            ):
                certificate = secured.getpeercert() or {}
                until = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
                protocol = secured.selected_alpn_protocol() or ""
                return Tls(secured.version() or "", protocol, (until - time.time()) / 86_400)
        except OSError as error:
            raise _unreachable(error) from None

    def upgrade(self) -> Upgrade:
        """Open a WebSocket and say something that costs nothing."""
        try:
            with socket.create_connection((self.host, self._port), CONNECT_SECONDS) as plain:
                if not self.encrypted:
                    return self._talk(plain)
                with self._context.wrap_socket(plain, server_hostname=self.host) as secured:
                    return self._talk(secured)
        except OSError:
            return Upgrade(0)

    def _talk(self, connection: socket.socket) -> Upgrade:
        websocket = WSConnection(ConnectionType.CLIENT)
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        connection.sendall(
            websocket.send(Request(host=self.authority, target=f"{self._path}/ws", extra_headers=headers))
        )
        opened = False
        try:
            while data := connection.recv(_READ_BYTES):
                websocket.receive_data(data)
                for event in websocket.events():
                    if isinstance(event, RejectConnection):
                        return Upgrade(event.status_code)
                    if isinstance(event, TextMessage):
                        return Upgrade(101, answered=True)
                    if isinstance(event, AcceptConnection):
                        opened = True
                        nothing = '{"type":"stop","ref":"doctor","run_id":"doctor"}'
                        connection.sendall(websocket.send(TextMessage(data=nothing)))
        except (OSError, RemoteProtocolError):
            pass  # silence is an answer too, and half a handshake none
        return Upgrade(101 if opened else 0)

    def _pool(self) -> urllib3.HTTPConnectionPool:
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=PATIENCE_SECONDS)
        if not self.encrypted:
            return urllib3.HTTPConnectionPool(self.host, self._port, timeout=timeout)
        return urllib3.HTTPSConnectionPool(self.host, self._port, timeout=timeout, ssl_context=self._context)

    def _send(
        self, pool: urllib3.HTTPConnectionPool, method: str, path: str, headers: dict[str, str], patience: float
    ) -> Any:
        try:
            return pool.urlopen(
                method,
                f"{self._path}{path}",
                headers={**self._headers, "Host": self.authority, **headers},
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=patience),
                preload_content=False,
                redirect=False,
                retries=False,
            )
        except _BROKEN as error:
            raise _unreachable(error) from None


def _answer(response: Any, begun: float) -> Answer:
    return Answer(
        status=response.status,
        version="HTTP/1.0" if response.version == 10 else "HTTP/1.1",
        headers={name.lower(): value for name, value in response.headers.items()},
        seconds=time.monotonic() - begun,
    )


def _read(response: Any, stream: Stream, begun: float, patience: float, leave_after: int | None) -> None:
    """Read the frames with the time of each; what is no probe leaves the stream without a start."""
    decoder = Decoder(MAX_EVENT_BYTES)
    try:
        while data := response.read1(_READ_BYTES, decode_content=True):
            came = time.monotonic() - begun
            if stream.first_byte is None:
                stream.first_byte = came
            for item in decoder.feed(data):
                _note(item, stream, came)
            if came > patience:  # what answers may go on for ever
                return
            if stream.ended or (leave_after is not None and len(stream.frames) >= leave_after):
                return
    except (*_BROKEN, EventTooLarge, msgspec.MsgspecError):
        return  # a cut: `ended` tells


def _note(item: ServerSentEvent | Comment, stream: Stream, came: float) -> None:
    if isinstance(item, Comment):
        if item.text.strip() == "ping":
            stream.pings.append(came)
    elif item.type == "start":
        stream.start = msgspec.json.decode(item.data, type=Start)
    elif item.type == "end":
        stream.ended = True
    else:
        sent = msgspec.json.decode(item.data, type=_Sent)
        stream.frames.append(Frame(sent.seq, item.id, sent.sent_ms / 1000, came))


def _unreachable(error: Exception) -> Unreachable:
    """Return what urllib3 or the socket says, without its paragraphs."""
    cause: BaseException = error
    while isinstance(inner := getattr(cause, "reason", None) or cause.__cause__, Exception):
        cause = inner
    return Unreachable(_trouble(error, cause), getattr(cause, "verify_message", "") or str(cause))


def _trouble(*errors: BaseException) -> Trouble:
    kinds: tuple[tuple[Trouble, tuple[type[BaseException], ...]], ...] = (
        ("tls", (ssl.SSLError, urllib3.exceptions.SSLError)),
        ("dns", (socket.gaierror, urllib3.exceptions.NameResolutionError)),
        ("refused", (ConnectionRefusedError, urllib3.exceptions.NewConnectionError)),
        ("timeout", (TimeoutError, urllib3.exceptions.TimeoutError)),
    )
    return next((trouble for trouble, kind in kinds if any(isinstance(each, kind) for each in errors)), "broken")
