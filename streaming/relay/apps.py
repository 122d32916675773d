"""What pages need of upstreams besides answers, for those that have it: Dify's apps."""

import secrets
import time
from collections.abc import Mapping, Sequence

import msgspec

from streaming.relay.allowance import Allowance
from streaming.relay.caller import Caller
from streaming.relay.conversations import Conversations, anonymous_user
from streaming.relay.dify_calls import DifyCalls
from streaming.relay.owners import Owners
from streaming.relay.run import Run
from streaming.wire.dialects import Pieces
from streaming.wire.dialects.dify_app import Parameters
from streaming.wire.dialects.dify_files import USUAL, Upload, clean_name, kind_of, media_type_of
from streaming.wire.errors import Refusal
from streaming.wire.trace import Trace

PARAMETERS_WAIT_SECONDS = 2.0  # a page waits for them; one that shows later what it can ask is better than none
SUGGESTED_WAIT_SECONDS = 20.0  # below what routers cut


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """A file that can go with an ask: `id` is its `upload_file_id`, `kind` its `type`; the ask needs the same `user`.

    `size` in bytes.
    """

    id: str
    name: str
    size: int
    kind: str
    mime_type: str
    user: str
    upstream: str


class Apps:
    """The apps behind upstreams. `names` are all upstreams in their order, `calls` the apps among them."""

    def __init__(
        self,
        names: Sequence[str],
        calls: Mapping[str, DifyCalls],
        conversations: Conversations,
        *,
        allowance: Allowance,
        owners: Owners,
    ) -> None:
        self._names = names
        self._calls = calls
        self._conversations = conversations
        self._allowance = allowance
        self._owners = owners

    def parameters(self) -> dict[str, Parameters | None]:
        """Return what each upstream tells of itself; None = it could not be asked within PARAMETERS_WAIT_SECONDS."""
        deadline = time.monotonic() + PARAMETERS_WAIT_SECONDS
        for calls in self._calls.values():  # all at once
            calls.parameters(0)
        return {
            name: self._calls[name].parameters(max(0.0, deadline - time.monotonic()))
            if name in self._calls
            else Parameters()  # a bare model has nothing to tell
            for name in self._names
        }

    @property
    def any(self) -> bool:
        """Return whether there is an app at all."""
        return bool(self._calls)

    def upload(
        self,
        name: str,
        content: Pieces,
        *,
        upstream: str | None,
        conversation_id: str | None,
        user: str | None,
        caller: Caller,
    ) -> Uploaded:
        """Store a file for an ask that names the same upstream, conversation and user. Raises Failure, Refusal.

        A file belongs to a user: the one that is named, the conversation's, or a new one. `name` may be a client's own.
        """
        self._allowance.charge_rate(caller)
        conversation = self._conversations.find(conversation_id, caller.owner)
        upstream = upstream or (conversation.upstream if conversation else self._names[0])
        calls = self._app(upstream, "files")
        if user is None:
            user = conversation.user if conversation else anonymous_user(secrets.token_urlsafe())
        parameters = calls.parameters(PARAMETERS_WAIT_SECONDS)
        limits = parameters.uploads() if parameters else USUAL
        if not limits.kinds:
            raise Refusal("not_supported", f"The app of the upstream '{upstream}' takes no files.")
        name = clean_name(name)
        kind, allowed = kind_of(name, limits)
        if allowed.max_bytes is not None and len(content) > allowed.max_bytes:
            raise Refusal("file_too_large", f"The file is larger than the Dify app takes ({allowed.max_bytes} bytes).")
        stored = calls.upload(Upload(name=name, media_type=media_type_of(name), content=content), user, caller.trace)
        self._owners.note_file(stored.id, caller.owner)
        return Uploaded(
            id=stored.id,
            name=stored.name,
            size=stored.size,
            kind=kind,
            mime_type=stored.mime_type,
            user=user,
            upstream=upstream,
        )

    def rate(self, run: Run, rating: str | None, content: str | None, trace: Trace | None = None) -> None:
        """Rate a run's answer; `rating` None takes it back. Raises Failure, Refusal."""
        calls, message_id = self._message(run, "ratings")
        calls.rate(message_id, rating, content, trace)

    def suggested(self, run: Run) -> list[str] | None:
        """Return questions to go on with after a run's answer; None = not yet. Raises Failure, Refusal."""
        calls, message_id = self._message(run, "suggested questions")
        parameters = calls.parameters(PARAMETERS_WAIT_SECONDS)
        if parameters is not None and not parameters.suggests:
            raise Refusal("not_supported", "This Dify app suggests no questions after an answer.")
        return calls.suggested(message_id, SUGGESTED_WAIT_SECONDS)

    def _message(self, run: Run, what: str) -> tuple[DifyCalls, str]:
        if run.end is None:
            raise Refusal("run_unfinished", "This run has not ended yet.")
        answered_by = run.answer().upstream
        calls = self._app(answered_by.name if answered_by else self._names[0], what)
        message_id = run.end.metadata.get("message_id")
        if not isinstance(message_id, str):
            raise Refusal("not_supported", f"There are no {what} for this run: its upstream made no message of it.")
        return calls, message_id

    def _app(self, upstream: str, what: str) -> DifyCalls:
        if upstream not in self._names:
            raise Refusal("unknown_upstream", f"Field 'upstream': known are {', '.join(self._names)}.")
        if upstream not in self._calls:
            raise Refusal("not_supported", f"The upstream '{upstream}' has no {what}.")
        return self._calls[upstream]
