"""What a Dify app offers besides answers: its parameters, uploads, ratings, suggested questions.

Requests and what their answers mean; see WIRE §1.7. The calls themselves are made by relay/dify_calls.py.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from streaming.wire import jsontext
from streaming.wire.dialects import Request
from streaming.wire.dialects.dify import failure_of
from streaming.wire.dialects.dify_files import (
    COUNT_MAX,
    MEBIBYTE,
    NO_FILES,
    TYPES,
    FileKind,
    FileLimits,
    Multipart,
    Upload,
)
from streaming.wire.dialects.http import endpoint, json_object
from streaming.wire.dialects.openai import auth_headers
from streaming.wire.errors import Failure, Refusal

USUAL_COUNT = 3  # Dify's own default
SUGGESTIONS_MAX = 20  # shown as buttons: more help nobody
_KINDS = {"text-input": "text", "file-list": "files", "json_object": "json"}  # Dify's word -> ours; others are the same
_MADE_BY_DIFY = {"external_data_tool"}  # fields of the form that no person fills in
_BOTH_METHODS = ["local_file", "remote_url"]
_SIZE_LIMITS = {"image": "image_file_size_limit", "audio": "audio_file_size_limit", "video": "video_file_size_limit"}
_EXTENSION = re.compile(r"\.?([A-Za-z0-9_-]{1,20})\Z")
_REFUSED_TYPES = {"unsupported_file_type", "file_extension_blocked"}


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of the input form; `name` is its key in an ask's `inputs`.

    `kind`: text, paragraph, select, number, checkbox, file, files, json, or Dify's own word for what is newer.
    `options` are set for select, `files` for file and files. `max_length` in characters (of `files`: how many), None =
    no limit.
    """

    name: str
    label: str
    kind: str
    required: bool
    options: list[str] | None = None
    max_length: int | None = None
    default: Any = None
    files: FileLimits | None = None


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What an app tells of itself. `files` are those that go with a question, beside the form's own.

    `suggests`: whether it makes questions after each answer.
    """

    opening: str = ""
    suggestions: list[str] = []
    form: list[Field] = []
    files: FileLimits = NO_FILES
    suggests: bool = False

    def uploads(self) -> FileLimits:
        """Return what may be uploaded, for the question or for a field of the form."""
        all_limits = [self.files, *(field.files for field in self.form if field.files is not None)]
        kinds: dict[str, FileKind] = {}
        for limits in all_limits:
            for kind, allowed in limits.kinds.items() if "local_file" in limits.transfer_methods else ():
                before = kinds[kind].extensions if kind in kinds else []
                extensions = sorted({*before, *allowed.extensions})
                kinds[kind] = msgspec.structs.replace(allowed, extensions=extensions)
        return FileLimits(max_count=COUNT_MAX if kinds else 0, transfer_methods=["local_file"], kinds=kinds)


class Stored(msgspec.Struct, frozen=True):
    """An uploaded file, as Dify took it: `id` is for an ask's `files`, `size` in bytes."""

    id: str
    name: str
    size: int
    mime_type: str


class DifyApp:
    """Makes the requests for one app. The user must be the one that asks: Dify shows nobody another's files."""

    def __init__(self, *, url: str, api_key: str | None) -> None:
        self._url = url
        self._headers = {**auth_headers("Authorization", api_key), "Accept": "application/json"}

    def parameters(self) -> Request:
        """Return the call for what the app tells of itself."""
        return self._get("parameters")

    def upload(self, upload: Upload, user: str, boundary: str) -> Request:
        """Return the call that stores a file; see Multipart for `boundary`."""
        headers = {**self._headers, "Content-Type": f"multipart/form-data; boundary={boundary}"}
        return Request(url=endpoint(self._url, "files/upload"), headers=headers, body=Multipart(upload, user, boundary))

    def rating(self, message_id: str, user: str, rating: str | None, content: str | None) -> Request:
        """Return the call that rates an answer; `rating` None takes it back."""
        body = {"rating": rating, "user": user, **({} if content is None else {"content": content})}
        url = endpoint(self._url, f"messages/{message_id}/feedbacks")
        return Request(url=url, headers=self._headers, body=jsontext.dumps(body))

    def suggested(self, message_id: str, user: str) -> Request:
        """Return the call that makes questions to go on with: a model's work, it takes seconds."""
        return self._get(f"messages/{message_id}/suggested", user=user)

    def _get(self, path: str, **query: str) -> Request:
        url = endpoint(self._url, path)
        if query:
            url += ("&" if "?" in url else "?") + urlencode(query)
        headers = {name: value for name, value in self._headers.items() if name != "Content-Type"}
        return Request(url=url, headers=headers, method="GET")


# -- answers -----------------------------------------------------------------------------------------------------------


class Answered(msgspec.Struct, frozen=True):
    """An HTTP answer; `headers` in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def failure(self) -> Failure:
        """Return what it means that this is no good answer."""
        return failure_of(self.status, self.headers, self.body)


def read_stored(answered: Answered, upload: Upload) -> Stored:
    """Return the file that an upload made. Raises Failure, Refusal."""
    if answered.status == 413:
        raise Refusal("file_too_large", "The file is larger than the Dify app takes.")
    if answered.status == 415 or json_object(answered.body).get("code") in _REFUSED_TYPES:
        raise Refusal("unsupported_file_type", "The Dify app does not take files of this type.")
    if answered.status not in {200, 201}:
        raise answered.failure()
    file_id = _object(answered.body).get("id")
    if not isinstance(file_id, str) or not file_id:
        raise Failure("upstream_invalid")
    return Stored(file_id, upload.name, len(upload.content), upload.media_type)


def read_rated(answered: Answered, rating: str | None) -> None:
    """Take note of a rating's answer. Raises Failure, Refusal."""
    if answered.status == 404:
        raise Refusal("not_found", "The upstream no longer has this message.")
    # Dify takes it for an error where there is no rating to take back.
    had_none = rating is None and json_object(answered.body).get("code") == "invalid_param"
    if answered.status != 200 and not had_none:
        raise answered.failure()


def read_suggested(answered: Answered) -> list[str]:
    """Return the questions. Raises Failure."""
    if answered.status != 200:
        raise answered.failure()
    return _texts(_object(answered.body).get("data"))[:SUGGESTIONS_MAX]


def read_parameters(answered: Answered) -> Parameters:
    """Return what an app tells of itself, in either version's form. Raises Failure."""
    if answered.status != 200:
        raise answered.failure()
    told = _object(answered.body)
    sizes = _dict(told.get("system_parameters"))
    return Parameters(
        opening=_text(told.get("opening_statement")),
        suggestions=_texts(told.get("suggested_questions"))[:SUGGESTIONS_MAX],
        form=[field for item in _list(told.get("user_input_form")) if (field := _field(item, sizes)) is not None],
        files=_files(_dict(told.get("file_upload")), sizes),
        suggests=_dict(told.get("suggested_questions_after_answer")).get("enabled") is True,
    )


def _field(item: Any, sizes: dict[str, Any]) -> Field | None:
    """Return a field of {"text-input": {…}}; None for one that a person does not fill in."""
    kind, told = next(iter(_dict(item).items()), ("", None))
    told = _dict(told)
    name = _text(told.get("variable"))
    if not name or kind in _MADE_BY_DIFY or told.get("hide") is True:
        return None
    length = _count(told.get("max_length"))
    return Field(
        name=name,
        label=_text(told.get("label")) or name,
        kind=_KINDS.get(kind, kind),
        required=told.get("required") is True,
        options=_texts(told.get("options")) if kind == "select" else None,
        max_length=None if kind == "file" else length,
        default=told.get("default"),
        files=_limits(told, 1 if kind == "file" else length or USUAL_COUNT, sizes) if kind.startswith("file") else None,
    )


def _files(told: dict[str, Any], sizes: dict[str, Any]) -> FileLimits:
    """Return the limits of `file_upload`: newer apps say it at the top, older ones for images alone."""
    image = _dict(told.get("image"))
    enabled = told["enabled"] if "enabled" in told else image.get("enabled")
    if enabled is not True:
        return NO_FILES
    if not _list(told.get("allowed_file_types")):
        methods = told.get("allowed_file_upload_methods") or image.get("transfer_methods")
        told = {**told, "allowed_file_types": ["image"], "allowed_file_upload_methods": methods}
    count = _count(told.get("number_limits")) or _count(image.get("number_limits")) or USUAL_COUNT
    return _limits(told, count, sizes)


def _limits(told: dict[str, Any], count: int, sizes: dict[str, Any]) -> FileLimits:
    matches = [_EXTENSION.match(text) for text in _texts(told.get("allowed_file_extensions"))]
    own = sorted({match[1].lower() for match in matches if match})
    kinds = {}
    for kind in _texts(told.get("allowed_file_types")):
        extensions = own if kind == "custom" else sorted(TYPES.get(kind, {}))
        if extensions:
            kinds[kind] = FileKind(extensions=extensions, max_bytes=_max_bytes(kind, sizes))
    methods = [method for method in _texts(told.get("allowed_file_upload_methods")) if method in _BOTH_METHODS]
    return FileLimits(max_count=min(count, COUNT_MAX), transfer_methods=methods or _BOTH_METHODS, kinds=kinds)


def _max_bytes(kind: str, sizes: dict[str, Any]) -> int | None:
    mebibytes = _count(sizes.get(_SIZE_LIMITS.get(kind, "file_size_limit")))
    return mebibytes * MEBIBYTE if mebibytes else None


def _object(body: bytes) -> dict[str, Any]:
    try:  # written again: half a character could not be passed on as JSON
        data = jsontext.dumps(jsontext.loads(body.decode("utf-8", "replace")))
        if not jsontext.too_deep(data):
            return msgspec.json.decode(data, type=dict[str, Any])
    except (jsontext.NotJSON, msgspec.DecodeError, RecursionError):
        pass
    raise Failure("upstream_invalid")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    return [item for item in _list(value) if isinstance(item, str) and item.strip()]


def _count(value: Any) -> int | None:
    """Return a positive number, None for anything else; older versions write numbers as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if type(value) is int and 0 < value < 1 << 31 else None
