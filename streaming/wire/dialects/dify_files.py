"""Files for a Dify app: which ones it takes, what they are called, and an upload as a form's body."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streaming.wire.ask import AskError, checked
from streaming.wire.dialects import Pieces
from streaming.wire.errors import Refusal

NAME_MAX_CHARACTERS = 200  # Dify cuts longer ones itself, in versions of its own choosing
COUNT_MAX = 100  # of files for one question, whatever an app says
MEBIBYTE = 1 << 20

_OPENXML = "application/vnd.openxmlformats-officedocument"
# Dify's own lists: its name for a kind -> extension -> media type. A client's own word for the type is not passed on:
# whoever opens the file at Dify would get it back as what the client called it.
TYPES: dict[str, dict[str, str]] = {
    "image": {
        "gif": "image/gif",
        "jpeg": "image/jpeg",
        "jpg": "image/jpeg",
        "png": "image/png",
        "svg": "image/svg+xml",
        "webp": "image/webp",
    },
    "document": {
        "csv": "text/csv",
        "doc": "application/msword",
        "docx": f"{_OPENXML}.wordprocessingml.document",
        "eml": "message/rfc822",
        "epub": "application/epub+zip",
        "htm": "text/html",
        "html": "text/html",
        "markdown": "text/markdown",
        "md": "text/markdown",
        "mdx": "text/markdown",
        "msg": "application/vnd.ms-outlook",
        "pdf": "application/pdf",
        "ppt": "application/vnd.ms-powerpoint",
        "pptx": f"{_OPENXML}.presentationml.presentation",
        "properties": "text/plain",
        "txt": "text/plain",
        "vtt": "text/vtt",
        "xls": "application/vnd.ms-excel",
        "xlsx": f"{_OPENXML}.spreadsheetml.sheet",
        "xml": "application/xml",
    },
    "audio": {
        "amr": "audio/amr",
        "m4a": "audio/mp4",
        "mp3": "audio/mpeg",
        "mpga": "audio/mpeg",
        "wav": "audio/wav",
    },
    "video": {
        "mov": "video/quicktime",
        "mp4": "video/mp4",
        "mpeg": "video/mpeg",
        "webm": "video/webm",
    },
}
_MEDIA_TYPES = {extension: media_type for types in TYPES.values() for extension, media_type in types.items()}
_ACTIVE = {"svg", "htm", "html", "mdx", "xml"}  # can hold scripts: only where the app is known to want them


class FileKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of file: lower-case extensions without a dot, and the largest size; None = the upstream tells none."""

    extensions: list[str]
    max_bytes: int | None = None


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What files may go with a question. `max_count` 0 = none. `kinds` by the name that an ask's `files` use."""

    max_count: int
    transfer_methods: list[str]  # local_file (uploaded), remote_url
    kinds: dict[str, FileKind]


NO_FILES = FileLimits(max_count=0, transfer_methods=[], kinds={})

USUAL = FileLimits(
    max_count=COUNT_MAX,
    transfer_methods=["local_file"],
    kinds={kind: FileKind(extensions=sorted(types.keys() - _ACTIVE)) for kind, types in TYPES.items()},
)
"""What is let through to an app that has not told what it takes."""


def kind_of(name: str, limits: FileLimits) -> tuple[str, FileKind]:
    """Return a file's kind by its name. Raises Refusal("unsupported_file_type")."""
    extension = _extension(name)
    for kind, allowed in limits.kinds.items():
        if extension in allowed.extensions:
            return kind, allowed
    known = sorted({each for allowed in limits.kinds.values() for each in allowed.extensions})
    raise Refusal("unsupported_file_type", f"Files of this type are not taken; taken are: {', '.join(known)}.")


def media_type_of(name: str) -> str:
    """Return the media type that belongs to the name's extension."""
    return _MEDIA_TYPES.get(_extension(name), "application/octet-stream")


def _extension(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return extension.lower() if dot and stem else ""


def clean_name(name: str) -> str:
    """Return a client's file name without folders, quotes, control and invisible characters, and not too long.

    >>> clean_name("../../etc/pass\\x00wd.txt")
    'passwd.txt'
    """
    name = name.replace("\\", "/").rpartition("/")[2].replace('"', "'")
    name = "".join(character for character in name if character.isprintable()).strip(" .")
    if len(name) > NAME_MAX_CHARACTERS:
        extension = _extension(name)[:20]
        name = name[: NAME_MAX_CHARACTERS - len(extension) - 1] + (f".{extension}" if extension else "")
    return name or "file"


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A file on its way to an app. `name` is a clean one: it goes into a header as it is."""

    name: str
    media_type: str
    content: Pieces


class Multipart:
    """An upload as a multipart form with a `user` field. `boundary` must not occur in it: a random one."""

    def __init__(self, upload: Upload, user: str, boundary: str) -> None:
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="user"\r\n\r\n{user}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{upload.name}"\r\n'
            f"Content-Type: {upload.media_type}\r\n\r\n"
        ).encode("utf-8", "replace")
        self._content = upload.content
        self._tail = f"\r\n--{boundary}--\r\n".encode()

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._content
        yield self._tail

    def __len__(self) -> int:
        return len(self._head) + len(self._content) + len(self._tail)


class _Reference(msgspec.Struct):
    type: Literal["image", "document", "audio", "video", "custom"]
    transfer_method: Literal["remote_url", "local_file"]
    url: Annotated[str, Meta(pattern="^https?://[^/]", max_length=8192)] | None = None
    upload_file_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class _References(msgspec.Struct):
    files: list[_Reference]


def check_references(files: list[dict[str, Any]]) -> None:
    """Raise AskError where an ask's `files` are not what Dify takes; what else they hold goes to Dify as it is."""
    for number, reference in enumerate(checked({"files": files}, _References).files):
        needed = "url" if reference.transfer_method == "remote_url" else "upload_file_id"
        if getattr(reference, needed) is None:
            field = f"files[{number}].{needed}"
            raise AskError(f"field '{field}' is missing: a '{reference.transfer_method}' file has one", field)
