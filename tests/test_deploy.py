"""The deploy files: each says what the platform needs, the same as the others, and what they start does start.

There is no Docker here: the image's instructions are read, and its files are started where only they are.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from jsonschema import validate

from app import create_app
from bench.start import memory_bytes, worker_of
from streaming.settings import VARIABLES, Settings
from tests.live import free_port, wait_until

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "deploy.md").read_text("utf-8")
COMMAND = ["gunicorn", "app:app"]
MEMORY_BYTES = 512 << 20  # what the settings' defaults fit


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


APP_JSON = json.loads(text("app.json"))
RENDER = yaml.safe_load(text("render.yaml"))["services"][0]
FLY = tomllib.loads(text("fly.toml"))
RAILWAY = json.loads(text("railway.json"))
CLOUD_RUN = yaml.safe_load(text("deploy/cloudrun.yaml"))
DEPLOYMENT, SERVICE = yaml.safe_load_all(text("deploy/kubernetes.yaml"))
COMPOSE = yaml.safe_load(text("deploy/docker-compose.yml"))
POD = DEPLOYMENT["spec"]["template"]["spec"]
CLOUD_RUN_POD = CLOUD_RUN["spec"]["template"]["spec"]


def values(env: list[dict[str, Any]], name: str = "name") -> dict[str, str]:
    return {each[name]: each["value"] for each in env if "value" in each}


ENVIRONMENTS: dict[str, dict[str, str]] = {
    "app.json": {name: each["value"] for name, each in APP_JSON["env"].items() if "value" in each},
    "render.yaml": values(RENDER["envVars"], "key"),
    "fly.toml": FLY["env"],
    "deploy/cloudrun.yaml": values(CLOUD_RUN_POD["containers"][0]["env"]),
    "deploy/kubernetes.yaml": values(POD["containers"][0]["env"]),
    "deploy/docker-compose.yml": COMPOSE["x-relay"]["environment"],
}

# -- what is started ---------------------------------------------------------------------------------------------------


def test_all_start_the_same() -> None:
    assert text("Procfile").splitlines() == [f"web: {shlex.join(COMMAND)}"]
    assert shlex.split(RENDER["startCommand"]) == COMMAND
    assert instructions()["CMD"] == [json.dumps(COMMAND)]
    assert "startCommand" not in RAILWAY["deploy"]  # the image's own
    assert RAILWAY["build"]["dockerfilePath"] == FLY["build"]["dockerfile"] == "Dockerfile"
    for container in (POD["containers"][0], CLOUD_RUN_POD["containers"][0], COMPOSE["x-relay"]):
        assert not {"command", "args", "entrypoint"} & container.keys()


@contextmanager
def started(command: str, folder: Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a command as a platform does: in a shell that it replaces, with PORT. Yields the URL."""
    port = free_port()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=folder,
        env={"PATH": path, "PORT": str(port), "HOME": "/nonexistent", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_ready(url, process), "it is ready")
        yield url, process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def is_ready(url: str, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    try:
        return requests.get(f"{url}/readyz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_the_procfile_starts_where_the_platforms_router_finds_it() -> None:
    _, _, command = text("Procfile").strip().partition(": ")
    with started(command, ROOT, WEB_CONCURRENCY="4", **ENVIRONMENTS["app.json"]) as (url, process):
        visitor = {"X-Visitor-Token": requests.post(f"{url}/visitor", timeout=10).json()["token"]}
        run = requests.post(f"{url}/runs", json={"prompt": "hi"}, headers=visitor, timeout=10).json()
        with requests.get(f"{url}{run['events_url']}", timeout=10, stream=True) as answer:
            assert answer.status_code == 200
        listening = Path("/proc/net/tcp").read_text()
        assert f"00000000:{int(url.rpartition(':')[2]):04X} 00000000:0000 0A" in listening  # from outside too
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "WEB_CONCURRENCY=4: 1 worker" in output  # builders set WEB_CONCURRENCY by themselves


# -- the image ---------------------------------------------------------------------------------------------------------


def instructions() -> dict[str, list[str]]:
    """Return the Dockerfile's instructions, each with its arguments."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", text("Dockerfile")).splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, arguments = line.partition(" ")
            found.setdefault(name, []).append(arguments.strip())
    return found


def copied() -> dict[str, str]:
    """Return what is copied into the image: source -> place."""
    pairs = {}
    for arguments in instructions()["COPY"]:
        *sources, place = arguments.split()
        pairs |= {source: (source if place == "./" else place) for source in sources}
    return pairs


def test_the_image_runs_what_is_locked_as_nobody_and_gets_the_signal() -> None:
    found = instructions()
    assert [json.loads(each) for name in ("RUN", "CMD") for each in found[name]]  # no shell anywhere
    (install,) = [json.loads(each) for each in found["RUN"] if "install" in each]
    assert "--require-hashes" in install
    assert install[install.index("-r") + 1] == "requirements.txt"
    user, _, _ = found["USER"][-1].partition(":")
    assert int(user) == POD["securityContext"]["runAsUser"] > 0
    assert found["STOPSIGNAL"] == ["SIGTERM"]
    assert "PORT=8000" in found["ENV"][0].split()
    assert {FLY["http_service"]["internal_port"], *ports()} == {8000} == {int(found["EXPOSE"][0])}
    order = [line.split()[0] for line in text("Dockerfile").splitlines() if re.match(r"[A-Z]+ ", line)]
    assert order.index("USER") > max(number for number, name in enumerate(order) if name in {"RUN", "COPY"})


def ports() -> list[int]:
    return [pod["containers"][0]["ports"][0]["containerPort"] for pod in (POD, CLOUD_RUN_POD)]


def test_only_what_is_copied_is_sent_and_no_secret_is() -> None:
    lines = [line for line in text(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied().keys()
    assert not any(fnmatch(name, pattern) for pattern in copied() for name in (".env", ".git", "tests"))


def test_what_is_in_the_image_is_enough(tmp_path: Path) -> None:
    for source, place in copied().items():
        there = ROOT / source
        copy = shutil.copytree if there.is_dir() else shutil.copy
        copy(there, tmp_path / place)
    with started(shlex.join(COMMAND), tmp_path, PYTHONDONTWRITEBYTECODE="1") as (url, _):
        for path in ("/static/chat.js", "/static/chat.css", "/client.js", "/embed.js", "/openapi.json", "/upstreams"):
            assert requests.get(f"{url}{path}", timeout=10).status_code == 200, path
        page = requests.get(f"{url}/", headers={"Accept": "text/html"}, timeout=10)
        assert page.status_code == 200
        assert "<html" in page.text


def test_python_is_one_that_is_supported() -> None:
    lowest = tomllib.loads(text("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    versions = [text(".python-version").strip(), re.findall(r"python:([\d.]+)-slim", text("Dockerfile"))[0]]
    assert all(re.fullmatch(r"3\.\d+", version) for version in versions)  # no patch level: platforms choose the newest
    assert all(int(version[2:]) >= int(lowest[2:]) for version in versions)
    assert not (ROOT / "runtime.txt").exists()  # Heroku's old name for .python-version


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ENVIRONMENTS)
def test_every_setting_exists_and_its_value_is_allowed(file: str) -> None:
    environment = ENVIRONMENTS[file]
    assert environment.keys() - set(VARIABLES) == set()
    Settings.from_env(environment)


GRACES = {  # file -> what the platform waits between SIGTERM and SIGKILL
    "app.json": 30,  # Heroku's, fixed
    "render.yaml": RENDER["maxShutdownDelaySeconds"],
    "fly.toml": FLY["kill_timeout"],
    "deploy/cloudrun.yaml": 10,  # fixed
    "deploy/kubernetes.yaml": POD["terminationGracePeriodSeconds"]
    - int(POD["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1]),
    "deploy/docker-compose.yml": int(COMPOSE["x-relay"]["stop_grace_period"].removesuffix("s")),
}


@pytest.mark.parametrize("file", ENVIRONMENTS)
def test_the_relay_knows_how_long_the_platform_waits(file: str) -> None:
    assert float(ENVIRONMENTS[file]["SHUTDOWN_GRACE_SECONDS"]) == GRACES[file]


def test_railway_cannot_set_variables_so_its_draining_is_the_default() -> None:
    assert RAILWAY["deploy"]["drainingSeconds"] == Settings().shutdown_grace_seconds
    assert type(RAILWAY["deploy"]["drainingSeconds"]) is int  # a text, as its manual once had it, stops the deploy


def test_a_first_deploy_is_safe_and_its_secret_is_made_not_written() -> None:
    for file, environment in ENVIRONMENTS.items():
        if file != "deploy/docker-compose.yml":  # on this machine alone
            assert environment["PUBLIC_PAGE"] == "1", file
        assert "SECRET_KEY" not in environment, file
    assert APP_JSON["env"]["SECRET_KEY"]["generator"] == "secret"
    assert {"key": "SECRET_KEY", "generateValue": True} in RENDER["envVars"]
    assert "secretKeyRef" in CLOUD_RUN_POD["containers"][0]["env"][-1]["valueFrom"]
    assert "secretRef" in POD["containers"][0]["envFrom"][0]
    assert "fly secrets set SECRET_KEY=" in text("fly.toml")
    assert COMPOSE["services"]["nginx"]["ports"] == ["127.0.0.1:8080:80"]


# -- one process, small ------------------------------------------------------------------------------------------------


def size_bytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(mb|M|Mi)", size).groups()  # type: ignore[union-attr]
    return int(number) * {"mb": 1 << 20, "M": 1 << 20, "Mi": 1 << 20}[unit]


def test_one_process_where_nothing_is_shared() -> None:
    assert [file for file, environment in ENVIRONMENTS.items() if "REDIS_URL" in environment] == [
        "deploy/docker-compose.yml"
    ]
    annotations = CLOUD_RUN["spec"]["template"]["metadata"]["annotations"]
    assert APP_JSON["formation"]["web"]["quantity"] == RENDER["numInstances"] == 1
    assert RAILWAY["deploy"]["numReplicas"] == DEPLOYMENT["spec"]["replicas"] == 1
    assert annotations["autoscaling.knative.dev/maxScale"] == annotations["autoscaling.knative.dev/minScale"] == "1"
    assert annotations["run.googleapis.com/cpu-throttling"] == "false"
    http = FLY["http_service"]
    assert (http["auto_stop_machines"], http["min_machines_running"]) == ("off", 1)
    assert "--ha=false" in text("fly.toml")


def test_the_defaults_fit_the_memory() -> None:
    limits = [
        POD["containers"][0]["resources"]["limits"]["memory"],
        CLOUD_RUN_POD["containers"][0]["resources"]["limits"]["memory"],
        FLY["vm"][0]["memory"],
        COMPOSE["x-relay"]["deploy"]["resources"]["limits"]["memory"],
    ]
    assert [size_bytes(limit) for limit in limits] == [MEMORY_BYTES] * len(limits)
    assert all("cpus" in service["deploy"]["resources"]["limits"] for service in COMPOSE["services"].values())
    assert Settings().log_max_bytes <= MEMORY_BYTES // 2


# -- what each platform looks at ---------------------------------------------------------------------------------------


def test_the_probes_ask_what_is_there() -> None:
    container, cloud_run = POD["containers"][0], CLOUD_RUN_POD["containers"][0]
    ready = [
        container["startupProbe"]["httpGet"]["path"],
        container["readinessProbe"]["httpGet"]["path"],
        cloud_run["startupProbe"]["httpGet"]["path"],
        FLY["http_service"]["checks"][0]["path"],
        RAILWAY["deploy"]["healthcheckPath"],
    ]
    alive = [
        container["livenessProbe"]["httpGet"]["path"],
        cloud_run["livenessProbe"]["httpGet"]["path"],
        RENDER["healthCheckPath"],  # it restarts what answers 503
    ]
    assert set(ready) == {"/readyz"}
    assert set(alive) == {"/healthz"}
    assert {"/readyz", "/healthz"} <= {rule.rule for rule in create_app(Settings()).url_map.iter_rules()}


def test_signals_and_roll_outs_lose_nothing() -> None:
    assert FLY["kill_signal"] == COMPOSE["x-relay"]["stop_signal"] == "SIGTERM"
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert POD["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][0] == "sleep"
    longest = CLOUD_RUN_POD["timeoutSeconds"]
    assert Settings().run_max_seconds < float(ENVIRONMENTS["deploy/cloudrun.yaml"]["STREAM_MAX_SECONDS"]) < longest
    assert FLY["http_service"]["concurrency"]["type"] == "connections"


def test_the_pod_may_do_nothing_it_need_not() -> None:
    container = POD["containers"][0]
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["volumeMounts"] == [{"name": POD["volumes"][0]["name"], "mountPath": "/tmp"}]
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert SERVICE["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def known(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": list(properties)}


ANY: dict[str, Any] = {}
HEROKU = {  # what we use of devcenter.heroku.com/articles/app-json-schema
    **known(
        name={"type": "string", "maxLength": 30},
        description={"type": "string"},
        keywords={"type": "array", "items": {"type": "string"}},
        success_url={"const": "/"},
        stack={"enum": ["heroku-22", "heroku-24"]},
        buildpacks={"const": [{"url": "heroku/python"}]},
        formation=known(web=known(quantity={"type": "integer"}, size={"enum": ["eco", "basic", "standard-1x"]})),
        env={
            "type": "object",
            "propertyNames": {"pattern": "^[A-Z][A-Z0-9_]*$"},
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "description": {"type": "string"},
                    "value": {"type": "string"},
                    "generator": {"const": "secret"},
                    "required": {"type": "boolean"},
                },
                "additionalProperties": False,
                "required": ["description"],
            },
        },
    )
}
RENDER_SERVICE = known(
    type={"const": "web"},
    name={"type": "string"},
    runtime={"const": "python"},
    plan={"enum": ["free", "starter", "standard"]},
    numInstances={"type": "integer"},
    buildCommand={"const": "pip install --require-hashes -r requirements.txt"},
    startCommand={"type": "string"},
    healthCheckPath={"type": "string"},
    maxShutdownDelaySeconds={"type": "integer", "minimum": 1, "maximum": 300},
    envVars={
        "type": "array",
        "items": {
            "oneOf": [
                known(key=ANY, value={"type": "string"}),
                known(key=ANY, generateValue={"const": True}),
                known(key=ANY, sync={"const": False}),
            ]
        },
    },
)
RAILWAY_FILE = {
    **known(
        build=known(builder={"const": "DOCKERFILE"}, dockerfilePath={"type": "string"}),
        deploy=known(
            numReplicas={"type": "integer"},
            healthcheckPath={"type": "string"},
            healthcheckTimeout={"type": "integer"},
            drainingSeconds={"type": "integer"},
            restartPolicyType={"enum": ["ON_FAILURE", "ALWAYS", "NEVER"]},
            restartPolicyMaxRetries={"type": "integer"},
        ),
        **{"$schema": {"const": "https://railway.com/railway.schema.json"}},
    )
}


@pytest.mark.parametrize(
    ("value", "schema"),
    [(APP_JSON, HEROKU), (RENDER, RENDER_SERVICE), (RAILWAY, RAILWAY_FILE)],
    ids=["heroku", "render", "railway"],
)
def test_the_files_have_the_platforms_keys(value: Any, schema: dict[str, Any]) -> None:
    validate(value, schema)


def test_manifests_are_of_the_kinds_they_say() -> None:
    assert (DEPLOYMENT["apiVersion"], DEPLOYMENT["kind"]) == ("apps/v1", "Deployment")
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("v1", "Service")
    assert (CLOUD_RUN["apiVersion"], CLOUD_RUN["kind"]) == ("serving.knative.dev/v1", "Service")
    assert CLOUD_RUN_POD["containerConcurrency"] <= 1000


# -- docs/deploy.md ----------------------------------------------------------------------------------------------------


def test_the_docs_tell_every_file_and_its_grace() -> None:
    rows = {
        row[0]: row for row in re.findall(r"^\| \[`([^`]+)`\]\(\.\./([^)]+)\) \|.*\| (\d+) s \|", DOCS, re.MULTILINE)
    }
    assert rows.keys() == {*ENVIRONMENTS, "railway.json"}
    for file, (_, target, seconds) in rows.items():
        assert target == file
        assert (ROOT / file).exists()
        assert float(seconds) == {**GRACES, "railway.json": RAILWAY["deploy"]["drainingSeconds"]}[file]


# -- what it costs to be there -----------------------------------------------------------------------------------------

SELDOM_NEEDED = ("redis", "jwt", "cryptography", "opentelemetry", "schemathesis", "unittest", "pytest")


def test_an_idle_worker_fits_sixty_megabytes() -> None:
    with started(shlex.join(COMMAND), ROOT) as (_, process):
        assert memory_bytes(worker_of(process.pid))["Rss"] < 60_000_000


def test_what_few_need_is_not_loaded_for_all() -> None:
    """It would make every start slower."""
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, app; app.create_app(app.Settings())\n"
        f"print(sorted({set(SELDOM_NEEDED)!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
