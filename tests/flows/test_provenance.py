"""Provenance: digests against hand-made lock files, commits against git itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from flows import provenance

LOCK = {
    "schema": "2.0",
    "stages": {
        "phantom@phantom": {"cmd": "p", "outs": [{"path": "data/raw/phantom", "md5": "a.dir"}]},
        "inspect": {"cmd": "i", "deps": [{"path": "data/raw/phantom", "hash": "md5", "md5": "a.dir"}]},
        "split": {"cmd": "s"},
        "plan": {"cmd": "p"},
        "preprocess": {"cmd": "pp"},
        "train@unet": {"cmd": "t"},
        "predict@unet": {"cmd": "pr"},
        "evaluate@unet": {"cmd": "e"},
        "train@other": {"cmd": "t2"},
        "register": {"cmd": "r"},
    },
}  # fmt: skip


def write_lock(**changes: object) -> None:
    """Writes `dvc.lock` with some stages replaced; None removes one."""
    stages = {name: entry for name, entry in (LOCK["stages"] | changes).items() if entry is not None}  # type: ignore[operator]
    Path("dvc.lock").write_text(yaml.safe_dump({**LOCK, "stages": stages}))


def test_data_digest(project: Path) -> None:
    assert provenance.data_digest("phantom") == "unknown"
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/phantom.dvc").write_text("outs:\n- md5: b.dir\n  path: phantom\n")
    assert provenance.data_digest("phantom") == "b.dir"
    write_lock()
    assert provenance.data_digest("phantom") == "a.dir"  # what was read counts, not what was noted
    assert provenance.data_digest("hippocampus") == "unknown"


def test_lock_digest_is_canonical(project: Path) -> None:
    Path("dvc.lock").write_text("stages:\n  split:\n    cmd: s\n    b: 1\n")
    text = '{"split":{"b":1,"cmd":"s"}}'  # keys sorted, no blanks
    assert provenance.lock_digest("phantom") == hashlib.sha256(text.encode()).hexdigest()


def test_lock_digest_covers_what_the_model_rests_on(project: Path) -> None:
    assert provenance.lock_digest("phantom", "unet") == "unknown"
    write_lock()
    before = provenance.lock_digest("phantom", "unet")
    for name in ("register", "train@other"):
        write_lock(**{name: {"cmd": "changed"}, "report": {"cmd": "new"}})
        assert provenance.lock_digest("phantom", "unet") == before
    for name in ("phantom@phantom", "inspect", "split", "plan", "preprocess", "train@unet", "evaluate@unet"):
        write_lock(**{name: {"cmd": "changed"}})
        assert provenance.lock_digest("phantom", "unet") != before
    write_lock(**{"train@unet": {"cmd": "changed"}})
    while_training = provenance.lock_digest("phantom")
    write_lock()
    assert provenance.lock_digest("phantom") == while_training


@pytest.mark.parametrize("damage", ["", "stages: [", "just text", "stages:\n"])
def test_damaged_lock_is_no_reason_to_fail(project: Path, damage: str) -> None:
    Path("dvc.lock").write_text(damage)
    assert provenance.data_digest("phantom") == "unknown"
    assert provenance.lock_digest("phantom") == "unknown"


def test_commit_and_dirty_flag(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    assert provenance.git_commit() == "unknown"
    assert not provenance.git_dirty()
    write_lock()

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert provenance.git_commit() == git("rev-parse", "HEAD").strip()
    assert not provenance.git_dirty()
    write_lock(split=None)
    assert not provenance.git_dirty()  # dvc.lock changes during every run
    Path("params.yaml").write_text("models: []\n")
    assert provenance.git_dirty()


def test_collect(project: Path) -> None:
    write_lock()
    record = provenance.collect_provenance("unet")
    assert record["dataset"] == "phantom"
    assert record["data_digest"] == "a.dir"
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["packages"]["mlflow"] == metadata.version("mlflow")


def test_serving_requirements_can_be_installed() -> None:
    lines = provenance.serving_requirements()
    assert f"nibabel=={metadata.version('nibabel')}" in lines
    assert not [line for line in lines if "+" in line]  # a local build tag is on no package index


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, flows.provenance; sys.exit(bool({'mlflow', 'torch', 'prefect'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
