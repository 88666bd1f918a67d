"""The champion on another machine: a clone and `dvc pull data/registry` are all it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import model_project as made
import nibabel
import numpy as np
import pytest
from project_copy import copy_project, environment
from test_served_model import write_real_bundle

pytestmark = pytest.mark.slow
ID = ("-c", "user.name=Test", "-c", "user.email=test@example.org")


def run(folder: Path, *command: str, home: Path | None = None) -> str:
    """A command as a user types it there; its output."""
    own = environment() | ({"HOME": str(home)} if home else {}) | {"SEGTRAIL_NO_PREFECT": "1"}
    own.pop("PYTHONPATH", None)
    words = [sys.executable, "-m", *command] if command[0] in ("dvc", "flows.cli") else [*command]
    done = subprocess.run(
        words, cwd=folder, env=own, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_champion(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills a copy of the project with a registered model whose network is real, and commits what `repro` writes."""
    copy_project(project)
    monkeypatch.chdir(project)
    made.write_project()
    made.train("unet", "replaced")
    write_real_bundle()
    made.evaluate("unet", (0.9,) * 6)
    run(project, "dvc", "repro", "--single-item", "register")
    run(project, "git", "add", "-A")
    run(project, "git", *ID, "commit", "-qm", "A champion")


def write_image(path: Path) -> None:
    voxels = np.random.default_rng(3).normal(-300, 350, (24, 20, 18)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-2.0, 2.0, 3.0, 1.0])), path)


def test_a_clone_and_the_registry_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, clone, remote, home = (tmp_path / name for name in ("first", "clone", "remote", "home"))
    for folder in (first, home):
        folder.mkdir()
    make_champion(first, monkeypatch)
    run(first, "dvc", "remote", "add", "--default", "store", str(remote))
    run(first, "git", *ID, "commit", "-qam", "Name the remote")
    run(first, "dvc", "push", "data/registry")
    image = tmp_path / "case.nii.gz"
    write_image(image)
    predict = ("flows.cli", "predict", str(image), "--model", "phantom@champion", "--devices", "cpu", "-o")
    run(first, *predict, "out")
    lineage = json.loads(run(first, "flows.cli", "lineage", "phantom@champion", "--json"))
    shutil.move(first, tmp_path / "gone.git")  # nothing may be read from there any more
    run(tmp_path, "git", "clone", "-q", "gone.git", "clone", home=home)
    shutil.move(tmp_path / "gone.git" / "out", tmp_path / "expected")
    shutil.rmtree(tmp_path / "gone.git")

    run(clone, "dvc", "pull", "data/registry", home=home)
    run(clone, *predict, "out", home=home)
    for name in ("case_labels.nii.gz", "case_instances.nii.gz"):
        assert (clone / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    record = json.loads((clone / "out" / "case.json").read_text())
    decision = json.loads((clone / "data/registry/decision.json").read_text())
    assert record["model"]["bundle_sha256"] == decision["champion_after"]
    there = json.loads(run(clone, "flows.cli", "lineage", "phantom@champion", "--json", home=home))
    differing = {key for key in lineage if lineage[key] != there[key]}
    assert differing <= {"version"}  # the number is MLflow's, which is not there
    assert there["bundle_sha256"] == decision["champion_after"]
    assert not (clone / ".segtrail/mlflow.db").exists()
    assert sorted(path.name for path in (clone / "data").iterdir()) == ["README.md", "registry"]
    assert os.environ["HOME"] != str(home)
