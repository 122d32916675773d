"""The gunicorn worker: drains, drops stuck clients, keeps places free, and answers in JSON what never reached the app.

Stock gunicorn waits for open streams until graceful_timeout and then kills them without a terminator; an idle
keep-alive connection holds it as long; a client that stops reading blocks its greenlet for ever.
"""

import errno
import time
from functools import partial
from typing import Any

import gevent
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.ggevent import GeventWorker

from streaming.relay.observing import SlowClientDropped
from streaming.web import gunicorn_caches, unread_body
from streaming.web.client_server import ClientServer
from streaming.web.connection import ClientSocket
from streaming.web.draining import drain
from streaming.web.refusing import refuse
from streaming.web.relay import Relay
from streaming.web.whole_response import WholeResponse

LOOK_SECONDS = 0.25  # stock gunicorn notices a SIGTERM after up to 1 s
FIRST_PIECE_BYTES = 8192  # of a request's head: few are longer
CLIENT_IS_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}

BODY_PIECE_BYTES = 64 * 1024
"""How much of a body is asked of the kernel at once. gunicorn's megabyte is set aside for each read, and what it brings
beyond what was wanted is copied again and again: to read 1 MiB took eight times as long."""

# gunicorn has no other way to bring one's own.
wsgi.create = partial(wsgi.create, response_class=WholeResponse)
wsgi.base_environ = gunicorn_caches.base_environ
RequestParser.mesg_class = gunicorn_caches.Request
SocketUnreader.max_body_chunk = BODY_PIECE_BYTES


class RelayWorker(GeventWorker):
    """gunicorn's gevent worker with the relay's manners."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clients: set[ClientSocket] = set()
        self._idle: dict[ClientSocket, float] = {}  # who asks nothing -> since when (monotonic), the longest first
        self._servers: list[ClientServer] = []
        self._accepting_paused = False
        self._told_to_stop = 0.0
        self._hurried = False

    @property
    def _relay(self) -> Relay:
        relay = self.wsgi.extensions["sluice"]
        assert isinstance(relay, Relay)
        return relay

    def init_process(self) -> None:
        """Begin, in the new process. gunicorn asks for its settings some thirty times a request, by two calls each."""
        vars(self.cfg).update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    # -- connections -----------------------------------------------------------------------------------------------

    def handle(self, listener_name: Any, client: ClientSocket, addr: Any) -> None:
        """Serve one connection."""
        relay = self._relay
        self._clients.add(client)
        self._idle[client] = time.monotonic()
        relay.count_connections(len(self._clients))
        if relay.nearly_full and len(self._idle) > relay.idle_places:
            self._make_room()
        try:
            self._serve(listener_name, client, addr)
        except (StopIteration, NoMoreData):  # it was the last answer; the client left inside a request
            pass
        except OSError as error:
            if error.errno not in CLIENT_IS_GONE:
                self.log.exception("a connection failed")
        except BaseException as error:  # a gevent.Timeout is no Exception
            self.handle_error(None, client, addr, error)
        finally:
            util.close(client)
            self._clients.discard(client)
            self._idle.pop(client, None)
            relay.count_connections(len(self._clients))
            if self._accepting_paused:
                self._resume_accepting()

    def _serve(self, listener_name: Any, client: ClientSocket, addr: Any) -> None:
        """Serve one request after the other.

        gunicorn's own loop asks each connection for TLS and HTTP/2, of which there is none here, and sets a request up
        only to find that the client has left: a tenth of what a connection with one refusal takes.
        """
        parser = RequestParser(self.cfg, client, addr)
        proxy_protocol_info: dict[str, Any] = {}
        while (data := parser.unreader.take_buffered()) or (data := client.recv(FIRST_PIECE_BYTES)):
            parser.unreader.unread(data)
            request = next(parser)
            # The PROXY protocol's line comes once a connection.
            request.proxy_protocol_info = proxy_protocol_info = request.proxy_protocol_info or proxy_protocol_info
            self.handle_request(listener_name, request, client, addr)

    def _full(self) -> bool:
        self._accepting_paused = len(self._clients) >= self.worker_connections
        return self._accepting_paused

    def _resume_accepting(self) -> None:
        self._accepting_paused = False
        for server in self._servers:
            server.resume_accepting()

    def _make_room(self) -> None:
        """Let go who has asked nothing for the longest."""
        client = next(iter(self._idle))
        del self._idle[client]
        client.let_go()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve one request. After a stream the connection closes: kept ones would hold the worker when it must go.

        An app's own `Connection: close` is dropped by gunicorn as hop-by-hop.
        """
        nearly_full = self._relay.nearly_full
        if (
            nearly_full
            or req.path in {"/stream", "/probe", "/v1/chat/completions"}
            or req.path.endswith("/events")
            or req.path.startswith("/api/chat")
        ):
            req.force_close()
        self._idle.pop(sock, None)
        sock.serving, sock.ends_by_close = True, req.version < (1, 1)
        try:
            super().handle_request(listener_name, req, sock, addr)
            unread_body.drop(req.body, hurried=nearly_full)  # gunicorn would do so later, and count it as a head
            if req.body.failed:  # or the connection would wait for a byte before it ends
                raise StopIteration
        except StopIteration:  # it ends: what is left unread would make that a reset, and the answer could be lost
            unread_body.drop(req.body, hurried=nearly_full)
            raise
        finally:
            sock.serving, sock.head_bytes = False, 0
            self._idle[sock] = time.monotonic()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what gunicorn could not serve. Its own answer is HTML, its log line holds the URL."""
        self._relay.observer(refuse(client, exc, self.log))

    # -- the worker's life -----------------------------------------------------------------------------------------

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """SIGTERM: the platform's clock runs, and no new run begins from here on."""
        self._told_to_stop = time.monotonic()
        if hasattr(self, "wsgi"):  # or the app is still being loaded: it takes no run before `run` sees that it is over
            self._relay.runs.drain()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """SIGINT, SIGQUIT (Ctrl-C): the same without a window; stock gunicorn would cut every stream."""
        self._hurried = True
        self.handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        if self.cfg.is_ssl:
            raise RuntimeError("TLS belongs to the proxy in front: this worker watches plain sockets only.")
        for listener in self.sockets:
            listener.setblocking(1)
            handle = partial(self.handle, listener.getsockname())
            server = ClientServer(listener, handle, self._full, self._relay.write_timeout_seconds)
            server.start()
            self._servers.append(server)
        while self.alive:
            self._look()
            gevent.sleep(LOOK_SECONDS)
        for server in self._servers:
            server.close()
        drain(self._relay, self._clients, self._window_end, self._look)
        self._relay.close()

    def _look(self) -> None:
        """Do what is to be done again and again."""
        self.notify()
        self._drop_stuck()
        self._relay.measure()

    def _drop_stuck(self) -> None:
        """Drop who has taken nothing for too long; a subscriber's run goes on without it. Let go who asks nothing."""
        now, keepalive_seconds = time.monotonic(), self.cfg.keepalive
        for client in list(self._clients):
            if client.blocked_since is not None and client.blocked_since < now - self._relay.write_timeout_seconds:
                client.drop()
                self._relay.observer(SlowClientDropped())
        for client, since in list(self._idle.items()):
            if not keepalive_seconds or since >= now - keepalive_seconds:
                break
            client.let_go()

    def _window_end(self) -> float:
        if self._hurried:
            return self._told_to_stop
        grace_seconds = self._relay.shutdown_grace_seconds
        return self._told_to_stop + (grace_seconds - 5 if grace_seconds >= 10 else grace_seconds / 2)
