"""The gunicorn worker: drains, drops stuck clients, and answers in JSON what never reached the app.

Stock gunicorn waits for open streams until graceful_timeout and then kills them without a terminator; an idle
keep-alive connection holds it as long; a client that stops reading blocks its greenlet for ever.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import gevent
from gevent.pool import Pool
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.ggevent import GeventWorker

from streaming.relay.observing import SlowClientDropped
from streaming.web import gunicorn_caches, unread_body
from streaming.web.client_server import ClientServer
from streaming.web.connection import ClientSocket
from streaming.web.refusing import refuse
from streaming.web.relay import Relay
from streaming.web.whole_response import WholeResponse

LOOK_SECONDS = 0.25  # stock gunicorn notices a SIGTERM after up to 1 s
LAST_SECONDS = 1.0  # for upstreams' stop calls, and then for clients to read the rest; a tenth of a short grace

ACCEPTED_AT_ONCE = 4  # new connections, before the open ones get their turn; gevent's 100 take a tenth of a second

BODY_PIECE_BYTES = 64 * 1024
"""How much of a body is asked of the kernel at once. gunicorn's megabyte is set aside for each read, and what it brings
beyond what was wanted is copied again and again: to read 1 MiB took eight times as long."""

_NO_TIMEOUT = nullcontext()

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

    def handle(self, listener: Any, client: ClientSocket, addr: Any) -> None:
        """Serve one connection."""
        relay = self._relay
        client.prepare(relay.write_timeout_seconds)
        self._clients.add(client)
        self._idle[client] = time.monotonic()
        relay.count_connections(len(self._clients))
        if relay.fills_up:
            self._make_room(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._clients.discard(client)
            self._idle.pop(client, None)
            relay.count_connections(len(self._clients))

    def _make_room(self, newest: ClientSocket) -> None:
        """Let go who has asked nothing for the longest."""
        client = next(iter(self._idle))
        if client is not newest:
            del self._idle[client]
            client.let_go()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve one request. After a stream the connection closes: kept ones would hold the worker when it must go.

        An app's own `Connection: close` is dropped by gunicorn as hop-by-hop.
        """
        if (
            self._relay.fills_up
            or req.path in {"/stream", "/probe", "/v1/chat/completions"}
            or req.path.endswith("/events")
            or req.path.startswith("/api/chat")
        ):
            req.force_close()
        self._idle.pop(sock, None)
        sock.serving, sock.ends_by_close = True, req.version < (1, 1)
        try:
            super().handle_request(listener_name, req, sock, addr)
            # It has been answered and the connection stays. gunicorn would read the rest later, counted as a head.
            if getattr(req.body.reader, "length", None) != 0:  # what is left of it; a chunked one cannot tell
                unread_body.drop(req.body, None)
        finally:
            sock.serving, sock.head_bytes = False, 0
            self._idle[sock] = time.monotonic()

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """Bound nothing: `_drop_stuck` looks at all clients anyway, and gunicorn sets a timer for each head."""
        return _NO_TIMEOUT

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
        servers = []
        for listener in self.sockets:
            listener.setblocking(1)
            server = ClientServer(listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections))
            server.max_accept = ACCEPTED_AT_ONCE
            server.start()
            servers.append(server)
        while self.alive:
            self.notify()
            self._drop_stuck()
            self._relay.measure()
            gevent.sleep(LOOK_SECONDS)
        for server in servers:
            server.close()
        self._drain()
        self._relay.close()

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

    def _drain(self) -> None:
        """Let runs finish inside the window, end the rest, and return as soon as nobody is left."""
        runs, grace_seconds = self._relay.runs, self._relay.shutdown_grace_seconds
        runs.drain()
        last_seconds = min(LAST_SECONDS, grace_seconds / 10)
        last_run_ended: float | None = None
        while self._clients or last_run_ended is None:
            self.notify()
            self._drop_stuck()
            self._let_idle_go()
            self._relay.measure()
            now = time.monotonic()
            if runs.moving:
                self._send_away()
            if runs.counts()["unfinished"]:
                self._interrupt(last_seconds, in_window=now < self._window_end(grace_seconds))
            elif last_run_ended is None:
                last_run_ended = now
            elif now - last_run_ended >= last_seconds:
                break
            gevent.sleep(0.05)
        runs.close()
        for client in list(self._clients):
            client.drop()
        gevent.sleep(0)

    def _interrupt(self, within_seconds: float, *, in_window: bool) -> None:
        """End what runs too long. A log that lives here alone is for nobody, once its last reader has gone."""
        if not in_window or not self._relay.runs.moving:
            self._relay.runs.interrupt(within_seconds, only_unfollowed=in_window)

    def _send_away(self) -> None:
        for client in list(self._clients):
            client.send_away()

    def _window_end(self, grace_seconds: float) -> float:
        if self._hurried:
            return self._told_to_stop
        return self._told_to_stop + (grace_seconds - 5 if grace_seconds >= 10 else grace_seconds / 2)

    def _let_idle_go(self) -> None:
        for client in list(self._clients):
            if not client.serving:
                client.let_go()
