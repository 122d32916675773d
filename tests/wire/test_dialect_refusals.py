"""What an HTTP answer other than 200 means. Bodies are as the servers write them, with what they leak."""

import json
from typing import Any

import pytest

from streaming.wire.dialects import Dialect
from streaming.wire.dialects.dify import Dify
from streaming.wire.dialects.openai import OpenAI
from streaming.wire.errors import FAILURES

OPENAI = OpenAI(url="https://upstream.example/v1", api_key="sk-key", model="m")
DIFY = Dify(url="https://upstream.example/v1", api_key="app-key")
HTML = b"<html><body>Bad Gateway</body></html>"
DATE = "Wed, 11 Feb 2026 09:00:00 GMT"


def openai(message: str = "leak /srv/models", type_: Any = None, param: Any = None, code: Any = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}}).encode()


def dify(code: str, message: str, **more: Any) -> bytes:
    return json.dumps({"code": code, "message": message, **more}).encode()


TOO_MANY = "Too many requests. Please try again later. The current maximum concurrent requests allowed is 10."
NOT_EXISTS = "Conversation Not Exists."
DID_YOU_MEAN = "Conversation Not Exists. You have requested this URI [\\/v1\\/chat-messages] but did you mean …"
PYDANTIC = "1 validation error for ChatRequestPayload\nquery\n  Input should be a valid string [input_value=SECRET]"

CASES: dict[str, tuple[Dialect, int, dict[str, str], bytes, str, int, int | None]] = {
    # OpenAI and the like: status, headers, body -> code, status, retry_after
    "openai rate limit": (
        OPENAI,
        429,
        {"retry-after": "2", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1.2s"},
        openai("Rate limit reached", "requests", None, "rate_limit_exceeded"),
        "upstream_busy",
        503,
        2,
    ),
    "openai rate limit in ms": (
        OPENAI,
        429,
        {"retry-after-ms": "1200", "retry-after": "9"},
        b"",
        "upstream_busy",
        503,
        2,
    ),
    "openai rate limit as date": (
        OPENAI,
        429,
        {"retry-after": "Wed, 11 Feb 2026 09:00:30 GMT", "date": DATE},
        b"",
        "upstream_busy",
        503,
        30,
    ),
    "a date that has passed": (
        OPENAI,
        429,
        {"retry-after": "Wed, 11 Feb 2026 08:00:00 GMT", "date": DATE},
        b"",
        "upstream_busy",
        503,
        0,
    ),
    "no advice": (OPENAI, 429, {}, b"", "upstream_busy", 503, 5),
    "advice nobody can read": (
        OPENAI,
        429,
        {"retry-after": "soon", "retry-after-ms": ""},
        b"",
        "upstream_busy",
        503,
        5,
    ),
    "a date without a clock": (OPENAI, 429, {"retry-after": DATE}, b"", "upstream_busy", 503, 5),
    "endless advice": (OPENAI, 503, {"retry-after": "9" * 400}, b"", "upstream_busy", 503, 5),
    "advice of a year": (OPENAI, 503, {"retry-after": "31536000"}, b"", "upstream_busy", 503, 86_400),
    "openai quota": (
        OPENAI,
        429,
        {"retry-after": "2"},
        openai("You exceeded your current quota", "insufficient_quota", None, "insufficient_quota"),
        "upstream_rejected",
        502,
        None,
    ),
    "openai credit": (OPENAI, 429, {}, openai(code="credit_balance_exhausted"), "upstream_rejected", 502, None),
    "deepseek balance": (
        OPENAI,
        402,
        {},
        openai("Insufficient Balance", "unknown_error", None, "invalid_request_error"),
        "upstream_rejected",
        502,
        None,
    ),
    "deepseek parameters": (OPENAI, 422, {}, openai(type_="invalid_request_error"), "upstream_rejected", 502, None),
    "openai key": (OPENAI, 401, {}, openai(code="invalid_api_key"), "upstream_auth", 502, None),
    "openai region": (OPENAI, 403, {}, openai(), "upstream_auth", 502, None),
    "openai model": (OPENAI, 404, {}, openai(code="model_not_found"), "upstream_rejected", 502, None),
    "openai context length": (
        OPENAI,
        400,
        {},
        openai("16385 tokens", "invalid_request_error", "messages", "context_length_exceeded"),
        "upstream_rejected",
        400,
        None,
    ),
    "openai option": (
        OPENAI,
        400,
        {},
        openai("Unsupported value", "invalid_request_error", "temperature", "unsupported_value"),
        "upstream_rejected",
        400,
        None,
    ),
    "openai message part": (
        OPENAI,
        400,
        {},
        openai("bad", "invalid_request_error", "messages.[0].content", "invalid_value"),
        "upstream_rejected",
        400,
        None,
    ),
    "a field of ours": (OPENAI, 400, {}, openai(param="stream_options"), "upstream_rejected", 502, None),
    "azure filtered prompt": (
        OPENAI,
        400,
        {},
        openai(param="prompt", code="content_filter"),
        "upstream_rejected",
        400,
        None,
    ),
    "llama.cpp context": (
        OPENAI,
        400,
        {},
        b'{"error":{"code":400,"message":"the request exceeds","type":"exceed_context_size_error","n_ctx":4096}}',
        "upstream_rejected",
        400,
        None,
    ),
    "llama.cpp loading": (
        OPENAI,
        503,
        {},
        b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
        "upstream_busy",
        503,
        5,
    ),
    "llama.cpp not supported": (
        OPENAI,
        501,
        {},
        b'{"error":{"code":501,"message":"no","type":"not_supported_error"}}',
        "upstream_failed",
        502,
        None,
    ),
    "openai slow down": (OPENAI, 503, {}, openai(code="slow_down"), "upstream_busy", 503, 5),
    "openai server error": (OPENAI, 500, {}, openai(type_="server_error"), "upstream_failed", 502, None),
    "a dead upstream behind a proxy": (
        OPENAI,
        500,
        {},
        b'{"detail":"http://10.0.0.7 refused"}',
        "upstream_failed",
        502,
        None,
    ),
    "conflict": (OPENAI, 409, {}, openai(), "upstream_rejected", 502, None),
    "vllm without the wrapper": (
        OPENAI,
        400,
        {},
        b'{"object":"error","message":"m","code":400}',
        "upstream_rejected",
        502,
        None,
    ),
    "an error that is a text": (OPENAI, 400, {}, b'{"error":"bad model"}', "upstream_rejected", 502, None),
    "a list of details": (OPENAI, 422, {}, b'{"detail":[{"loc":["body"]}]}', "upstream_rejected", 502, None),
    "plain text": (OPENAI, 400, {"content-type": "text/plain"}, b"no such model", "upstream_rejected", 502, None),
    "JSON that is no object": (OPENAI, 400, {}, b'["insufficient_quota"]', "upstream_rejected", 502, None),
    "codes of other types": (
        OPENAI,
        400,
        {},
        b'{"error":{"code":["insufficient_quota"],"type":{"a":1},"param":7}}',
        "upstream_rejected",
        502,
        None,
    ),
    "a gateway's HTML": (OPENAI, 502, {"content-type": "text/html"}, HTML, "upstream_unreachable", 502, None),
    "a gateway's timeout": (OPENAI, 504, {}, HTML, "upstream_timeout", 504, None),
    "a redirect": (OPENAI, 302, {"location": "https://elsewhere.example"}, b"", "upstream_rejected", 502, None),
    "bad bytes": (OPENAI, 400, {}, b'{"error":"\xff\xfe"}', "upstream_rejected", 502, None),
    "deep JSON": (OPENAI, 400, {}, b'{"error":' + b"[" * 100_000, "upstream_rejected", 502, None),
    # Dify
    "dify 429": (DIFY, 429, {}, dify("too_many_requests", TOO_MANY, status=429), "upstream_busy", 503, 5),
    "dify ceiling as 400": (DIFY, 400, {}, dify("invalid_param", TOO_MANY, params="x"), "upstream_busy", 503, 5),
    "dify plan quota": (DIFY, 429, {}, dify("rate_limit_error", "limit", status=429), "upstream_rejected", 502, None),
    "dify provider quota": (
        DIFY,
        400,
        {},
        dify("provider_quota_exceeded", "q", status=400),
        "upstream_rejected",
        502,
        None,
    ),
    "dify provider failed": (
        DIFY,
        400,
        {},
        dify("completion_request_error", "[openai] 429"),
        "upstream_rejected",
        502,
        None,
    ),
    "dify no model": (DIFY, 400, {}, dify("provider_not_initialize", "m", status=400), "upstream_rejected", 502, None),
    "dify wrong mode": (DIFY, 400, {}, dify("not_chat_app", "m", status=400), "upstream_rejected", 502, None),
    "dify 401, 0.15.3": (
        DIFY,
        401,
        {},
        dify("unauthorized", "Access token is invalid", status=401),
        "upstream_auth",
        502,
        None,
    ),
    "dify 401, 1.15.0": (
        DIFY,
        401,
        {"www-authenticate": 'Bearer realm="api"'},
        dify("unauthorized", "Access token is invalid", status=401),
        "upstream_auth",
        502,
        None,
    ),
    "dify 403": (DIFY, 403, {}, dify("forbidden", "The API is disabled", status=403), "upstream_auth", 502, None),
    "dify conversation": (DIFY, 404, {}, dify("not_found", NOT_EXISTS, status=404), "upstream_rejected", 502, None),
    "dify conversation, 1.15.0": (
        DIFY,
        404,
        {},
        dify("not_found", DID_YOU_MEAN, status=404),
        "upstream_rejected",
        502,
        None,
    ),
    "dify unknown route": (
        DIFY,
        404,
        {"content-type": "text/html"},
        b"<!doctype html>",
        "upstream_rejected",
        502,
        None,
    ),
    "dify parameter, 0.15.3": (
        DIFY,
        400,
        {},
        dify("invalid_param", "query is required", params="query"),
        "upstream_rejected",
        400,
        None,
    ),
    "dify parameter, 1.15.0": (
        DIFY,
        400,
        {},
        dify("invalid_param", PYDANTIC, status=400),
        "upstream_rejected",
        400,
        None,
    ),
    "dify file": (DIFY, 413, {}, dify("file_too_large", "m", status=413), "upstream_rejected", 400, None),
    "dify file type": (DIFY, 415, {}, dify("unsupported_file_type", "m", status=415), "upstream_rejected", 400, None),
    "dify media type": (DIFY, 415, {}, dify("unsupported_media_type", "m", status=415), "upstream_rejected", 502, None),
    "dify method": (DIFY, 405, {}, dify("method_not_allowed", "m", status=405), "upstream_rejected", 502, None),
    "dify broken JSON": (DIFY, 400, {}, dify("bad_request", "m", status=400), "upstream_rejected", 502, None),
    "dify escaped slashes": (
        DIFY,
        404,
        {},
        b'{"code":"not_found","message":"Conversation Not Exists. You have requested [\\/v1\\/x]","status":404}\n',
        "upstream_rejected",
        502,
        None,
    ),
    "dify 500": (DIFY, 500, {}, dify("internal_server_error", "m", status=500), "upstream_failed", 502, None),
    "dify behind nginx": (DIFY, 502, {"content-type": "text/html"}, HTML, "upstream_unreachable", 502, None),
    "dify behind cloudflare": (DIFY, 524, {"content-type": "text/html"}, HTML, "upstream_timeout", 504, None),
    "dify codes of other types": (
        DIFY,
        400,
        {},
        b'{"code":["invalid_param"],"message":{"a":1}}',
        "upstream_rejected",
        502,
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_http_refusal_becomes_one_of_our_failures(name: str) -> None:
    dialect, status, headers, body, code, our_status, retry_after = CASES[name]
    failure = dialect.refusal(status, headers, body)
    end = failure.as_end_error()
    assert (end.code, end.status, end.retry_after) == (code, our_status, retry_after)
    assert failure.retryable is FAILURES[code].retryable


@pytest.mark.parametrize("name", CASES)
def test_a_failure_never_carries_the_upstreams_own_words(name: str) -> None:
    """Upstream texts leak paths, URLs and the user's input; one field's name (of ours) may be told."""
    dialect, status, headers, body, *_ = CASES[name]
    message = dialect.refusal(status, headers, body).message
    for leak in ("leak", "/srv", "10.0.0.7", "SECRET", "openai", "pydantic", "validation", "did you mean", "<"):
        assert leak not in message


def test_a_spent_quota_is_told_as_such_because_trying_again_is_no_use() -> None:
    for name in ("openai quota", "openai credit", "deepseek balance", "dify plan quota", "dify provider quota"):
        dialect, status, headers, body, *_ = CASES[name]
        failure = dialect.refusal(status, headers, body)
        assert failure.message == "The upstream's quota is spent."
        assert not failure.retryable


def test_a_field_that_the_upstream_rejects_is_named_only_if_the_caller_can_have_sent_it() -> None:
    told = OPENAI.refusal(400, {}, openai(param="temperature"))
    assert told.message == "The upstream rejected the field 'temperature'."
    for param in ("model", "stream", "/etc/passwd", "temperature_x", ""):
        assert "field" not in OPENAI.refusal(400, {}, openai(param=param)).message


def test_a_conversation_that_dify_lost_is_told_so_that_the_page_can_begin_a_new_one() -> None:
    for message in (NOT_EXISTS, DID_YOU_MEAN):
        assert "begin a new one" in DIFY.refusal(404, {}, dify("not_found", message)).message
    assert "begin a new one" not in DIFY.refusal(404, {}, dify("not_found", "File Not Exists.")).message


REMEDIES = {  # status, body -> what the relay itself may do
    "busy": (429, b"{}", "retry"),
    "unavailable": (503, b"{}", "retry"),
    "bad gateway": (502, HTML, "retry"),
    "gateway timeout": (504, HTML, "retry"),
    "quota": (429, openai(code="insufficient_quota"), "elsewhere"),
    "balance": (402, b"{}", "elsewhere"),
    "wrong key": (401, b"{}", "elsewhere"),
    "too long": (400, openai(code="context_length_exceeded"), None),
    "bad request": (400, b"{}", None),
    "server error": (500, b"{}", None),
    "cloudflare waited in vain": (524, HTML, None),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_call_is_repeated_only_where_nothing_was_generated(name: str) -> None:
    status, body, remedy = REMEDIES[name]
    assert OPENAI.refusal(status, {}, body).remedy == remedy


def test_dify_is_tried_again_when_it_is_full_but_not_when_its_quota_is_spent() -> None:
    full = dify("invalid_param", "Too many requests. Please try again later.")
    assert DIFY.refusal(400, {}, full).remedy == "retry"
    assert DIFY.refusal(429, {}, dify("rate_limit_error", "m")).remedy == "elsewhere"
