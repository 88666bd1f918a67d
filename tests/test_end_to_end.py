"""The whole loop on a small phantom: from nothing to a registered champion, and what a second run costs.

The tests share one project; each begins and ends with everything up to date.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from project_copy import change_params, copy_project, environment, load_json, run

SMALL = {
    ("phantom", "cases"): 14,
    ("phantom", "shape"): [64, 56, 48],
    ("plan", "max_patch_voxels"): 16384,
    ("plan", "base_features"): 4,
    ("train", "unet", "max_epochs"): 2,
    ("train", "unet", "max_minutes"): 60.0,
    ("train", "unet", "steps_per_epoch"): 4,
    ("train", "unet", "validate_every_epochs"): 2,
    ("train", "unet", "checkpoint_every_steps"): 2,
    ("plan", "detection_zoom"): 1.0,
    ("plan", "detection_window"): [64, 64],
    ("train", "maskrcnn", "max_epochs"): 2,
    ("train", "maskrcnn", "max_minutes"): 60.0,
    ("train", "maskrcnn", "steps_per_epoch"): 2,
    ("train", "maskrcnn", "validate_every_epochs"): 2,
    ("train", "maskrcnn", "batch_size"): 2,
    ("train", "maskrcnn", "pyramid_channels"): 16,
    ("train", "maskrcnn", "head_channels"): 16,
    ("train", "maskrcnn", "proposals"): 20,
    ("predict", "min_score"): 0.4,
    ("register", "min_cases"): 2,
}
pytestmark = pytest.mark.slow
MODELS = ("unet", "maskrcnn")
RUNNING = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)


def repro(project: Path) -> str:
    """A plain `dvc repro`, without any server; returns its output."""
    result = run(project, "dvc", "repro")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def executed(output: str) -> list[str]:
    return RUNNING.findall(output)


def ask_mlflow(project: Path, question: str) -> Any:
    """Evaluates an expression with `client` in a process of the project."""
    code = (
        "import flows, json; from mlflow import MlflowClient; client = MlflowClient(); "
        f"print(json.dumps({question}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


CHAMPION = (
    "(lambda v: [str(v.version), v.tags['segtrail.bundle_sha256']])"
    "(client.get_model_version_by_alias('phantom', 'champion'))"
)
RUNS = (
    "[[r.data.tags['segtrail.model'], r.data.metrics.get('test/dice'), r.data.metrics.get('test/mask_map_10_50'),"
    " r.data.metrics.get('train/loss'), len(r.data.params) > 10,"
    " len(r.inputs.dataset_inputs), sorted(a.path for a in client.list_artifacts(r.info.run_id))]"
    " for e in client.search_experiments() for r in client.search_runs([e.experiment_id])]"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh clone in which `segtrail repro` has run once."""
    target = tmp_path_factory.mktemp("project")
    copy_project(target)
    change_params(target, SMALL)
    result = run(target, "flows.cli", "repro")
    assert result.returncode == 0, result.stdout + result.stderr
    (target / "first_run.log").write_text(result.stdout + result.stderr, encoding="utf-8")
    yield target
    here = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(target)]
    _, alive = psutil.wait_procs(here, timeout=60)
    orphans = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    for process in orphans:
        process.kill()
    assert not orphans, orphans


def test_the_first_run_leaves_a_champion_and_a_report(project: Path) -> None:
    decision = load_json(project / "data/registry/decision.json")
    assert decision["promoted"]
    assert ask_mlflow(project, CHAMPION)[1] == decision["champion_after"]
    trained = [load_json(project / f"data/models/{model}/run.json")["bundle_sha256"] for model in MODELS]
    assert [version["bundle_sha256"] for version in decision["versions"]] == trained
    assert "<html" in (project / "data/report/index.html").read_text(encoding="utf-8")
    output = (project / "first_run.log").read_text(encoding="utf-8")
    assert "champion" in output
    for noise in ("Traceback", "Warning", "prefect.io", "INFO", "git add"):
        assert noise not in output, noise


def test_the_run_holds_everything_and_equals_the_files(project: Path) -> None:
    runs = ask_mlflow(project, RUNS)
    assert len(runs) == len(MODELS)
    for model, dice, detection, loss, has_params, datasets, artifacts in runs:
        metrics = load_json(project / f"data/metrics/{model}/metrics.json")["metrics"]
        assert dice == pytest.approx(metrics["test/dice"])
        assert detection == pytest.approx(metrics["test/mask_map_10_50"])
        assert loss is not None
        assert has_params
        assert datasets == 1
        assert {"data", "metrics", "model", "overlays", "plots", "tables"} <= set(artifacts)


def test_the_registered_model_predicts_without_the_project(project: Path, tmp_path: Path) -> None:
    image = next((project / "data/raw/phantom/imagesTr").glob("*.nii.gz"))
    code = (
        "import sys, os, mlflow, pandas;"
        f"model = mlflow.pyfunc.load_model('models:/phantom@champion');"
        f"print(model.predict(pandas.DataFrame({{'image': [{str(image)!r}], 'output': ['out']}})).to_json())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{project}/.segtrail/mlflow.db"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    case_id = image.name.removesuffix(".nii.gz")
    assert (tmp_path / "out" / f"{case_id}_labels.nii.gz").exists()
    assert case_id in result.stdout
    model_files = [p.name for p in (project / ".segtrail/mlartifacts").rglob("*") if p.is_file()]
    assert "model.safetensors" in model_files
    assert not [name for name in model_files if name.endswith((".pkl", ".pickle", ".pth", ".pt"))]


def test_the_command_predicts_with_the_champion(project: Path, tmp_path: Path) -> None:
    images = sorted((project / "data/raw/phantom/imagesTr").glob("*.nii.gz"))[:2]
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(images[0].read_bytes()[:5000])
    result = run(
        project, "flows.cli", "predict", *map(str, images), str(broken), "-o", str(tmp_path / "out"),
        "--model", "phantom@champion",
    )  # fmt: skip
    assert result.returncode == 1
    assert "broken.nii.gz" in result.stderr
    assert result.stderr.count("segtrail: error:") == 1
    for image in images:
        case_id = image.name.removesuffix(".nii.gz")
        record = load_json(tmp_path / "out" / f"{case_id}.json")
        assert record["model"]["name"] == "phantom"
        assert record["model"]["version"] == ask_mlflow(project, CHAMPION)[0]


def test_a_second_run_executes_register_alone_and_changes_nothing(project: Path) -> None:
    before = (project / "dvc.lock").read_bytes()
    assert executed(repro(project)) == ["register"]
    assert (project / "dvc.lock").read_bytes() == before


def test_changing_evaluate_reruns_only_what_follows(project: Path) -> None:
    change_params(project, {("evaluate", "surface_tolerance_mm"): 3.0})
    champion = ask_mlflow(project, CHAMPION)
    *evaluations, register, report = executed(repro(project))
    assert sorted(evaluations) == ["evaluate@maskrcnn", "evaluate@unet"]
    assert (register, report) == ("register", "report")
    assert ask_mlflow(project, CHAMPION) == champion


def test_changing_the_report_reruns_the_report(project: Path) -> None:
    change_params(project, {("report", "title"): "Another title"})
    assert executed(repro(project)) == ["register", "report"]


@pytest.mark.parametrize(
    ("keys", "value", "stages"),
    [
        (("split", "salt"), "other", ["split"]),
        (("plan", "batch_size"), 3, ["plan"]),
        (("preprocess", "dtype"), "float32", ["preprocess"]),
        (("train", "unet", "seed"), 7, ["train@unet"]),
        (("train", "maskrcnn", "seed"), 7, ["train@maskrcnn"]),
        (("predict", "mirror"), "none", ["predict@maskrcnn", "predict@unet"]),
        (("inspect", "position_outlier"), 9.0, ["inspect"]),
        (("phantom", "noise_hu"), 36.0, ["phantom@phantom"]),
    ],
)
def test_a_params_section_belongs_to_one_stage(
    project: Path, keys: tuple[str, ...], value: Any, stages: list[str]
) -> None:
    saved = (project / "params.yaml").read_bytes()
    change_params(project, {keys: value})
    status = json.loads(run(project, "dvc", "status", "--json").stdout)
    (project / "params.yaml").write_bytes(saved)
    status.pop("register")  # always_changed
    assert sorted(status) == stages


def test_a_deleted_mlflow_store_comes_back_without_training(project: Path) -> None:
    champion, runs = ask_mlflow(project, CHAMPION), ask_mlflow(project, RUNS)
    for path in (project / ".segtrail").glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(project / ".segtrail/mlartifacts")
    assert executed(repro(project)) == ["register"]
    assert ask_mlflow(project, CHAMPION) == champion
    assert ask_mlflow(project, RUNS) == runs


def test_an_emptied_registry_comes_back(project: Path) -> None:
    champion = ask_mlflow(project, CHAMPION)
    ask_mlflow(project, "client.delete_registered_model('phantom')")
    assert executed(repro(project)) == ["register"]
    assert ask_mlflow(project, CHAMPION) == champion
    assert len(ask_mlflow(project, RUNS)) == len(MODELS)


def test_a_misspelt_key_is_one_clear_error_and_nothing_runs(project: Path) -> None:
    saved = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(saved.replace("overlap:", "overlapp:"), encoding="utf-8")
    result = run(project, "flows.cli", "repro")
    (project / "params.yaml").write_text(saved, encoding="utf-8")
    text = result.stdout + result.stderr
    assert result.returncode != 0
    assert "predict.overlapp" in text
    assert "Traceback" not in text
    assert executed(repro(project)) == ["register"]


def test_a_killed_training_is_continued_by_the_next_run(project: Path) -> None:
    change_params(project, {("train", "unet", "max_epochs"): 16})
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list((project / ".segtrail/checkpoints").rglob("resume.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        victim.send_signal(signal.SIGKILL)
    process.communicate()
    # Not plain DVC: it may have been killed while it wrote who reads what (flows/dvc_lock.py).
    result = run(project, "flows.cli", "repro")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "continuing the interrupted training" in output
    assert load_json(project / "data/models/unet/run.json")["resumed"] == 1
    assert not list((project / ".segtrail/checkpoints").rglob("*.safetensors"))
    assert executed(repro(project)) == ["register"]
