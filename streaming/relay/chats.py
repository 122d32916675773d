"""What belongs to a chat of somebody else's page: AI SDK pages know their own chat ids alone.

Whoever holds a run's id may read and stop the run, so it must not be had for a guess at a chat id: each caller has chat
ids of its own, and an anonymous one's must be hard to guess.
"""

import msgspec

from streaming.relay.store import Store

ANONYMOUS_MIN_CHARACTERS = 16
"""The length of the ids that the AI SDK makes; "1" or "main" would be the chat of every visitor."""


class Chat(msgspec.Struct, frozen=True):
    """A chat's last run, and our conversation at the upstream of that name (as asked for; None = the usual one)."""

    run_id: str
    conversation_id: str | None = None
    upstream: str | None = None


_decode = msgspec.json.Decoder(Chat).decode


class Chats:
    """Finds the run of a chat, and the message that a run goes on with."""

    def __init__(self, store: Store, *, ttl_seconds: float) -> None:
        self._chats = store.keys("chats")
        self._continued = store.keys("continued-messages")
        self._ttl_seconds = ttl_seconds

    def find(self, chat_id: str | None, owner: str | None) -> Chat | None:
        """Return what is known of the caller's chat."""
        key = _key(chat_id, owner)
        value = self._chats.get(key) if key is not None else None
        return _decode(value) if value is not None else None

    def note(self, chat_id: str | None, owner: str | None, chat: Chat) -> None:
        """Remember the chat's last run."""
        if (key := _key(chat_id, owner)) is not None:
            self._chats.put(key, msgspec.json.encode(chat), self._ttl_seconds)

    def continued(self, run_id: str) -> str | None:
        """Return the id of the message that the run goes on with, None = its answer is a new message."""
        value = self._continued.get(run_id)
        return value.decode() if value is not None else None

    def note_continued(self, run_id: str, message_id: str) -> None:
        """Remember which message the run goes on with: every subscriber is told the same."""
        self._continued.put(run_id, message_id.encode(), self._ttl_seconds)


def _key(chat_id: str | None, owner: str | None) -> str | None:
    if chat_id is None or (owner is None and len(chat_id) < ANONYMOUS_MIN_CHARACTERS):
        return None
    return msgspec.json.encode([owner, chat_id]).decode()  # no other pair looks like it
