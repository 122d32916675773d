"""Uploads: one file for a question to come, checked and passed on to the upstream's app."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import gevent
import msgspec
from flask import Blueprint, Request, Response, request
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import parse_form_data

from streaming.web.relay import current_caller, current_relay
from streaming.web.streams import json_response
from streaming.web.upload_slots import Slot
from streaming.wire.ask import AskError, Name, checked
from streaming.wire.errors import Refusal

BODY_SECONDS = 150.0  # against uploads that trickle for ever; 15 MiB come in this time at 1 Mbit/s
FORM_MAX_BYTES = 128 * 1024  # around the file: its head and the fields. Werkzeug's own 64 KiB of buffer count too
PARTS_MAX = 10  # there are four fields
SPOOL_BYTES = 512 * 1024  # of a file in memory, the rest on disk
PIECE_BYTES = 64 * 1024

files = Blueprint("files", __name__)


class UploadFields(msgspec.Struct):
    """The fields beside the file: the ask that it is for names the same ones."""

    user: Name | None = None
    upstream: Name | None = None
    conversation_id: Name | None = None


@files.post("/files")
def upload() -> Response:
    """Store a file at the upstream's app, for an ask's `files` or a file input."""
    relay, caller = current_relay(), current_caller()
    if not relay.apps.any:
        raise Refusal("not_supported", "No upstream of this relay takes files.")
    with (
        relay.upload_slots.taken() as slot,
        _received(request, relay.max_upload_bytes, slot) as (name, content, fields),
    ):
        uploaded = relay.apps.upload(
            name,
            content,
            upstream=fields.upstream,
            conversation_id=fields.conversation_id,
            user=fields.user,
            caller=caller,
        )
    return json_response(uploaded, 201)


class _Spool(SpooledTemporaryFile[bytes]):
    """A file as it comes in: small ones in memory. Lets others run: a fast client never makes the reading wait."""

    def __init__(self, slot: Slot) -> None:
        super().__init__(max_size=SPOOL_BYTES)
        self._slot = slot

    def write(self, data: Any) -> int:
        gevent.sleep(0)
        self._slot.received_bytes += len(data)
        return super().write(data)


class _Content:
    """See dialects.Pieces."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size_bytes = file.seek(0, 2)

    def __len__(self) -> int:
        return self._size_bytes

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(PIECE_BYTES):
            yield piece
            gevent.sleep(0)


@contextmanager
def _received(request: Request, max_bytes: int, slot: Slot) -> Iterator[tuple[str, _Content, UploadFields]]:
    """Read the form to disk; yield the file's name, its content and the other fields. Raises Refusal, AskError."""
    if request.mimetype != "multipart/form-data":
        raise Refusal("unsupported_media_type", "Send multipart/form-data with the field 'file' (curl: -F file=@name).")
    spools: list[_Spool] = []

    def spool(**_: object) -> _Spool:
        spools.append(_Spool(slot))
        return spools[-1]

    try:
        with slot.receiving():
            texts, sent = _parsed(request, spool, max_bytes)
        file = _only_file([file for _, file in sent.items(multi=True)], "file" in texts)
        content = _Content(file.stream)
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
        if not len(content):
            raise AskError("field 'file' is empty", "file")
        fields = {name: text for name, text in texts.items() if text and name in UploadFields.__struct_fields__}
        yield file.filename or "", content, checked(fields, UploadFields)
    finally:
        for each in spools:
            each.close()


def _parsed(
    request: Request, spool: Callable[..., _Spool], max_bytes: int
) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
    try:
        with gevent.Timeout(BODY_SECONDS, Refusal("request_timeout", "The upload did not come in time.")):
            _, texts, sent = parse_form_data(
                request.environ,
                spool,
                max_form_memory_size=FORM_MAX_BYTES,
                max_content_length=max_bytes + FORM_MAX_BYTES,
                silent=False,
                max_form_parts=PARTS_MAX,
            )
    except RequestEntityTooLarge:
        raise _too_large(max_bytes) from None
    except ValueError:
        raise Refusal("bad_request", "The form is not well-formed, or it broke off.") from None
    return texts, sent


def _only_file(sent: list[FileStorage], sent_as_text: bool) -> FileStorage:
    if not sent:
        hint = ": it must be sent with a file name (curl: -F file=@name)" if sent_as_text else ""
        raise AskError(f"field 'file' is missing{hint}", "file")
    if len(sent) > 1 or sent[0].name != "file":
        raise AskError("send one file at a time, as the field 'file'", "file")
    return sent[0]


def _too_large(max_bytes: int) -> Refusal:
    return Refusal("file_too_large", f"This relay takes files of up to {max_bytes} bytes (MAX_UPLOAD_BYTES).")
