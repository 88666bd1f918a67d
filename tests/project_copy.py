"""A copy of the project that a test runs as a user would: its own params, data and databases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]


def change_params(project: Path, changes: dict[tuple[str, ...], Any]) -> None:
    yaml = YAML()
    path = project / "params.yaml"
    tree = yaml.load(path.read_text(encoding="utf-8"))
    for keys, value in changes.items():
        section = tree
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(tree, stream)


def environment() -> dict[str, str]:
    """Without what the test process itself has set: a user's shell has none of it.

    Only the folder of the identities that were met stays a test's own: that of the user is not for tests.
    """
    ours = ("PREFECT_", "MLFLOW_", "SEGTRAIL_", "DVC_")
    private = "SEGTRAIL_PRIVATE_DIR"
    kept = {key: value for key, value in os.environ.items() if key == private or not key.startswith(ours)}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project, env=environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def copy_project(target: Path) -> None:
    """What a fresh clone of the working tree holds."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for command in (
        ["git", "init", "-q", "-b", "main"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "-qm", "Start"],
    ):
        subprocess.run(command, cwd=target, check=True, capture_output=True)


def make_bare_project(folder: Path) -> None:
    """Git, DVC, shipped params, presets and stages, as a clone has them; the code is that of the checkout."""
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    for name in ("params.yaml", "dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "presets", folder / "presets")
