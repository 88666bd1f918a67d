"""`compose.yaml`: what can be checked where no Docker is. It has not been started here."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
LOCKED = dict(
    line.split("==")
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if re.fullmatch(r"[\w-]+==[\w.]+", line)
)


def test_every_port_is_open_to_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports), ports


def test_versions_are_those_of_the_lock() -> None:
    named = re.findall(r"([a-z0-9-]+)(?:\[\w+\])?==([\d.]+)", TEXT)
    assert {name for name, _ in named} >= {
        "mlflow",
        "prefect",
        "sqlalchemy",
        "fastapi",
        "asyncpg",
        "psycopg2-binary",
        "boto3",
    }
    assert dict(named) == {name: LOCKED[name] for name, _ in named}
    assert all(re.fullmatch(r".+:[^:]*\d[^:]*", service["image"]) for service in SERVICES.values())


def test_no_secret_has_a_default_and_each_has_an_example() -> None:
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if not line.startswith("#")
    )
    wanted = set(re.findall(r"\$\{(\w+)", TEXT)) - set(re.findall(r"\$\{(\w+):-", TEXT))
    assert wanted == set(example)
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    shown = subprocess.run(["git", "check-ignore", "-q", ".env.example"], cwd=ROOT, check=False)
    assert shown.returncode == 1
    commands = [" ".join(map(str, service.get("command", []))) for service in SERVICES.values()]
    assert not [command for command in commands if re.search(r"PASSWORD|SECRET|KEY|AUTH", command)]


def test_what_is_waited_for_can_be_healthy() -> None:
    for service in SERVICES.values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition["condition"] != "service_healthy" or "healthcheck" in SERVICES[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "command"), [("mlflow", "mlflow server"), ("prefect", "prefect server start")]
)
def test_options_exist_in_the_installed_versions(service: str, command: str) -> None:
    script = SERVICES[service]["command"][-1]
    started = script.partition(f"exec {command}")[2]
    options = {word for word in shlex.split(started) if word.startswith("--")}
    module, *rest = command.split()
    run = subprocess.run(
        [sys.executable, "-m", module, *rest, "--help"],
        env={"COLUMNS": "200", "PATH": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert options
    assert {option for option in options if option not in run.stdout} == set()
