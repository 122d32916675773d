"""What a Dify app offers besides answers: the requests, and what both versions' answers mean."""

import json
from typing import Any

import msgspec
import pytest

from streaming.wire.dialects import Request
from streaming.wire.dialects.dify_app import (
    Answered,
    DifyApp,
    Stored,
    read_parameters,
    read_rated,
    read_stored,
    read_suggested,
)
from streaming.wire.dialects.dify_files import Upload
from streaming.wire.errors import Failure, Refusal

APP = DifyApp(url="https://dify.example", api_key="app-1")
PDF = Upload(name="a.pdf", media_type="application/pdf", content=[b"ab", b"c"])  # type: ignore[arg-type]


def answered(value: object, status: int = 200) -> Answered:
    return Answered(status, {}, value if isinstance(value, bytes) else json.dumps(value).encode())


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "method", "url", "body"),
    [
        (APP.parameters(), "GET", "https://dify.example/v1/parameters", b""),
        (
            APP.suggested("m-1", "Zoë & co"),
            "GET",
            "https://dify.example/v1/messages/m-1/suggested?user=Zo%C3%AB+%26+co",
            b"",
        ),
        (
            APP.rating("m-1", "u", "like", None),
            "POST",
            "https://dify.example/v1/messages/m-1/feedbacks",
            b'{"rating":"like","user":"u"}',
        ),
        (
            APP.rating("m-1", "u", None, "not so good"),
            "POST",
            "https://dify.example/v1/messages/m-1/feedbacks",
            b'{"rating":null,"user":"u","content":"not so good"}',
        ),
        (
            DifyApp(url="https://x.example/dify/v1?tenant=1", api_key="app-1").suggested("m", "u"),
            "GET",
            "https://x.example/dify/v1/messages/m/suggested?tenant=1&user=u",
            b"",
        ),
    ],
)
def test_each_request_has_its_route_and_the_key(request_: Request, method: str, url: str, body: bytes) -> None:
    assert (request_.method, request_.url, request_.body) == (method, url, body)
    assert request_.headers["Authorization"] == "Bearer app-1"
    assert request_.headers["Accept"] == "application/json"
    assert ("Content-Type" in request_.headers) == bool(body)


def test_an_upload_names_its_boundary_and_can_be_sent_twice() -> None:
    request = APP.upload(PDF, "u", boundary="b0")
    assert (request.method, request.url) == ("POST", "https://dify.example/v1/files/upload")
    assert request.headers["Content-Type"] == "multipart/form-data; boundary=b0"
    body = b"".join(request.body)  # type: ignore[arg-type]
    assert body == b"".join(request.body)  # type: ignore[arg-type]
    assert b"abc" in body


# -- parameters --------------------------------------------------------------------------------------------------------

SIZES = {
    "image_file_size_limit": "10",
    "file_size_limit": 15,
    "audio_file_size_limit": 50,
    "video_file_size_limit": 100,
}
NO_FILES = {"max_count": 0, "transfer_methods": [], "kinds": {}}


def parameters(**told: Any) -> dict[str, Any]:
    return msgspec.to_builtins(read_parameters(answered({"system_parameters": SIZES, **told})))  # type: ignore[no-any-return]


def images(max_count: int, methods: list[str]) -> dict[str, Any]:
    kind = {"extensions": ["gif", "jpeg", "jpg", "png", "svg", "webp"], "max_bytes": 10 << 20}
    return {"max_count": max_count, "transfer_methods": methods, "kinds": {"image": kind}}


def test_an_app_tells_its_opening_and_suggestions() -> None:
    told = parameters(
        opening_statement="你好",
        suggested_questions=["a", "", " ", 5, "b"],
        suggested_questions_after_answer={"enabled": True},
    )
    assert (told["opening"], told["suggestions"], told["suggests"]) == ("你好", ["a", "b"], True)


def test_an_app_that_tells_nothing_has_nothing() -> None:
    nothing = {"opening": "", "suggestions": [], "form": [], "files": NO_FILES, "suggests": False}
    null = dict.fromkeys(["opening_statement", "suggested_questions", "user_input_form", "file_upload"])
    assert parameters() == parameters(**null, suggested_questions_after_answer=None) == nothing


@pytest.mark.parametrize(
    ("told", "field"),
    [
        (
            {"text-input": {"label": "Name", "variable": "name", "required": True, "max_length": 48, "default": "Bo"}},
            {"name": "name", "label": "Name", "kind": "text", "required": True, "max_length": 48, "default": "Bo"},
        ),
        (
            {"paragraph": {"variable": "text", "max_length": 0, "required": "yes"}},
            {"name": "text", "label": "text", "kind": "paragraph", "required": False, "default": None},
        ),
        (
            {"select": {"label": "L", "variable": "s", "options": ["a", "b", 3], "default": "b", "max_length": None}},
            {"name": "s", "label": "L", "kind": "select", "options": ["a", "b"], "default": "b"},
        ),
        (
            {"number": {"label": "N", "variable": "n", "required": False, "default": 3}},
            {"name": "n", "kind": "number", "required": False, "default": 3, "options": None, "files": None},
        ),
        ({"checkbox": {"label": "C", "variable": "c", "default": False}}, {"kind": "checkbox", "default": False}),
        ({"json_object": {"label": "J", "variable": "j"}}, {"kind": "json"}),
        ({"hologram": {"label": "H", "variable": "h"}}, {"kind": "hologram"}),  # a newer version's
        (
            {"file": {"label": "F", "variable": "f", "allowed_file_types": ["image"], "max_length": 5}},
            {"kind": "file", "max_length": None, "files": images(1, ["local_file", "remote_url"])},
        ),
        (
            {
                "file-list": {
                    "label": "F",
                    "variable": "f",
                    "allowed_file_types": ["custom"],
                    "allowed_file_extensions": [".STL", "obj", "../x", 7],
                    "allowed_file_upload_methods": ["local_file", "carrier_pigeon"],
                    "max_length": 5,
                }
            },
            {
                "kind": "files",
                "max_length": 5,
                "files": {
                    "max_count": 5,
                    "transfer_methods": ["local_file"],
                    "kinds": {"custom": {"extensions": ["obj", "stl"], "max_bytes": 15 << 20}},
                },
            },
        ),
    ],
)
def test_a_field_of_the_input_form(told: dict[str, Any], field: dict[str, Any]) -> None:
    (shown,) = parameters(user_input_form=[told])["form"]
    assert {**shown, **field} == shown
    assert set(shown) == {"name", "label", "kind", "required", "options", "max_length", "default", "files"}


@pytest.mark.parametrize(
    "told",
    [
        {"external_data_tool": {"label": "Weather", "variable": "weather"}},  # Dify fills it in
        {"text-input": {"label": "Plan", "variable": "plan", "hide": True}},
        {"text-input": {"label": "nameless"}},
        {"text-input": None},
        {},
        "text-input",
        None,
    ],
)
def test_what_a_person_does_not_fill_in_is_not_shown(told: Any) -> None:
    assert parameters(user_input_form=[told])["form"] == []


@pytest.mark.parametrize(
    ("told", "files"),
    [
        ({}, NO_FILES),
        ({"image": {"enabled": False, "number_limits": 3, "transfer_methods": ["local_file"]}}, NO_FILES),
        (  # 0.15.3: images alone
            {"image": {"enabled": True, "number_limits": 2, "detail": "high", "transfer_methods": ["local_file"]}},
            images(2, ["local_file"]),
        ),
        ({"enabled": False, "image": {"enabled": True}, "allowed_file_types": ["image"]}, NO_FILES),
        (
            {"enabled": True, "allowed_file_types": ["image"], "allowed_file_extensions": [".JPG"], "number_limits": 4},
            images(4, ["local_file", "remote_url"]),
        ),
        (
            {"enabled": True, "allowed_file_types": [], "number_limits": 10**9},
            images(100, ["local_file", "remote_url"]),
        ),
        (
            {"enabled": True, "allowed_file_types": ["smell", "custom"], "allowed_file_extensions": []},
            {"max_count": 3, "transfer_methods": ["local_file", "remote_url"], "kinds": {}},
        ),
    ],
)
def test_which_files_go_with_a_question(told: dict[str, Any], files: dict[str, Any]) -> None:
    assert parameters(file_upload=told)["files"] == files


def test_uploads_are_for_the_question_or_for_a_field_that_takes_uploads() -> None:
    form = [
        {"file": {"variable": "a", "allowed_file_types": ["custom"], "allowed_file_extensions": [".stl"]}},
        {"file": {"variable": "b", "allowed_file_types": ["custom"], "allowed_file_extensions": [".obj"]}},
        {
            "file": {
                "variable": "c",
                "allowed_file_types": ["audio"],
                "allowed_file_upload_methods": ["remote_url"],
            }
        },
    ]
    told = read_parameters(
        answered({"user_input_form": form, "file_upload": {"enabled": True, "allowed_file_types": ["video"]}})
    )
    kinds = told.uploads().kinds
    assert set(kinds) == {"video", "custom"}
    assert kinds["custom"].extensions == ["obj", "stl"]
    assert kinds["video"].max_bytes is None  # this app tells no sizes
    assert read_parameters(answered({})).uploads().max_count == 0


def test_what_could_not_be_passed_on_is_mended_or_refused() -> None:
    half = read_parameters(answered(b'{"opening_statement": "a\\ud83d"}'))
    assert half.opening == "a\ufffd"
    msgspec.json.encode(half)
    deep = {"variable": "x", "default": json.loads("[" * 300 + "]" * 300)}
    with pytest.raises(Failure):
        read_parameters(answered({"user_input_form": [{"json_object": deep}]}))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"5", b"\xff\xfe", b"[" * 5000])
def test_an_answer_that_is_no_object_is_invalid(body: bytes) -> None:
    for read in (read_parameters, read_suggested, lambda answer: read_stored(answer, PDF)):
        with pytest.raises(Failure) as caught:
            read(answered(body))
        assert caught.value.code == "upstream_invalid"


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_stored_file_is_told_in_our_words() -> None:
    told = {"id": "f-1", "name": "../evil", "size": -1, "mime_type": "text/html", "preview_url": "https://signed"}
    length = Upload(name="a.pdf", media_type="application/pdf", content=b"abc")  # type: ignore[arg-type]
    assert read_stored(answered(told, 201), length) == Stored("f-1", "a.pdf", 3, "application/pdf")
    for wrong in ({}, {"id": None}, {"id": ""}, {"id": 5}):
        with pytest.raises(Failure):
            read_stored(answered(wrong, 201), length)


@pytest.mark.parametrize(
    ("status", "body", "code", "shown_status"),
    [
        (413, {"code": "file_too_large", "message": "at /srv/secret"}, "file_too_large", 413),
        (413, b"<html>nginx", "file_too_large", 413),
        (415, {"code": "unsupported_file_type", "message": "secret"}, "unsupported_file_type", 415),
        (400, {"code": "file_extension_blocked", "message": "secret"}, "unsupported_file_type", 415),
        (400, {"code": "invalid_param", "message": "user 'secret'"}, "upstream_rejected", 400),
        (401, {"code": "unauthorized", "message": "secret"}, "upstream_auth", 502),
        (404, b"<html>secret", "upstream_rejected", 502),
        (429, {"code": "too_many_requests", "message": "secret"}, "upstream_busy", 503),
        (400, {"code": "invalid_param", "message": "Too many requests. secret"}, "upstream_busy", 503),
        (500, {"code": "internal_server_error", "message": "secret"}, "upstream_failed", 502),
        (302, b"", "upstream_rejected", 502),
    ],
)
def test_a_refused_upload_says_why_in_words_of_ours(status: int, body: Any, code: str, shown_status: int) -> None:
    with pytest.raises((Failure, Refusal)) as caught:
        read_stored(answered(body, status), PDF)
    assert (caught.value.code, caught.value.status) == (code, shown_status)
    assert "secret" not in caught.value.message


def test_a_rating_that_is_not_there_is_taken_back_all_the_same() -> None:
    none = answered({"code": "invalid_param", "message": "rating cannot be None"}, 400)
    read_rated(none, None)
    read_rated(answered({"result": "success"}), "like")
    with pytest.raises(Failure):
        read_rated(none, "like")
    with pytest.raises(Failure):
        read_rated(answered({"code": "unauthorized"}, 401), None)
    with pytest.raises(Refusal) as caught:
        read_rated(answered({"code": "not_found", "message": "Message Not Exists."}, 404), "like")
    assert caught.value.status == 404


def test_suggested_questions_are_a_few_texts() -> None:
    assert read_suggested(answered({"result": "success", "data": ["a", None, "b"]})) == ["a", "b"]
    assert len(read_suggested(answered({"data": ["?"] * 1000}))) == 20
    assert read_suggested(answered({"result": "success"})) == []
    with pytest.raises(Failure):
        read_suggested(answered({"code": "bad_request", "message": "Suggested Questions Is Disabled."}, 400))
