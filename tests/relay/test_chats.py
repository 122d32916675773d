"""Whose chat an id names: the caller's own, and an anonymous one's only where it is hard to guess."""

import itertools

import pytest

from streaming.relay.chats import ANONYMOUS_MIN_CHARACTERS, Chat, Chats
from streaming.relay.stores.memory import MemoryStore

LONG = "x" * ANONYMOUS_MIN_CHARACTERS
CHAT = Chat("run-1", "conversation-1", "main")


def chats() -> Chats:
    return Chats(MemoryStore(), ttl_seconds=60)


@pytest.mark.parametrize(("chat_id", "owner"), [(LONG, None), (LONG, "key-1"), ("1", "key-1"), ("你好\0", "key-1")])
def test_a_caller_finds_the_last_run_of_the_chat(chat_id: str, owner: str | None) -> None:
    kept = chats()
    assert kept.find(chat_id, owner) is None
    kept.note(chat_id, owner, Chat("run-0"))
    kept.note(chat_id, owner, CHAT)
    assert kept.find(chat_id, owner) == CHAT


def test_an_anonymous_id_that_is_easy_to_guess_finds_nothing() -> None:
    kept = chats()
    kept.note(LONG[1:], None, CHAT)
    assert kept.find(LONG[1:], None) is None


def test_a_chat_without_an_id_is_not_remembered() -> None:
    kept = chats()
    kept.note(None, "key-1", CHAT)
    assert kept.find(None, "key-1") is None


def test_nobody_finds_another_callers_chat() -> None:
    """Whatever is put into the ids: these would be one if they were put together carelessly."""
    pairs = [(None, f'","{LONG}'), ("", f'","{LONG}'), ('","', LONG), (None, LONG), ("a", f"b:{LONG}"), ("a:b", LONG)]
    kept = chats()
    for number, (owner, chat_id) in enumerate(pairs):
        kept.note(chat_id, owner, Chat(f"run-{number}"))
    for number, (owner, chat_id) in enumerate(pairs):
        assert kept.find(chat_id, owner) == Chat(f"run-{number}")
    for (owner, _), (_, chat_id) in itertools.product(pairs, pairs):
        assert (kept.find(chat_id, owner) is None) == ((owner, chat_id) not in pairs)


def test_the_message_that_a_run_goes_on_with() -> None:
    kept = chats()
    assert kept.continued("run-1") is None
    kept.note_continued("run-1", "msg-你好")
    assert kept.continued("run-1") == "msg-你好"


def test_what_is_too_old_is_forgotten() -> None:
    kept = Chats(MemoryStore(), ttl_seconds=0)
    kept.note(LONG, None, CHAT)
    assert kept.find(LONG, None) is None
