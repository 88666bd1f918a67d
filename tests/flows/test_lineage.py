"""`segtrail lineage`: what it tells stands in the files, and it needs no server."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from flows import cli
from flows.hand import roll_back_champion

PARAMS = {
    "seed": 1,
    "learning_rate": 0.01,
    "augmentation": {"flip": 0.5},
}  # as tests/flows/model_project.py has them


def test_a_version_leads_back_to_everything(
    three: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = three
    assert cli.main(["lineage", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["version"], record["bundle_sha256"], record["model"]) == ("2", second, "unet")
    assert record["data"]["md5"] == record["data"]["md5_now"] == "0123456789abcdef0123456789abcdef.dir"
    assert record["cases"] == {"train": 6, "validation": 0, "test": 6, "quarantined": 0}
    text = json.dumps(PARAMS, sort_keys=True, separators=(",", ":"))
    assert record["params"]["train"] == PARAMS
    assert record["params"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert record["code"]["git_commit"] == "c0ffee"
    dice = record["metrics"]["test/dice"]
    assert dice == {
        k: pytest.approx(v) for k, v in (("value", 0.925), ("ci_low", 0.915), ("ci_high", 0.935), ("n", 6))
    }
    decision = record["decision"]
    assert (decision["roles"], decision["gate"], decision["champion_before"]) == (
        ["champion"],
        "promoted",
        first,
    )
    assert "test/dice improves by 0.1000" in decision["reasons"][0]


def test_for_a_person(three: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = three
    roll_back_champion(None, "too slow")
    capsys.readouterr()
    assert cli.main(["lineage", "phantom@2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"phantom@{second[:12]}, version 2"
    found = {line.split()[0]: line for line in lines if not line.startswith(" ")}
    assert found["data"].endswith(
        "data/raw/phantom, md5 0123456789abcdef0123456789abcdef.dir (as it lies here now)"
    )
    assert found["cases"].endswith("6 train, 0 validation, 6 test, 0 quarantined")
    assert found["code"].startswith("code        commit c0ffee")
    assert "promoted (test/dice improves by 0.1000" in found["gate"]
    assert found["by"].startswith("by hand     replaced by rollback of ")
    assert found["by"].endswith(": too slow")
    assert found["now"].endswith("neither champion nor challenger")
    assert any(line.split() == ["test/dice", "0.9250", "[0.9150,", "0.9350]", "n=6"] for line in lines)
    assert "    flip: 0.5" in "\n".join(lines)
    assert lines[-1].endswith("git checkout c0ffee; dvc pull data/raw/phantom; dvc repro")


def test_from_the_archive_alone(three: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """As after `git clone` and `dvc pull data/registry` on another machine."""
    for name in (
        ".segtrail",
        "data/models",
        "data/metrics",
        "data/plan",
        "data/splits",
        "data/inspected",
        "dvc.lock",
    ):
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
    for place, sha256 in (("phantom@champion", three[1]), (f"phantom@{three[2][:8]}", three[2])):
        assert cli.main(["lineage", place]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"phantom@{sha256[:12]}, not in MLflow here"
        assert any("(not here now)" in line for line in lines)
    assert not Path(".segtrail").exists()
    assert cli.main(["lineage", "phantom@5"]) == 1
    assert three[0][:12] in capsys.readouterr().err
