"""GET /upstreams of a live relay: what a page needs, quickly, whatever an upstream does."""

import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live import Call, Relay, free_port, relay, scripted
from tests.scripted_dify import PARAMETERS, Dify, as_json

UNKNOWN = {"opening": None, "suggestions": None, "form": None, "files": None}
NOTHING = {
    "opening": "",
    "suggestions": [],
    "form": [],
    "files": {"max_count": 0, "transfer_methods": [], "kinds": {}},
}


def told(server: Relay) -> list[dict[str, Any]]:
    answer = requests.get(f"{server.url}/upstreams", timeout=20)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()["upstreams"]  # type: ignore[no-any-return]


def test_a_bare_model_has_nothing_but_its_name(server: Relay) -> None:
    assert told(server) == [{"name": "openai", "dialect": "openai", "model": "m", **NOTHING}]


def test_a_page_learns_how_to_begin_and_what_to_ask_for(dify_server: Relay) -> None:
    app, demo = told(dify_server)
    assert (app["name"], app["dialect"], app["model"]) == ("app", "dify", None)
    assert app["opening"] == PARAMETERS["opening_statement"]
    assert app["suggestions"] == PARAMETERS["suggested_questions"]
    assert [field["name"] for field in app["form"]] == ["name", "tone"]
    assert app["form"][0] == {
        "name": "name",
        "label": "Your name",
        "kind": "text",
        "required": True,
        "options": None,
        "max_length": 48,
        "default": "",
        "files": None,
    }
    assert app["form"][1]["options"] == ["kind", "dry"]
    assert app["files"]["max_count"] == 3
    assert app["files"]["kinds"]["image"]["max_bytes"] == 1 << 20
    assert demo == {"name": "demo", "dialect": "demo", "model": "demo", **NOTHING}


def test_sizes_are_the_lower_of_the_apps_and_the_relays() -> None:
    script = Dify()
    field = {"file": {"variable": "f", "allowed_file_types": ["video"]}}
    script.routes["parameters"] = lambda call: as_json(call, 200, {**PARAMETERS, "user_input_form": [field]})
    with scripted(script) as upstream:
        with relay(UPSTREAM="dify", UPSTREAM_URL=upstream.url, MAX_UPLOAD_BYTES="1536KiB") as server:
            (app,) = told(server)
    assert app["files"]["kinds"]["image"]["max_bytes"] == 1 << 20
    assert app["files"]["kinds"]["document"]["max_bytes"] == 1536 << 10
    assert app["form"][0]["files"]["kinds"]["video"]["max_bytes"] == 1536 << 10


def silent(call: Call) -> None:
    call.await_close()


def test_apps_that_say_nothing_delay_the_list_for_a_moment_only(tmp_path: Path) -> None:
    """Both together no longer than one."""
    script = Dify()
    script.routes["parameters"] = silent
    with scripted(script) as upstream:
        tables = [f'[[upstream]]\nname = "{n}"\ndialect = "dify"\nurl = "{upstream.url}"\n' for n in ("one", "two")]
        (tmp_path / "upstreams.toml").write_text("".join(tables))
        with relay(UPSTREAMS_FILE=str(tmp_path / "upstreams.toml")) as server:
            begun = time.monotonic()
            assert told(server) == [{"name": n, "dialect": "dify", "model": None, **UNKNOWN} for n in ("one", "two")]
            assert time.monotonic() - begun < 8  # the calls themselves are given 10 s each
            assert len(script.calls("parameters")) == 2


@pytest.mark.parametrize("status", [None, 401, 500])
def test_an_app_that_cannot_be_asked_is_listed_all_the_same(status: int | None) -> None:
    script = Dify()
    script.routes["parameters"] = lambda call: as_json(call, status or 200, {"code": "x", "message": "secret"})
    with scripted(script) as upstream:
        url = upstream.url if status else f"http://127.0.0.1:{free_port()}/v1"
        with relay(UPSTREAM="dify", UPSTREAM_URL=url, UPSTREAM_API_KEY="app-secret") as server:
            for _ in range(3):
                assert told(server) == [{"name": "dify", "dialect": "dify", "model": None, **UNKNOWN}]
            assert len(script.calls("parameters")) == (1 if status else 0)
            assert "secret" not in server.log()
            assert "could not be fetched" in server.log()


def test_a_start_asks_no_upstream_anything() -> None:
    script = Dify()
    with scripted(script) as upstream:
        with relay(UPSTREAM="dify", UPSTREAM_URL=upstream.url) as server:
            assert upstream.calls == []
            assert told(server)[0]["opening"]
            assert len(upstream.calls) == 1
