"""Conversations: the history of upstreams that keep none, and the other name of those that do (Dify).

Only turns that ended well enter the history. One unfinished run a conversation.
"""

import hashlib
import secrets
from collections.abc import Callable

import msgspec

from streaming.relay.store import Keys, Store
from streaming.relay.upstream import Upstream
from streaming.wire.ask import Ask, Context, Message
from streaming.wire.errors import Refusal

CLAIMS = "conversation-runs"
"""The keys of conversations that have an unfinished run: its id, a space, the conversation's owner."""

HISTORY_MAX_BYTES = 1024 * 1024
"""Against one conversation filling the memory; more text than this fits into no model's context."""


QUESTION_KEPT_CHARACTERS = 10_000
"""Of an ended run's question, for the page without JavaScript: ended runs are kept for an hour, thousands of them."""


class Conversation(msgspec.Struct):
    """What is kept of one conversation. `owner` None = whoever holds its id."""

    id: str
    owner: str | None
    upstream: str
    user: str
    turns: list[tuple[Message, Message]] = []  # question, answer; the oldest first. Of Dify's, to be shown alone
    upstream_id: str | None = None  # the upstream's own conversation id
    last_was_lost: bool = False  # nothing came of the last ask: there is nothing of it to replace


_decode = msgspec.json.Decoder(Conversation).decode


class Turn(msgspec.Struct):
    """One ask's place in its conversation; `conversation` None where the ask has none."""

    context: Context
    conversation: Conversation | None = None
    replaces_last: bool = False

    @property
    def conversation_id(self) -> str | None:
        """Return our conversation id."""
        return self.conversation.id if self.conversation else None

    def remains(self) -> "Turn":
        """Return what an ended run still shows: its question's beginning. Nothing counts the bytes of the rest."""
        question = Message("user", self.context.messages[-1].text()[:QUESTION_KEPT_CHARACTERS])
        conversation = msgspec.structs.replace(self.conversation, turns=[]) if self.conversation else None
        return Turn(Context(messages=[question], user=self.context.user), conversation)


class Conversations:
    """Finds, locks and extends conversations, all through the store's keys."""

    def __init__(
        self,
        store: Store,
        *,
        ttl_seconds: float,
        max_turns: int,
        claim_seconds: float,
        is_over: Callable[[str], bool] = lambda run_id: False,
    ) -> None:
        self._kept = store.keys("conversations")
        self._claims = store.keys(CLAIMS)
        self._is_over = is_over  # of a run whose claim is there: its worker may have died
        self._ttl_seconds = ttl_seconds
        self._max_turns = max_turns
        self._claim_seconds = claim_seconds  # longer than any run

    def find(self, conversation_id: str | None, owner: str | None) -> Conversation | None:
        """Return the conversation, None where none is named. Raises Refusal("conversation_not_found")."""
        if conversation_id is None:
            return None
        value = self._kept.get(conversation_id)
        conversation = _decode(value) if value is not None else None
        if conversation is None and self._is_claimed(conversation_id, owner):
            raise _busy()  # its first turn is not over
        if conversation is None or conversation.owner not in {None, owner}:
            raise Refusal("conversation_not_found", "No such conversation, or it has expired; begin a new one.")
        return conversation

    def transcript(self, conversation_id: str | None, owner: str | None) -> list[tuple[Message, Message]] | None:
        """Return the turns of a conversation, None where there is none (yet) under this id and owner."""
        value = self._kept.get(conversation_id) if conversation_id is not None else None
        conversation = _decode(value) if value is not None else None
        return conversation.turns if conversation and conversation.owner in {None, owner} else None

    def turn(self, ask: Ask, conversation: Conversation | None, upstream: Upstream, owner: str | None) -> Turn:
        """Return the ask's turn in its conversation, in a new one, or in none. Raises Refusal("bad_request")."""
        if ask.messages is not None or upstream.history == "none":
            messages = ask.messages or [Message("user", ask.prompt or "")]
            return Turn(Context(messages=messages, user=ask.user or anonymous_user(secrets.token_urlsafe())))
        if conversation is None:
            id_ = secrets.token_urlsafe(16)
            user = ask.user or anonymous_user(id_)
            conversation = Conversation(id=id_, owner=owner, upstream=upstream.name, user=user)
        elif upstream.history == "upstream" and conversation.upstream != upstream.name:
            raise Refusal("bad_request", f"This conversation lives at the upstream '{conversation.upstream}'.")
        replaces_last = ask.replace_last and not conversation.last_was_lost
        turns = conversation.turns[:-1] if replaces_last else conversation.turns
        if upstream.history == "upstream":
            turns = []
        context = Context(
            messages=[*(message for turn in turns for message in turn), Message("user", ask.prompt or "")],
            conversation_id=conversation.upstream_id,
            user=ask.user or conversation.user,
        )
        return Turn(context, conversation, replaces_last)

    def claim(self, turn: Turn, run_id: str) -> None:
        """Lock the conversation for a run. Raises Refusal("conversation_busy")."""
        if turn.conversation is None:
            return
        id_, value = turn.conversation.id, _claim(turn.conversation, run_id)
        there = self._claims.claim(id_, value, self._claim_seconds)
        if there is not None and self._is_over(_run_id(there)):
            self._claims.delete(id_, there)
            there = self._claims.claim(id_, value, self._claim_seconds)
        if there is not None:
            raise _busy()

    def _is_claimed(self, conversation_id: str, owner: str | None) -> bool:
        there = self._claims.get(conversation_id)
        if there is None or there.partition(b" ")[2] != (owner or "").encode():
            return False
        return not self._is_over(_run_id(there))

    def release(self, turn: Turn, run_id: str) -> None:
        """Unlock the conversation, if it is this run that locked it."""
        if turn.conversation is not None:
            self._claims.delete(turn.conversation.id, _claim(turn.conversation, run_id))

    def extend(self, turn: Turn, answer: str, upstream_id: str | None) -> None:
        """Add a turn that ended well to the history."""
        conversation = turn.conversation
        if conversation is None:
            return
        conversation.last_was_lost = not answer
        if turn.replaces_last:
            del conversation.turns[-1:]
        if answer:  # else stopped before the first token: some APIs refuse empty messages
            conversation.turns.append((turn.context.messages[-1], Message("assistant", answer)))
        conversation.upstream_id = upstream_id
        del conversation.turns[: -self._max_turns]
        value = msgspec.json.encode(conversation)
        while len(value) > HISTORY_MAX_BYTES and len(conversation.turns) > 1:
            del conversation.turns[0]
            value = msgspec.json.encode(conversation)
        self._kept.put(conversation.id, value, self._ttl_seconds)

    def lose(self, turn: Turn) -> None:
        """Note that a turn of an existing conversation failed; an attempt to replace the last turn leaves it."""
        conversation = turn.conversation
        if conversation is not None and not turn.replaces_last and self._kept.get(conversation.id) is not None:
            conversation.last_was_lost = True
            self._kept.put(conversation.id, msgspec.json.encode(conversation), self._ttl_seconds)


def release(claims: Keys, conversation_id: str, run_id: str) -> None:
    """Unlock a conversation, if it is this run that locked it."""
    there = claims.get(conversation_id)
    if there is not None and _run_id(there) == run_id:
        claims.delete(conversation_id, there)


def _claim(conversation: Conversation, run_id: str) -> bytes:
    return f"{run_id} {conversation.owner or ''}".encode()


def _run_id(claim: bytes) -> str:
    return claim.partition(b" ")[0].decode()


def _busy() -> Refusal:
    return Refusal("conversation_busy", "This conversation has an unfinished run; stop it or wait for its end.")


def anonymous_user(secret: str) -> str:
    """Return an end-user name for Dify, stable for a conversation. Its id opens it, so only a hash leaves the relay."""
    return f"sluice-{hashlib.sha256(secret.encode()).hexdigest()[:16]}"
