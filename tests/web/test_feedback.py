"""Ratings and suggested questions of a live relay in front of a Dify app."""

import json
import queue
from typing import Any

import pytest
import requests

from tests.live import Call, Relay, relay, scripted
from tests.scripted_dify import MESSAGE_ID, PARAMETERS, Dify, as_json


def asked(server: Relay, **ask: Any) -> dict[str, Any]:
    """Ask and return the answer's object."""
    answer = requests.post(f"{server.url}/stream?format=json", json={"prompt": "hi", **ask}, timeout=20)
    assert answer.status_code == 200
    return answer.json()  # type: ignore[no-any-return]


def rate(server: Relay, run_id: str, **request: Any) -> requests.Response:
    return requests.post(f"{server.url}/runs/{run_id}/feedback", timeout=20, **request)


def refused(response: requests.Response, status: int, code: str) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["request_id"] == response.headers["X-Request-Id"]
    return str(error["message"])


@pytest.mark.parametrize(
    ("feedback", "sent"),
    [
        ({"rating": "like"}, {"rating": "like", "user": "Zoë"}),
        ({"rating": "dislike", "content": "太短"}, {"rating": "dislike", "user": "Zoë", "content": "太短"}),
        ({"rating": None}, {"rating": None, "user": "Zoë"}),
    ],
)
def test_a_rating_reaches_the_message_it_is_about(
    feedback: dict[str, Any], sent: dict[str, Any], dify_server: Relay, dify: Dify
) -> None:
    run = asked(dify_server, user="Zoë")
    assert run["end"]["metadata"]["message_id"] == MESSAGE_ID
    answer = rate(dify_server, run["run_id"], json=feedback)
    assert (answer.status_code, answer.json()) == (200, {"result": "success"})
    (call,) = dify.calls("feedbacks")
    assert call.path == f"/v1/messages/{MESSAGE_ID}/feedbacks"
    assert json.loads(call.body) == sent


def test_a_visitors_rating_is_given_as_the_user_that_asked(dify_server: Relay, dify: Dify) -> None:
    run = asked(dify_server)
    assert rate(dify_server, run["run_id"], json={"rating": "like"}).status_code == 200
    asked_as = json.loads(dify.calls("chat-messages")[0].body)["user"]
    assert json.loads(dify.calls("feedbacks")[0].body)["user"] == asked_as


BAD_RATINGS = [
    ({"json": {}}, "rating"),
    ({"json": {"rating": "love"}}, "'rating'"),
    ({"json": {"rating": ""}}, "'rating'"),
    ({"json": {"rating": True}}, "'rating'"),
    ({"json": {"rating": ["like"]}}, "'rating'"),
    ({"json": {"rating": "like", "content": 5}}, "'content'"),
    ({"json": {"rating": "like", "content": "x" * 10_001}}, "'content'"),
    ({"json": {"rating": "like", "user": "somebody else"}}, "user"),
    ({"json": {"rating": "like", "message_id": "../../x"}}, "message_id"),
    ({"json": []}, "object"),
    ({"json": None, "data": b"{", "headers": {"Content-Type": "application/json"}}, "JSON"),
    ({"data": b"\xff", "headers": {"Content-Type": "application/json"}}, "UTF-8"),
    ({"data": b'{"rating":"like"' + b"[" * 5000, "headers": {"Content-Type": "application/json"}}, "JSON"),
]


@pytest.mark.parametrize(("request_", "named"), BAD_RATINGS)
def test_a_rating_that_is_none_is_refused_by_name(
    request_: dict[str, Any], named: str, dify_server: Relay, dify: Dify
) -> None:
    run_id = asked(dify_server)["run_id"]
    assert named in refused(rate(dify_server, run_id, **request_), 400, "bad_request")
    assert dify.calls("feedbacks") == []


def test_other_bodies_are_refused(dify_server: Relay, dify: Dify) -> None:
    run_id = asked(dify_server)["run_id"]
    refused(rate(dify_server, run_id, data={"rating": "like"}), 415, "unsupported_media_type")
    too_large = b'{"rating":"like","content":"' + b"x" * (70 * 1024) + b'"}'
    headers = {"Content-Type": "application/json"}
    refused(rate(dify_server, run_id, data=too_large, headers=headers), 413, "body_too_large")
    refused(requests.get(f"{dify_server.url}/runs/{run_id}/feedback", timeout=20), 405, "method_not_allowed")
    assert dify.calls("feedbacks") == []


def test_only_an_answer_that_is_a_message_can_be_rated(dify_server: Relay, dify: Dify) -> None:
    rating = {"json": {"rating": "like"}}
    demo = asked(dify_server, upstream="demo", prompt="/long 1")
    refused(rate(dify_server, demo["run_id"], **rating), 400, "not_supported")
    run_id = asked(dify_server)["run_id"]
    refused(rate(dify_server, run_id[:-1] + ("A" if run_id[-1] != "A" else "B"), **rating), 404, "run_not_found")
    refused(rate(dify_server, "x" * 26, **rating), 404, "other_instance")
    refused(rate(dify_server, "..%2f..%2fmessages", **rating), 404, "not_found")
    assert dify.calls("feedbacks") == []


@pytest.mark.parametrize(
    ("status", "code", "shown"),
    [(404, "not_found", 404), (401, "upstream_auth", 502), (429, "upstream_busy", 503), (500, "upstream_failed", 502)],
)
def test_what_dify_says_against_a_rating_is_told_in_words_of_ours(
    status: int, code: str, shown: int, dify_server: Relay, dify: Dify
) -> None:
    run_id = asked(dify_server)["run_id"]
    dify.routes["feedbacks"] = lambda call: as_json(call, status, {"code": "x", "message": "secret /srv/dify"})
    answer = rate(dify_server, run_id, json={"rating": "like"})
    assert "secret" not in refused(answer, shown, code)
    assert ("Retry-After" in answer.headers) == (shown == 503)


def test_suggested_questions_are_there_when_they_are_ready(dify: Dify) -> None:
    """Slow ones miss the end and are fetched from their own address, without a second call to Dify."""
    go: queue.Queue[None] = queue.Queue()
    quick = dify.routes["suggested"]

    def slow(call: Call) -> None:
        go.get(timeout=20)
        quick(call)

    on = {**PARAMETERS, "suggested_questions_after_answer": {"enabled": True}}
    dify.routes |= {"parameters": lambda call: as_json(call, 200, on), "suggested": slow}
    with scripted(dify) as upstream, relay(UPSTREAM="dify", UPSTREAM_URL=upstream.url) as server:
        requests.get(f"{server.url}/upstreams", timeout=20)
        run = asked(server)
        assert run["end"]["reason"] == "done"
        assert run["end"]["metadata"]["suggested_questions"] is None
        go.put(None)
        answer = requests.get(f"{server.url}/runs/{run['run_id']}/suggested", timeout=30)
        assert (answer.status_code, answer.json()) == (200, {"suggested_questions": ["And then?", "Why?"]})
        assert len(dify.calls("suggested")) == 1


def test_an_app_without_suggestions_says_so(dify_server: Relay) -> None:
    address = f"{dify_server.url}/runs/{asked(dify_server)['run_id']}/suggested"
    refused(requests.get(address, timeout=20), 400, "not_supported")
    assert requests.head(address, timeout=20).status_code == 405  # where there are some, a model would write them
    assert requests.get(address, headers={"Sec-Purpose": "prefetch"}, timeout=20).status_code == 403


def test_the_id_of_the_request_becomes_difys_trace_id(dify_server: Relay, dify: Dify) -> None:
    for route in ("stream?format=json", "chat", "runs"):
        headers = {"X-Request-Id": f"req-{route[:4]}"}
        answer = requests.post(f"{dify_server.url}/{route}", json={"prompt": "hi"}, headers=headers, timeout=20)
        assert answer.headers["X-Request-Id"] == headers["X-Request-Id"]
        body = json.loads(dify.arrived["chat-messages"].get(timeout=20).body)
        assert body["trace_id"] == headers["X-Request-Id"]
    answer = requests.post(f"{dify_server.url}/chat", json={"prompt": "hi"}, timeout=20)
    body = json.loads(dify.arrived["chat-messages"].get(timeout=20).body)
    assert body["trace_id"] == answer.headers["X-Request-Id"]
