"""Uploads through a live relay to a Dify app, well-meant and not."""

import io
import json
import queue
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
import pytest
import requests
from flask import Flask

from streaming.web import errors, files
from streaming.web.upload_slots import UPLOADS_AT_ONCE, Slot
from tests.leaks import descriptors, worker_pid
from tests.live import Call, Relay, wait_until
from tests.scripted_dify import FILE_ID, Dify, as_json, form_of
from tests.web.client import read_head

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
LIMIT_BYTES = 3 << 20


def upload(server: Relay, *sent: tuple[Any, ...], **fields: Any) -> requests.Response:
    """Upload files, each (name, content) or (name, content, media type), as the field `file`."""
    return requests.post(f"{server.url}/files", files=[("file", each) for each in sent], data=fields, timeout=30)


def raw(server: Relay, body: bytes, content_type: str = "multipart/form-data; boundary=b") -> requests.Response:
    return requests.post(f"{server.url}/files", data=body, headers={"Content-Type": content_type}, timeout=30)


def part(disposition: str, content: bytes = b"x", *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--b\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


def refused(response: requests.Response, status: int, code: str) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["request_id"] == response.headers["X-Request-Id"]
    return str(error["message"])


# -- well-meant --------------------------------------------------------------------------------------------------------


def test_a_file_reaches_the_app_and_goes_with_the_next_ask(dify_server: Relay, dify: Dify) -> None:
    answer = upload(dify_server, ("cat.png", PNG, "text/html"))
    uploaded = answer.json()
    assert answer.status_code == 201
    assert uploaded == {
        "id": FILE_ID,
        "name": "cat.png",
        "size": len(PNG),
        "kind": "image",
        "mime_type": "image/png",
        "user": uploaded["user"],
        "upstream": "app",
    }
    form = form_of(dify.calls("upload")[0])
    assert form["file"] == ({"name": "file", "filename": "cat.png", "type": "image/png"}, PNG)
    assert form["user"] == uploaded["user"]
    file = {"type": uploaded["kind"], "transfer_method": "local_file", "upload_file_id": uploaded["id"]}
    ask = {"prompt": "what is this?", "files": [file], "user": uploaded["user"]}
    requests.post(f"{dify_server.url}/stream?format=json", json=ask, timeout=20)
    body = json.loads(dify.calls("chat-messages")[0].body)
    assert (body["user"], body["files"]) == (uploaded["user"], [file])


def test_a_file_for_a_conversation_belongs_to_its_user(dify_server: Relay, dify: Dify) -> None:
    run = requests.post(f"{dify_server.url}/stream?format=json", json={"prompt": "hi"}, timeout=20).json()
    uploaded = upload(dify_server, ("a.pdf", b"%PDF"), conversation_id=run["conversation_id"]).json()
    asked_as = json.loads(dify.calls("chat-messages")[0].body)["user"]
    assert uploaded["user"] == form_of(dify.calls("upload")[0])["user"] == asked_as


def test_a_file_larger_than_other_bodies_arrives_whole(dify_server: Relay, dify: Dify) -> None:
    """Of all sizes around the pieces in which it is read: a boundary that is cut must not be lost or doubled."""
    for size in (1, 64 * 1024 - 1, 64 * 1024, 512 * 1024 + 1, 2 << 20):
        content = (b"\r\n--b\r\n" * (size // 7 + 1))[:size]
        assert upload(dify_server, ("a.txt", content)).status_code == 201
        assert form_of(dify.arrived["upload"].get(timeout=20))["file"][1] == content


def test_a_chunked_upload_arrives(dify_server: Relay, dify: Dify) -> None:
    body = part('name="file"; filename="a.txt"', b"hello") + b"--b--\r\n"
    pieces = (body[n : n + 7] for n in range(0, len(body), 7))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = requests.post(f"{dify_server.url}/files", data=pieces, headers=headers, timeout=20)
    assert answer.status_code == 201
    assert form_of(dify.calls("upload")[0])["file"][1] == b"hello"


# -- not so well-meant -------------------------------------------------------------------------------------------------

NAMES = [
    ("../../../etc/cron.d/evil.png", "evil.png"),
    ("a\x00b.png", "ab.png"),
    ("x" * 5000 + ".png", "x" * 196 + ".png"),
    ("猫.png", "猫.png"),
    ("\u202egnp.jpg", "gnp.jpg"),
]


@pytest.mark.parametrize(("name", "clean"), NAMES)
def test_a_file_name_reaches_the_app_clean(name: str, clean: str, dify_server: Relay, dify: Dify) -> None:
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"'.encode()
    answer = raw(dify_server, b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--\r\n")
    assert (answer.status_code, answer.json()["name"]) == (201, clean)
    assert form_of(dify.calls("upload")[0])["file"][0]["filename"] == clean


@pytest.mark.parametrize("name", ["a.exe", "a.html.exe", "a.sh", "a", "", ".png", "a.png/", "a.php;.png\x00.php"])
def test_other_types_are_refused(name: str, dify_server: Relay, dify: Dify) -> None:
    message = refused(
        raw(dify_server, part(f'name="file"; filename="{name}"') + b"--b--"), 415, "unsupported_file_type"
    )
    assert "png" in message
    assert dify.calls("upload") == []


END = b"--b--\r\n"
FILE = part('name="file"; filename="a.png"')
BAD_FORMS = {
    "nothing": (b"", "form"),
    "no parts": (END, "'file'"),
    "no file": (part('name="user"') + END, "'file'"),
    "a file without a name": (part('name="file"') + END, "file name"),
    "another field": (part('name="upload"; filename="a.png"') + END, "'file'"),
    "two files": (FILE + FILE + END, "one file"),
    "two files of two fields": (FILE + part('name="image"; filename="a.png"') + END, "one file"),
    "an empty file": (part('name="file"; filename="a.png"', b"") + END, "empty"),
    "no end": (FILE, "form"),
    "cut in a head": (b"--b\r\nContent-Disposition: form-da", "form"),
    "no disposition": (b"--b\r\nX: y\r\n\r\nx\r\n" + END, "form"),
    "a part without a name": (part('filename="a.png"') + END, "'file'"),
    "a head that is not UTF-8": (b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n' + END, "form"),
    "a long user": (FILE + part('name="user"', b"u" * 257) + END, "'user'"),
    "a long upstream": (FILE + part('name="upstream"', b"u" * 300) + END, "'upstream'"),
}


@pytest.mark.parametrize("case", BAD_FORMS)
def test_a_form_that_is_wrong_is_refused_with_what_is_wrong(case: str, dify_server: Relay, dify: Dify) -> None:
    body, named = BAD_FORMS[case]
    assert named in refused(raw(dify_server, body), 400, "bad_request")
    assert dify.calls("upload") == []


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/x-www-form-urlencoded", "image/png", "multipart/mixed; boundary=b", ""],
)
def test_other_bodies_are_refused(content_type: str, dify_server: Relay) -> None:
    refused(raw(dify_server, b"{}", content_type), 415, "unsupported_media_type")


def test_a_form_without_a_boundary_is_refused(dify_server: Relay) -> None:
    refused(raw(dify_server, FILE + END, "multipart/form-data"), 400, "bad_request")
    refused(raw(dify_server, FILE + END, "multipart/form-data; boundary=\xe4".encode("latin-1")), 400, "bad_request")  # type: ignore[arg-type]


def test_what_is_too_large_is_refused_with_an_answer(dify_server: Relay, dify: Dify) -> None:
    assert str(LIMIT_BYTES) in refused(upload(dify_server, ("a.mp4", b"x" * (LIMIT_BYTES + 1))), 413, "file_too_large")
    refused(upload(dify_server, ("a.txt", b"x" * (16 << 20))), 413, "file_too_large")
    refused(upload(dify_server, ("a.txt", b"x" * ((2 << 20) + 1))), 413, "file_too_large")  # the app's own limit
    chunked = (b"x" * 65536 for _ in range(100))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = requests.post(f"{dify_server.url}/files", data=_form_of(chunked), headers=headers, timeout=20)
    refused(answer, 413, "file_too_large")
    assert dify.calls("upload") == []


def test_a_chunked_upload_that_never_ends_is_refused_where_it_becomes_too_large(dify_server: Relay) -> None:
    with socket.create_connection(("127.0.0.1", dify_server.port), timeout=20) as connection:
        head = b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in (FILE[:-2], *[b"x" * 65536] * 64):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        assert read_head(connection).status == 413


def _form_of(content: Any) -> Any:
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    yield from content
    yield b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"".join(part(f'name="f{n}"') for n in range(50)) + FILE + END,  # many fields
        part('name="user"', b"u" * (1 << 20)) + FILE + END,  # a field that is held in memory
        b"--b\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n",  # a head that never ends
        b"p" * (1 << 20),  # no form at all, for ever
        FILE + END + b"e" * (1 << 20),  # and something behind it
    ],
    ids=["parts", "field", "head", "preamble", "epilogue"],
)
def test_a_form_that_fills_the_memory_is_refused(body: bytes, dify_server: Relay, dify: Dify) -> None:
    refused(raw(dify_server, body), 413, "file_too_large")
    assert dify.calls("upload") == []


def test_a_user_that_looks_like_a_form_stays_one_field(dify_server: Relay, dify: Dify) -> None:
    lines = 'u\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="x.exe"\r\n\r\nMZ'
    assert "'user'" in refused(upload(dify_server, ("a.png", PNG), user=lines), 400, "bad_request")
    user = '--b Content-Disposition: form-data; name="file"; filename="x.exe"'
    assert upload(dify_server, ("a.png", PNG), user=user).status_code == 201
    form = form_of(dify.calls("upload")[0])
    assert form["file"] == ({"name": "file", "filename": "a.png", "type": "image/png"}, PNG)
    assert form["user"] == user


def test_upstreams_without_files_say_so(dify_server: Relay, server: Relay) -> None:
    refused(upload(dify_server, ("a.png", PNG), upstream="demo"), 400, "not_supported")
    refused(upload(dify_server, ("a.png", PNG), upstream="x"), 400, "unknown_upstream")
    refused(upload(dify_server, ("a.png", PNG), conversation_id="x"), 404, "conversation_not_found")
    refused(upload(server, ("a.png", PNG)), 400, "not_supported")
    refused(upload(server, ("a.png", b"x" * (2 << 20))), 400, "not_supported")  # unread, and answered all the same
    refused(requests.get(f"{server.url}/files", timeout=20), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("status", "body", "code", "shown"),
    [
        (413, {"code": "file_too_large"}, "file_too_large", 413),
        (415, {"code": "unsupported_file_type"}, "unsupported_file_type", 415),
        (401, {"code": "unauthorized"}, "upstream_auth", 502),
        (400, {"code": "invalid_param"}, "upstream_rejected", 400),
        (500, {"code": "internal_server_error"}, "upstream_failed", 502),
        (503, {}, "upstream_busy", 503),
        (201, {}, "upstream_invalid", 502),
    ],
)
def test_what_dify_says_against_a_file_is_told_in_words_of_ours(
    status: int, body: dict[str, str], code: str, shown: int, dify_server: Relay, dify: Dify
) -> None:
    dify.routes["upload"] = lambda call: as_json(call, status, {**body, "message": "secret /srv/dify"})
    assert "secret" not in refused(upload(dify_server, ("a.png", PNG)), shown, code)
    assert "secret" not in dify_server.log()


def test_many_at_once_are_refused_with_advice_and_leave_nothing_behind(dify_server: Relay, dify: Dify) -> None:
    """Files that wait for Dify lie on disk; how many is bounded, and what lay there is gone when they are over."""
    go: queue.Queue[None] = queue.Queue()
    well = dify.routes["upload"]

    def held(call: Call) -> None:
        go.get(timeout=20)
        well(call)

    dify.routes["upload"] = held
    before = _spooled(dify_server)
    answers: list[requests.Response] = []
    sent = ("a.txt", b"x" * (1 << 20))
    threads = [threading.Thread(target=lambda: answers.append(upload(dify_server, sent))) for _ in range(16)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(dify.calls("upload")) == 16, "all are with Dify")
    assert _spooled(dify_server) == before + 16
    one_more = upload(dify_server, sent)
    refused(one_more, 503, "too_many_uploads")
    assert int(one_more.headers["Retry-After"]) > 0
    assert requests.get(f"{dify_server.url}/healthz", timeout=20).status_code == 200
    for _ in threads:
        go.put(None)
    for thread in threads:
        thread.join(20)
    assert [answer.status_code for answer in answers] == [201] * 16
    wait_until(lambda: _spooled(dify_server) == before, "their files are gone")
    dify.routes["upload"] = well
    assert upload(dify_server, sent).status_code == 201


def _spooled(server: Relay) -> int:
    return sum("(deleted)" in link for _, link in descriptors(worker_pid(server)))


def test_uploads_that_trickle_give_way_to_one_that_does_not(dify_server: Relay, dify: Dify) -> None:
    before = _spooled(dify_server)
    head = b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with ExitStack() as stack:
        slow = []
        for _ in range(UPLOADS_AT_ONCE):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", dify_server.port), timeout=20))
            connection.sendall(head + b"Content-Length: 2000000\r\n\r\n" + FILE[:-2] + b"x" * 100_000)
            slow.append(connection)
        wait_until(
            lambda: upload(dify_server, ("a.png", PNG)).status_code == 201, "there is room for one that is quick"
        )
        readable, _, _ = select.select(slow, [], [], 20)
        refusal = read_head(readable[0])
        assert (refusal.status, refusal.json()["error"]["code"]) == (503, "too_many_uploads")
        assert set(select.select(slow, [], [], 0)[0]) <= {readable[0]}  # the others go on
    wait_until(lambda: _spooled(dify_server) == before, "their files are gone")
    assert len(dify.calls("upload")) == 1
    assert "Traceback" not in dify_server.log()


def test_a_client_that_leaves_in_the_middle_costs_no_call(dify_server: Relay, dify: Dify) -> None:
    before = _spooled(dify_server)
    for _ in range(20):  # more than there may be at once
        with socket.create_connection(("127.0.0.1", dify_server.port), timeout=20) as connection:
            head = b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            connection.sendall(head + b"Content-Length: 1000000\r\n\r\n" + FILE[:-2] + b"x" * 600_000)
    wait_until(lambda: upload(dify_server, ("a.png", PNG)).status_code == 201, "there is room again")
    wait_until(lambda: _spooled(dify_server) == before, "their files are gone")
    assert len(dify.calls("upload")) == 1
    assert "Traceback" not in dify_server.log()


def test_a_badly_chunked_upload_is_refused(dify_server: Relay, dify: Dify) -> None:
    with socket.create_connection(("127.0.0.1", dify_server.port), timeout=20) as connection:
        head = b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert read_head(connection).status == 400
    assert dify.calls("upload") == []


# -- what a live client cannot show in reasonable time -----------------------------------------------------------------


class Trickle(io.RawIOBase):
    """A body of which a byte comes now and then."""

    def __init__(self) -> None:
        self.reads = 0

    def readinto(self, buffer: Any) -> int:
        gevent.sleep(0.01)
        self.reads += 1
        buffer[:1] = b"x"
        return 1

    def readable(self) -> bool:
        return True


@contextmanager
def received(body: io.RawIOBase | io.BytesIO, length: int) -> Iterator[Any]:
    """What _received yields for a body that no server is between."""
    app = Flask(__name__)
    errors.install(app)
    environ = {
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": str(length),
        "CONTENT_TYPE": "multipart/form-data; boundary=b",
    }
    with app.test_request_context("/files", method="POST", environ_overrides=environ) as context:
        with files._received(context.request, LIMIT_BYTES, Slot()) as form:
            yield form


def test_an_upload_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BODY_SECONDS", 0.1)
    body = Trickle()
    with pytest.raises(errors.Refusal) as caught, received(body, 100_000):
        pass
    assert (caught.value.code, caught.value.status) == ("request_timeout", 408)
    assert body.reads > 1


def test_an_upload_that_is_read_and_sent_without_waiting_lets_others_run() -> None:
    turns = 0

    def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    greenlet = gevent.spawn(other)
    body = part('name="file"; filename="a.txt"', b"x" * (2 << 20)) + END
    try:
        with received(io.BytesIO(body), len(body)) as (_, content, _):
            assert turns >= 30  # a piece has 64 KiB
            turns = 0
            assert sum(map(len, content)) == len(content) == 2 << 20
            assert turns >= 30
    finally:
        greenlet.kill()
