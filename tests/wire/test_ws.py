"""WebSocket frames, read back by another implementation."""

import json

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Ping, TextMessage

from streaming.wire import jsontext
from streaming.wire.events import Entry, Start, Token
from streaming.wire.formats import Format, writes
from streaming.wire.formats.native import Ndjson
from streaming.wire.formats.ws import Ws, text_frame

RUN_ID = "ab12XYZ"
FORMAT: Format = Ws(RUN_ID, "r")


def read(data: bytes) -> list[str]:
    """Return the texts of whole frames."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    texts = []
    for event in client.events():
        assert isinstance(event, TextMessage)
        assert event.message_finished
        texts.append(event.data)
    return texts


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_frame_of_any_size_is_read_back(size: int) -> None:
    texts = ["x" * size, "好" * (size // 3)]
    assert read(b"".join(text_frame(text.encode()) for text in texts)) == texts


@pytest.mark.parametrize("ref", [None, "a", 0, -(2**53), "\u2028\0\"\\', 👋"])
@pytest.mark.parametrize("text", ["", "\u2028\u0085\0\r\n", "👨‍👩‍👧", "x" * 100_000])
def test_an_event_is_its_ndjson_line_with_the_runs_id_and_the_ref(text: str, ref: str | int | None) -> None:
    entry = Entry(7, "token", jsontext.dumps(Token(text=text)))
    (object_,) = map(json.loads, read(Ws(RUN_ID, ref).encode(entry)))
    assert object_ == {"run_id": RUN_ID, "ref": ref, **json.loads(Ndjson().encode(entry))}
    assert list(object_)[:4] == ["run_id", "ref", "seq", "type"]


def test_no_name_comes_twice_in_a_start() -> None:
    entry = Entry(1, "start", jsontext.dumps(Start(run_id=RUN_ID, conversation_id=None, created=1)))
    (text,) = read(FORMAT.encode(entry))
    assert text.count('"run_id"') == 1
    assert json.loads(text)["run_id"] == RUN_ID


def test_a_write_holds_whole_frames() -> None:
    entries = [Entry(seq, "token", jsontext.dumps(Token(text="x" * 300))) for seq in range(1, 101)]
    found = [[json.loads(text)["seq"] for text in read(data)] for data in writes(FORMAT, entries, FORMAT.opening())]
    assert [seq for write in found for seq in write] == list(range(1, 101))
    assert len(found) < 10


def test_a_ping_is_the_protocols_own() -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(FORMAT.ping())
    assert [type(event) for event in client.events()] == [Ping]
