"""What can be asked: each upstream with what a page needs to know of it."""

import msgspec
from flask import Blueprint, Response

from streaming.relay.upstream import Upstream
from streaming.web.bodies import AskableUpstream, AskableUpstreams
from streaming.web.relay import current_caller, current_relay
from streaming.web.streams import json_response
from streaming.wire.dialects.dify_app import Field, Parameters
from streaming.wire.dialects.dify_files import FileKind, FileLimits

upstreams = Blueprint("upstreams", __name__)


@upstreams.get("/upstreams")
def list_upstreams() -> Response:
    """Return the upstreams in the order in which they are tried; null where one could not be asked in time."""
    current_caller(visitors_too=True)
    relay = current_relay()
    told = relay.apps.parameters()
    shown = [_shown(each, told[each.name], relay.max_upload_bytes) for each in relay.runs.upstreams]
    return json_response(AskableUpstreams(upstreams=shown))


def _shown(upstream: Upstream, told: Parameters | None, max_upload_bytes: int) -> AskableUpstream:
    return AskableUpstream(
        name=upstream.name,
        dialect=upstream.dialect_name,
        model=upstream.model,
        opening=told.opening if told else None,
        suggestions=told.suggestions if told else None,
        form=[_field(field, max_upload_bytes) for field in told.form] if told else None,
        files=_bounded(told.files, max_upload_bytes) if told else None,
    )


def _field(field: Field, max_upload_bytes: int) -> Field:
    return msgspec.structs.replace(field, files=field.files and _bounded(field.files, max_upload_bytes))


def _bounded(limits: FileLimits, max_upload_bytes: int) -> FileLimits:
    """Return the limits that hold here: of the app's and ours the lower."""
    kinds = {
        kind: FileKind(extensions=each.extensions, max_bytes=min(each.max_bytes or max_upload_bytes, max_upload_bytes))
        for kind, each in limits.kinds.items()
    }
    return msgspec.structs.replace(limits, kinds=kinds)
