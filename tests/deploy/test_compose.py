"""What docker-compose.yml, the image and the systemd unit promise, read from the files.

No Docker engine is needed. Where `docker-compose` is on PATH it reads its file as well.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

#: A task's budget as shipped (`[engine] task_seconds`); a batch in hand ends within it.
TASK_SECONDS = 5

SERVICES = ["postgres", "redis", "worker", "flower", "prometheus", "grafana"]
PUBLISHED = {"postgres", "redis", "flower", "prometheus", "grafana"}

#: `NAME` of `${NAME:?why}`: no default, refused when unset or empty.
REQUIRED = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")


def services() -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml, anchors resolved, variables not."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    return {str(name): body for name, body in yaml.safe_load(text)["services"].items()}


def seconds(duration: str) -> int:
    """Seconds of a duration such as `1m30s`."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found, duration
    return 60 * int(found[1] or 0) + int(found[2] or 0)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order: name and argument, lines joined, no comments."""
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = lines.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined if line.strip()]


def last_stage() -> dict[str, str]:
    """The instructions of the stage that becomes the image; of several alike, the last."""
    found = instructions()
    start = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    return dict(found[start:])


def test_these_services_are_there_and_nothing_else() -> None:
    """PostgreSQL 17, Redis 7, the worker, Flower, Prometheus and Grafana make up the whole."""
    found = services()
    assert list(found) == SERVICES
    assert found["postgres"]["image"] == "postgres:17"
    assert found["redis"]["image"] == "redis:7"


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_a_bounded_health_check(service: str) -> None:
    """Each service is asked for its health, and a check that hangs is given up."""
    check = services()[service]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert len(check["test"]) >= 2
    assert 0 < seconds(check["timeout"]) <= seconds(check["interval"])
    assert check["retries"] >= 1


@pytest.mark.parametrize("service", ["worker", "flower"])
def test_ours_start_once_postgres_and_redis_are_healthy(service: str) -> None:
    """Neither the worker nor Flower starts into a server that does not answer yet."""
    wanted = {"condition": "service_healthy"}
    assert services()[service]["depends_on"] == {"postgres": wanted, "redis": wanted}


@pytest.mark.parametrize(
    ("service", "variable", "secret"),
    [
        ("postgres", "POSTGRES_PASSWORD", "POSTGRES_PASSWORD"),
        ("redis", "REDISCLI_AUTH", "REDIS_PASSWORD"),
        ("worker", "BACKFILL_DATABASE_URL", "POSTGRES_PASSWORD"),
        ("worker", "BACKFILL_REDIS_URL", "REDIS_PASSWORD"),
        ("flower", "BACKFILL_DATABASE_URL", "POSTGRES_PASSWORD"),
        ("flower", "BACKFILL_REDIS_URL", "REDIS_PASSWORD"),
        ("flower", "FLOWER_BASIC_AUTH", "FLOWER_BASIC_AUTH"),
        ("grafana", "GF_SECURITY_ADMIN_PASSWORD", "GRAFANA_PASSWORD"),
    ],
)
def test_passwords_are_required_from_outside(service: str, variable: str, secret: str) -> None:
    """A password comes from the environment, without a default, and nowhere else."""
    value = services()[service]["environment"][variable]
    assert REQUIRED.findall(value) == [secret]


def test_no_variable_that_could_hold_a_secret_has_a_literal_or_a_default() -> None:
    """Whatever is named like a secret, or is a URL with a login, is required from outside."""
    for name, service in services().items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY|AUTH", variable):
                assert REQUIRED.fullmatch(value), (name, variable)
            for password in re.findall(r"://[^:/@\s]*:(.*)@", str(value)):
                assert REQUIRED.fullmatch(password), (name, variable)


def test_redis_keeps_what_it_is_given() -> None:
    """Redis writes an append-only file on a named volume, evicts nothing, and asks a password."""
    redis = services()["redis"]
    command = redis["command"]
    assert command[0] == "redis-server"  # the image's entry point drops root for this name only
    settings = dict(zip(command[1::2], command[2::2], strict=True))
    assert settings["--appendonly"] == "yes"
    assert settings["--maxmemory-policy"] == "noeviction"
    assert REQUIRED.fullmatch(settings["--requirepass"])
    assert redis["volumes"] == ["redis-data:/data"]


def test_data_is_on_named_volumes() -> None:
    """What the services keep is where `docker compose down` leaves it; the rest is read only."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    named = set(yaml.safe_load(text)["volumes"])
    mounts = [mount for service in services().values() for mount in service.get("volumes", ())]
    kept = [mount for mount in mounts if not mount.startswith("./")]
    assert {mount.split(":")[0] for mount in kept} == named
    assert len(kept) == len(named) == 4
    for mount in set(mounts) - set(kept):
        source, _, mode = mount.split(":")
        assert (ROOT / source).exists(), mount
        assert mode == "ro", mount


def test_ports_are_bound_to_loopback_only() -> None:
    """No service can be reached from another machine."""
    ports = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert set(ports) == PUBLISHED
    for published in ports.values():
        assert published
        for port in published:
            assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z]+_PORT:-\d+\}:\d+", port), port


def test_the_worker_has_more_time_to_stop_than_a_task_may_take() -> None:
    """I5: a worker told to stop can finish its task before it is killed, with room to spare."""
    worker = services()["worker"]
    assert seconds(worker["stop_grace_period"]) >= 3 * TASK_SECONDS
    assert worker["command"][0] == "worker"
    assert worker["init"] is True
    assert "entrypoint" not in worker


def test_flower_shows_our_pages_and_asks_for_a_login() -> None:
    """It listens beyond its container, so runs could not be changed without a login."""
    flower = services()["flower"]
    assert flower["command"] == ["flower", "--address=0.0.0.0", "--port=5555"]
    assert flower["environment"]["FLOWER_BASIC_AUTH"].startswith("${FLOWER_BASIC_AUTH:?")
    assert "entrypoint" not in flower


@pytest.mark.parametrize("service", ["worker", "flower", "prometheus", "grafana"])
def test_what_needs_no_rights_has_none(service: str) -> None:
    """Its container has no capability and cannot gain one."""
    assert services()[service]["cap_drop"] == ["ALL"]
    assert services()[service]["security_opt"] == ["no-new-privileges:true"]


def test_the_image_starts_backfill_without_a_shell() -> None:
    """SIGTERM reaches the worker: entry point and command are in exec form."""
    image = last_stage()
    assert json.loads(image["ENTRYPOINT"]) == ["backfill"]
    assert json.loads(image["CMD"]) == ["worker"]
    assert image["STOPSIGNAL"] == "SIGTERM"


def test_the_image_runs_as_an_ordinary_user() -> None:
    """The image's user is a number other than root's, so that a policy can check it."""
    user = re.fullmatch(r"(\d+):(\d+)", last_stage()["USER"])
    assert user
    assert int(user[1]) >= 1000
    assert int(user[2]) >= 1000


def test_the_image_is_installed_under_the_constraints() -> None:
    """The image has the versions that were tested, and the build's leftovers stay behind."""
    stages = [argument for name, argument in instructions() if name == "FROM"]
    assert len(stages) == 2
    installs = [argument for name, argument in instructions() if name == "RUN"]
    assert any("--constraint constraints.txt" in argument for argument in installs)
    assert "pip" not in last_stage()["RUN"]


def test_the_image_is_sent_all_that_it_copies_and_no_secret() -> None:
    """.dockerignore lets through what the Dockerfile copies, and nothing that is not named."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        word
        for name, argument in instructions()
        if name == "COPY" and "--from=" not in argument
        for word in argument.split()[:-1]
    }
    assert copied == admitted
    assert not any(".env" in name or ".git" in name for name in admitted)


def test_systemd_lets_the_worker_finish_its_task() -> None:
    """I5: systemd signals the main process alone, and waits longer than a task may take."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd minds the case
    unit.read_string((ROOT / "deploy" / "backfill-worker.service").read_text(encoding="utf-8"))
    service = unit["Service"]
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) >= 3 * TASK_SECONDS
    assert service["EnvironmentFile"].startswith("/etc/")
    assert service["ExecStart"].endswith("/backfill worker")
    assert service["User"] != "root"
    assert "Environment" not in service


# The plain name only: the engine's plug-in `docker compose` may be there without working.
if shutil.which("docker-compose"):
    SECRETS = {
        "POSTGRES_PASSWORD": "postgres1",
        "REDIS_PASSWORD": "redis1",
        "FLOWER_BASIC_AUTH": "flower:flower1",
        "GRAFANA_PASSWORD": "grafana1",
    }

    def compose_config(tmp_path: Path, secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `docker-compose config -q` with these variables, away from a developer's .env."""
        empty = tmp_path / "empty.env"
        empty.touch()
        return subprocess.run(
            [
                "docker-compose",
                "--env-file",
                str(empty),
                "-f",
                "docker-compose.yml",
                "config",
                "-q",
            ],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **secrets},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
        """docker-compose itself finds nothing wrong once the passwords are set."""
        done = compose_config(tmp_path, SECRETS)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("missing", list(SECRETS))
    def test_docker_compose_refuses_without_a_password(tmp_path: Path, missing: str) -> None:
        """A password that is not set stops docker-compose, which says where to set it."""
        others = {name: value for name, value in SECRETS.items() if name != missing}
        done = compose_config(tmp_path, others)
        assert done.returncode != 0
        assert "deploy/README.md" in done.stderr
