"""A Dify app as a script of tests.live.scripted: each of its routes answers, fails or waits as a test says."""

import json
import queue
from collections.abc import Callable
from typing import Any

from tests.live import Call, ScriptedUpstream

MESSAGE_ID = "f2a7c1d4-3b5e-4c6f-8a9b-0d1e2f3a4b5c"
FILE_ID = "72fa9618-8f89-4a37-9b33-7e1178a24a67"

PARAMETERS: dict[str, Any] = {
    "opening_statement": "你好, how can I help?",
    "suggested_questions": ["What is this?", "And that?"],
    "suggested_questions_after_answer": {"enabled": False},
    "user_input_form": [
        {"text-input": {"label": "Your name", "variable": "name", "required": True, "max_length": 48, "default": ""}},
        {"select": {"label": "Tone", "variable": "tone", "required": False, "options": ["kind", "dry"]}},
    ],
    "file_upload": {
        "enabled": True,
        "allowed_file_types": ["image", "document"],
        "allowed_file_extensions": [".JPG", ".PNG"],
        "allowed_file_upload_methods": ["local_file", "remote_url"],
        "number_limits": 3,
    },
    "system_parameters": {
        "file_size_limit": 2,
        "image_file_size_limit": 1,
        "audio_file_size_limit": 50,
        "video_file_size_limit": 100,
        "workflow_file_upload_limit": 10,
    },
}


def as_json(call: Call, status: int, value: object) -> None:
    call.answer(status, json.dumps(value).encode())


def event(name: str, **fields: Any) -> bytes:
    """Return one event of a chat app's stream."""
    ids = {"task_id": "t-1", "message_id": MESSAGE_ID, "conversation_id": "c-1"}
    return b"data: " + json.dumps({"event": name, **ids, **fields}).encode() + b"\n\n"


class Dify:
    """The script. `routes`: the last part of a path -> what to do with the call; `calls(part)` are those that came."""

    def __init__(self) -> None:
        self.upstream: ScriptedUpstream | None = None
        self.reset()

    def reset(self) -> None:
        """Answer well again, and forget what came."""
        self.routes: dict[str, Callable[[Call], object]] = {
            "chat-messages": self._chat,
            "parameters": lambda call: as_json(call, 200, PARAMETERS),
            "upload": self._upload,
            "feedbacks": lambda call: as_json(call, 200, {"result": "success"}),
            "suggested": lambda call: as_json(call, 200, {"result": "success", "data": ["And then?", "Why?"]}),
        }
        self.arrived: dict[str, queue.Queue[Call]] = {route: queue.Queue() for route in self.routes}

    def __call__(self, call: Call) -> None:
        route = call.path.partition("?")[0].rpartition("/")[2]
        self.arrived[route].put(call)
        self.routes[route](call)

    def calls(self, route: str) -> list[Call]:
        """Return the calls of a route that came and were not taken."""
        return list(self.arrived[route].queue)

    @staticmethod
    def _chat(call: Call) -> None:
        call.start()
        call.chunk(event("message", answer="你好"))
        call.chunk(event("message_end", metadata={"usage": {"total_tokens": 3}}))
        call.finish()

    @staticmethod
    def _upload(call: Call) -> None:
        name = form_of(call)["file"][0]["filename"]
        as_json(call, 201, {"id": FILE_ID, "name": name, "size": 1, "mime_type": "x/y", "created_by": "secret"})


def form_of(call: Call) -> dict[str, Any]:
    """Return an upload's form: the texts, and for `file` its parameters and its bytes. Read by the standard library."""
    from email.parser import BytesParser
    from email.policy import HTTP

    head = f"Content-Type: {call.headers['content-type']}\r\n\r\n".encode()
    fields: dict[str, Any] = {}
    for part in BytesParser(policy=HTTP).parsebytes(head + call.body).iter_parts():
        disposition = part["Content-Disposition"]
        content = part.get_payload(decode=True)
        parameters = dict(disposition.params)
        name = parameters["name"]
        if "filename" in parameters:
            fields[name] = ({**parameters, "type": part.get_content_type()}, content)
        else:
            fields[name] = content.decode()
    return fields
