"""The calls to a Dify app that are no run: what it tells of itself, uploads, ratings, suggested questions."""

import secrets
import time
from collections import OrderedDict
from typing import Any

import gevent
import msgspec

from streaming.relay.body import read_short
from streaming.relay.fetched import Fetched
from streaming.relay.store import Keys
from streaming.relay.upstream import Limits, Session
from streaming.wire.dialects import Request, Verdict
from streaming.wire.dialects.dify_app import (
    Answered,
    DifyApp,
    Parameters,
    Stored,
    read_parameters,
    read_rated,
    read_stored,
    read_suggested,
)
from streaming.wire.dialects.dify_files import Upload
from streaming.wire.errors import Failure, Refusal
from streaming.wire.trace import Trace

ANSWER_MAX_BYTES = 256 * 1024  # of one answer: more is nothing that a page could show
CALL_SECONDS = 10.0  # against an upstream that takes a call and says nothing
UPLOAD_SECONDS = 60.0  # it has to carry the file to its own store first
SUGGEST_SECONDS = 30.0  # a model writes the questions

PARAMETERS_TTL_SECONDS = 300.0  # how long a change in Dify's studio may go unseen
SUGGESTED_TTL_SECONDS = 3600.0  # they stay the same, but asking again is paid again
RETRY_SECONDS = 10.0  # after a failure: an upstream that is down is not asked by every page that opens

END_WAIT_SECONDS = 1.0  # how long an `end` may wait for suggested questions
SUGGESTED_KEPT = 1000  # answers whose questions are kept, the newest


class DifyCalls:
    """One app's calls. `name` is the upstream's, for the log. `users` keeps whose a message is, for `user_seconds`."""

    def __init__(
        self, name: str, app: DifyApp, session: Session, limits: Limits, *, users: Keys, user_seconds: float
    ) -> None:
        self._name = name
        self._app = app
        self._session = session
        self._limits = limits
        self._users = users
        self._user_seconds = user_seconds
        self._suggested: OrderedDict[str, Fetched[list[str]]] = OrderedDict()  # by message id
        self._parameters = Fetched(
            f"the parameters of upstream '{name}'",
            lambda: read_parameters(self._call(app.parameters(), CALL_SECONDS)),
            ttl_seconds=PARAMETERS_TTL_SECONDS,
            retry_seconds=RETRY_SECONDS,
        )

    def parameters(self, wait_seconds: float) -> Parameters | None:
        """Return what the app tells of itself, None where it did not within this time; see Fetched.get."""
        return self._parameters.get(wait_seconds)

    def upload(self, upload: Upload, user: str, trace: Trace | None = None) -> Stored:
        """Store a file. Raises Failure, Refusal."""
        request = self._app.upload(upload, user, boundary=secrets.token_hex(16)).traced(trace)
        return read_stored(self._call(request, UPLOAD_SECONDS), upload)

    def rate(self, message_id: str, rating: str | None, content: str | None, trace: Trace | None = None) -> None:
        """Rate an answer; `rating` None takes it back. Raises Failure, Refusal."""
        request = self._app.rating(message_id, self._user(message_id), rating, content).traced(trace)
        read_rated(self._call(request, CALL_SECONDS), rating)

    def suggested(self, message_id: str, wait_seconds: float) -> list[str] | None:
        """Return questions to go on with after an answer, None where there are none yet; see Fetched.get.

        Raises Failure, Refusal.
        """
        return self._questions(message_id, self._user(message_id), wait_seconds)

    def prepare(self) -> None:
        """An answer begins: by its end it should be known what the app offers. Takes no time."""
        self._parameters.get(0)

    def finish(self, verdict: Verdict, user: str, *, suggest: bool) -> Verdict:
        """Take note of an answer; return its verdict, with suggested questions if the app makes some (`suggest`).

        None in their place: they are not there yet, `suggested` tells more. Waits END_WAIT_SECONDS at most.
        """
        message_id = verdict.metadata.get("message_id")
        if message_id is None:
            return verdict
        added: dict[str, Any] = {}
        try:
            self._users.put(message_id, user.encode(), self._user_seconds)
            deadline = time.monotonic() + END_WAIT_SECONDS
            if suggest and verdict.reason == "done" and self._suggests(END_WAIT_SECONDS):
                added["suggested_questions"] = None
                added["suggested_questions"] = self._questions(message_id, user, deadline - time.monotonic())
        except Failure:  # no questions, or the run's time is over just here: its answer is whole, and stays so
            pass
        return msgspec.structs.replace(verdict, metadata={**verdict.metadata, **added})

    def _suggests(self, wait_seconds: float) -> bool:
        """Return whether the app makes questions, as far as it is known: what was told before is good enough."""
        parameters = self._parameters.value or self._parameters.get(wait_seconds)
        return parameters is not None and parameters.suggests

    def _questions(self, message_id: str, user: str, wait_seconds: float) -> list[str] | None:
        fetched = self._suggested.get(message_id)
        if fetched is None:
            fetched = self._suggested[message_id] = Fetched(
                f"suggested questions of upstream '{self._name}'",
                lambda: read_suggested(self._call(self._app.suggested(message_id, user), SUGGEST_SECONDS)),
                ttl_seconds=SUGGESTED_TTL_SECONDS,
                retry_seconds=RETRY_SECONDS,
            )
            if len(self._suggested) > SUGGESTED_KEPT:
                self._suggested.popitem(last=False)
        questions = fetched.get(wait_seconds)
        if questions is None and fetched.failure is not None:
            raise fetched.failure.with_traceback(None)
        return questions

    def _user(self, message_id: str) -> str:
        """Return whose message it is: to all others Dify says that there is none."""
        user = self._users.get(message_id)
        if user is None:
            raise Refusal("run_expired", "It is no longer known whose answer this was.")
        return user.decode()

    def _call(self, request: Request, seconds: float) -> Answered:
        limits = msgspec.structs.replace(self._limits, idle_seconds=min(self._limits.idle_seconds, seconds))
        with gevent.Timeout(seconds, Failure("upstream_timeout")):
            opened = self._session.open(request, limits)
            body = read_short(opened, ANSWER_MAX_BYTES)  # a cut one is no JSON
        return Answered(opened.head.status, opened.head.headers, body)
