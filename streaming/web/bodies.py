"""JSON bodies that are no event and no answer of a run. The routes encode them, openapi.py describes them from here."""

from typing import Any, Literal

import msgspec

from streaming.wire.dialects.dify_app import Field
from streaming.wire.dialects.dify_files import FileLimits


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has begun, and where it can be followed and stopped (relative URLs)."""

    run_id: str
    conversation_id: str | None  # None where the run is in no conversation
    events_url: str
    stop_url: str


class StillRunning(msgspec.Struct, frozen=True, kw_only=True):
    """The end has not come yet: come back to the URL in `Location` after the seconds in `Retry-After`."""

    run_id: str
    conversation_id: str | None
    state: Literal["running"] = "running"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether new runs are taken, and how many there are: `unfinished`, and `ended` ones that can still be read."""

    status: str
    runs: dict[str, int]


class AskableUpstream(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream, with what a page needs of it. The last four are null where it could not be asked in time."""

    name: str
    dialect: str
    model: str | None
    opening: str | None
    suggestions: list[str] | None
    form: list[Field] | None
    files: FileLimits | None


class AskableUpstreams(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked, in the order in which it is tried."""

    upstreams: list[AskableUpstream]


class Rated(msgspec.Struct, frozen=True, kw_only=True):
    """The rating has reached the upstream."""

    result: Literal["success"] = "success"


class Suggested(msgspec.Struct, frozen=True, kw_only=True):
    """Questions to go on with; null = they are still being made."""

    suggested_questions: list[str] | None


class RefusedError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was refused. `message` is a sentence for people, `request_id` is for the operator's logs."""

    code: str
    message: str
    request_id: str


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every refusal but those of the OpenAI-compatible face."""

    error: RefusedError


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's error object. `param` is the field that is wrong, where it is one field's fault."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIRefused(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every refusal and failure on /v1."""

    error: OpenAIError


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's `chat.completion`. `id` is the run's; `conversation_id` and `end_reason` come where there is one."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str | None
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None
    conversation_id: str | None = None
    end_reason: str | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A value that `model` may have. Nobody knows when a model was made: `created` is 0."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """All values that `model` may have."""

    object: Literal["list"] = "list"
    data: list[Model]


class VisitorToken(msgspec.Struct, frozen=True, kw_only=True):
    """What a page's visitor asks with, and for how many seconds."""

    token: str
    expires_in: int
