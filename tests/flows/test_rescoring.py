"""A grown test set: the champion is scored on what is new to it, by its own network, before the gate compares."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import grown_project as grown
import model_project as made
import nibabel
import numpy as np
import pytest
from grown_project import CHALLENGER, CHAMPION, NEW, OLD
from mlflow_store import PROJECT
from registered import copy_template, run_register, tree

from flows.archive import Version, archive_model, load_version, version_folder
from flows.audit import load_audit
from flows.gate_scores import pair_scores
from flows.model_files import present_files
from flows.predict import predict_inputs
from pipeline.errors import SegtrailError
from pipeline.evaluation import evaluate_case
from pipeline.io.images import load_label_map
from pipeline.scores import load_scores

SCORES = Path("data/registry/scores/phantom")
LABELS = {"nodule": 1, "vessel": 2}
PROGRESS = re.compile(r"rescore unet \d+/(\d+) (\w+) Dice")
# `register`, killed while the second case is written: its table is there, what it rests on is not.
KILLED = """
import os, signal, time
from pathlib import Path
from flows import register, rescoring
from pipeline.config import load_params

save, calls = rescoring.save_json, []

def save_or_die(*args):
    calls.append(args)
    if len(calls) == 1:
        return save(*args)
    while not list(Path("data/registry/scores").glob("*/*/[!.]*/basis.json")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

rescoring.save_json = save_or_die
register.register_models(load_params())
"""


@pytest.fixture(scope="module")
def template(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grown")
    grown.make_template(folder, store_template)
    return folder


@pytest.fixture
def champion(template: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the champion's bundle; a challenger waits for its comparison."""
    (project / "params.yaml").unlink()
    sha256 = copy_template(template, project, monkeypatch)[0]
    monkeypatch.setenv("SEGTRAIL_DEVICES", "cpu")
    return Path("data/registry/versions/phantom") / sha256[:12] / "model"


def rescored(messages: list[str]) -> list[str]:
    """Cases that were predicted, by the progress lines, which are taken away."""
    found = [match[2] for line in messages if (match := PROGRESS.search(line))]
    messages.clear()
    return sorted(found)


def measure(
    bundle: Path, names: tuple[str, ...], column: str, tolerance_mm: float = 2.0
) -> dict[str, list[float]]:
    """A metric of each class in each case, by `segtrail predict` and the functions of `evaluate`."""
    values: dict[str, list[float]] = {label: [] for label in LABELS}
    for name in names:
        image = Path(f"data/raw/phantom/{name}.nii.gz")
        assert predict_inputs([image], Path("predicted"), str(bundle), "cpu") == 0
        prediction = load_label_map(Path(f"predicted/{name}_labels.nii.gz"))
        reference = load_label_map(Path(f"data/raw/phantom/{name}_label.nii.gz"))
        for row in evaluate_case(reference, prediction, LABELS, tolerance_mm, name, name):
            values[row.label].append(getattr(row, column))
    return values


def improvement(old: list[float], values: dict[str, list[float]]) -> float:
    """Mean over cases, then classes, of what the challenger has more."""
    return fmean(fmean(CHALLENGER - v for v in (*old, *own)) for own in values.values())


def use_metric(name: str) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(re.sub(r"(?m)^  metric: \S+", f"  metric: {name}", text))


def edit_metrics(path: Path, change: Any) -> None:
    record = json.loads(path.read_text())
    change(record)
    made.write_json(record, path)


def test_exactly_the_new_test_cases_are_computed_once(champion: Path, messages: list[str]) -> None:
    decision, _ = run_register()
    assert rescored(messages) == sorted(NEW)
    assert sorted(path.name for path in SCORES.glob("*/*")) == sorted(NEW)
    assert not Path(".segtrail/rescoring").exists()
    numbers = decision["numbers"]
    assert (numbers["n_cases"], numbers["n_rescored"]) == (5, 2)
    assert decision["reasons"][-1] == "champion rescored on 2 new test cases"
    values = measure(champion, NEW, "dice")
    assert numbers["improvement"] == pytest.approx(improvement([CHAMPION] * len(OLD), values))
    assert fmean(values["nodule"] + values["vessel"]) != pytest.approx(CHAMPION)
    reference = nibabel.load(f"data/raw/phantom/{NEW[0]}_label.nii.gz").get_fdata() == 1
    prediction = nibabel.load(f"predicted/{NEW[0]}_labels.nii.gz").get_fdata() == 1
    by_hand = 2 * np.sum(reference & prediction) / (np.sum(reference) + np.sum(prediction))
    (table,) = SCORES.glob(f"*/{NEW[0]}/cases.csv")
    assert load_scores(table, "test/dice")[0].value == pytest.approx(by_hand)
    files = tree("data/registry")
    again, _ = run_register()
    assert rescored(messages) == []
    assert (again, tree("data/registry")) == (decision, files)


@pytest.mark.slow
def test_killed_in_the_middle_nothing_half_written_counts(champion: Path, messages: list[str]) -> None:
    before = Path("data/registry/decision.json").read_bytes()
    process = subprocess.run(
        [sys.executable, "-c", KILLED], env={**os.environ, "PYTHONPATH": str(PROJECT)}, timeout=500, check=False
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL
    assert Path("data/registry/decision.json").read_bytes() == before
    (whole,) = (path.name for path in SCORES.glob("*/[!.]*"))
    (draft,) = (path for path in SCORES.glob("*/.*"))
    assert [path.name for path in draft.iterdir()] == ["cases.csv"]
    decision, _ = run_register()
    assert rescored(messages) == [name for name in sorted(NEW) if name != whole]
    assert decision["numbers"]["n_rescored"] == 2
    values = measure(champion, NEW, "dice")
    assert decision["numbers"]["improvement"] == pytest.approx(improvement([CHAMPION] * len(OLD), values))
    assert list(SCORES.glob("*/.*")) == []


@pytest.mark.slow
def test_other_settings_and_another_metric_are_measured_anew(champion: Path, messages: list[str]) -> None:
    use_metric("test/surface_dice")
    edit_metrics(
        Path("data/metrics/unet/metrics.json"), lambda r: r["settings"].update(surface_tolerance_mm=4.0)
    )
    decision, _ = run_register()
    every = (*OLD, *NEW)
    assert rescored(messages) == sorted(every)
    values = measure(champion, every, "surface_dice", 4.0)
    assert decision["numbers"]["improvement"] == pytest.approx(improvement([], values))
    assert decision["reasons"][-1] == (
        "champion rescored on 5 test cases (the champion was scored with evaluate.surface_tolerance_mm = 2.0, the "
        "challenger with 4.0)"
    )
    assert not any(line.startswith("the champion was scored with") for line in decision["reasons"])


@pytest.mark.slow
def test_a_metric_from_after_the_champion(champion: Path, messages: list[str]) -> None:
    use_metric("test/hd95_mm")
    edit_metrics(champion.parent / "metrics" / "metrics.json", lambda r: r["metrics"].pop("test/hd95_mm"))
    decision, _ = run_register()
    assert rescored(messages) == sorted((*OLD, *NEW))
    values = measure(champion, (*OLD, *NEW), "hd95_mm")
    wanted = fmean(fmean(v - 1.0 for v in own) for own in values.values())  # the challenger's is 10 (1 - 0.9)
    assert decision["numbers"]["improvement"] == pytest.approx(wanted)
    assert decision["reasons"][-1].endswith("on 5 test cases (the champion was scored without test/hd95_mm)")


def test_an_old_test_case_that_is_gone_counts_no_more(champion: Path, messages: list[str]) -> None:
    rest = (*OLD[1:], *NEW)
    grown.write_cases(rest)
    made.evaluate("unet", [CHALLENGER] * 4, rest)
    decision, _ = run_register()
    assert rescored(messages) == sorted(NEW)
    assert (decision["numbers"]["n_cases"], decision["numbers"]["n_rescored"]) == (4, 2)


def test_a_new_case_of_a_patient_whom_the_champion_knows_is_left_out(
    champion: Path, messages: list[str]
) -> None:
    splits = champion.parent / "splits.csv"
    splits.write_text(splits.read_text() + f"an_older_scan,patient_{NEW[0]},validation\n")
    decision, _ = run_register()
    assert rescored(messages) == [NEW[1]]
    assert {key: decision["numbers"][key] for key in ("n_cases", "n_rescored", "n_left_out")} == {
        "n_cases": 4, "n_rescored": 1, "n_left_out": 1,
    }  # fmt: skip


def test_a_case_that_a_parent_was_trained_on_is_left_out(champion: Path, messages: list[str]) -> None:
    """The challenger started from a version whose split had one of the old test cases on another side."""
    version = champion.parent
    parent = version.with_name("a" * 12)
    shutil.copytree(version, parent)
    edit_metrics(parent / "version.json", lambda r: r.update(bundle_sha256="a" * 64, created="2020-01-01"))
    splits = parent / "splits.csv"
    splits.write_text(splits.read_text().replace(f"patient_{OLD[0]},test", f"patient_{OLD[0]},train"))
    bundle = Path("data/models/unet/bundle.json")
    edit_metrics(bundle, lambda r: r["provenance"].update(parents=["a" * 64]))
    sha256 = hashlib.sha256(bundle.read_bytes()).hexdigest()
    edit_metrics(Path("data/models/unet/run.json"), lambda r: r.update(bundle_sha256=sha256))
    pairing = pair_scores(archive_challenger(), load_version(version), "test/dice")
    assert {score.case_id for score in pairing.challenger} == {*OLD[1:], *NEW}
    assert pairing.numbers == {"n_left_out": 1}
    assert pairing.missing == list(NEW)
    assert pairing.notes == [
        "1 test cases are left out: the challenger was trained on their patients (the split has changed since)"
    ]


def archive_challenger() -> Version:
    """The model that is present, as a version."""
    sha256 = archive_model("phantom", present_files("unet"), {})
    return load_version(version_folder("phantom", sha256))


def test_without_raw_data_the_scores_that_are_there_decide(champion: Path, messages: list[str]) -> None:
    raw = Path("data/raw")
    raw.rename("elsewhere")
    decision, _ = run_register()
    assert (
        decision["reasons"][-1] == "the champion could not be rescored on 2 cases: their files are not here"
    )
    assert decision["numbers"]["n_cases"] == 3
    assert decision["champion_after"] == decision["challenger"]
    assert rescored(messages) == []


def test_scores_of_other_code_are_made_anew(champion: Path, messages: list[str]) -> None:
    edit_metrics(Path("data/metrics/unet/metrics.json"), lambda r: r.update(scoring_code="of now"))
    edit_metrics(champion.parent / "metrics/metrics.json", lambda r: r.update(scoring_code="of then"))
    decision, _ = run_register()
    assert rescored(messages) == sorted((*OLD, *NEW))
    values = measure(champion, (*OLD, *NEW), "dice")
    assert decision["numbers"]["improvement"] == pytest.approx(improvement([], values))
    assert decision["reasons"][-1] == (
        "champion rescored on 2 new and 3 known (scored by other code) test cases"
    )
    run_register()
    assert rescored(messages) == []


def test_scores_of_other_code_are_better_than_none(champion: Path, messages: list[str]) -> None:
    Path("data/raw").rename("elsewhere")
    edit_metrics(Path("data/metrics/unet/metrics.json"), lambda r: r.update(scoring_code="of now"))
    decision, _ = run_register()
    assert decision["numbers"]["n_cases"] == 3
    assert decision["numbers"]["improvement"] == pytest.approx(CHALLENGER - CHAMPION)
    assert decision["reasons"][-2:] == [
        "on 3 test cases the champion's scores are those of earlier code, and cannot be made anew here",
        "the champion could not be rescored on 2 cases: their files are not here",
    ]


def test_an_error_leaves_decision_and_trail_as_they_were(champion: Path, messages: list[str]) -> None:
    image = Path(f"data/raw/phantom/{NEW[0]}.nii.gz")
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    before, trail = Path("data/registry/versions/phantom/decision.json").read_bytes(), load_audit()
    with pytest.raises(SegtrailError, match=NEW[0]):
        run_register()
    assert Path("data/registry/versions/phantom/decision.json").read_bytes() == before
    assert load_audit() == trail
    image.write_bytes(whole)
    messages.clear()
    assert run_register()[0]["numbers"]["n_rescored"] == 2
    assert NEW[0] in rescored(messages)


def test_a_champion_of_other_channels_or_classes_is_refused_not_run(
    champion: Path, messages: list[str]
) -> None:
    facts = json.loads(Path("data/inspected/dataset.json").read_text())
    made.write_json({**facts, "channels": ["CT", "PET"]}, "data/inspected/dataset.json")
    decision, _ = run_register()
    assert rescored(messages) == []
    assert decision["reasons"][0] == "the champion has not been scored on 2 of the test cases"
    assert decision["reasons"][-1] == (
        "the champion cannot be rescored: it takes the channels CT, the data set has CT, PET"
    )
