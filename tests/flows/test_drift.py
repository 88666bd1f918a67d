"""`segtrail drift`: new cases of a real data set against the archived champion, whose own cases may be gone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import model_project as made
import nibabel
import numpy as np
import pytest
from small_bundle import write_ct_bundle

import flows.drift
from flows.archive import archive_model
from flows.cli import main
from flows.drift import check_drift
from flows.inspect import inspect_flow
from flows.model_files import present_files
from flows.predict import predict_flow
from pipeline.cases import load_cases
from pipeline.config import load_params
from pipeline.drift_features import PREDICTED, load_features, predicted_features, save_features

RAW = Path("data/raw/small")
OUTPUT = Path("night")
CASES = Path("data/inspected/cases.csv")
SPACING = {"spacing_x_mm", "spacing_y_mm", "spacing_z_mm"}


class DriftProject:
    """The working directory: real hippocampi below `data/raw/small`, and a champion that was trained on some.

    Args:
        data: Folder of the data set Task04_Hippocampus.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        names = sorted(path.name for path in (data / "imagesTr").glob("hippocampus_*.nii.gz"))
        self.names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
        text = Path("params.yaml").read_text(encoding="utf-8")
        text = text.replace("dataset: phantom ", "dataset: small ")
        Path("params.yaml").write_text(text, encoding="utf-8")
        made.write_project()
        for part in ("imagesTr", "labelsTr"):
            (RAW / part).mkdir(parents=True)
        labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
        made.write_json({"name": "Small", "modality": {"0": "MRI"}, "labels": labels}, RAW / "dataset.json")

    def add(self, first: int, last: int, spacing: float = 1.0) -> list[str]:
        """Puts cases into the raw folder, with another voxel size in their headers if asked to."""
        for name in self.names[first:last]:
            for part in ("imagesTr", "labelsTr"):
                image = nibabel.load(self.data / part / name)
                image.affine[:3, :3] *= spacing
                nibabel.save(nibabel.Nifti1Image(image.dataobj, image.affine), RAW / part / name)
        return sorted(name.removesuffix(".nii.gz") for name in self.names[first:last])

    def remove(self, case_ids: Sequence[str]) -> None:
        for case_id in case_ids:
            for part in ("imagesTr", "labelsTr"):
                (RAW / part / f"{case_id}.nii.gz").unlink()

    def split(self, test: Sequence[str]) -> None:
        """Makes these cases the test cases."""
        rows = [{"case_id": c, "patient_id": c, "split": "test"} for c in test]
        made.write_csv(rows, ("case_id", "patient_id", "split"), "data/splits/splits.csv")

    def archive(self) -> str:
        """Archives `data/models/unet` with what was inspected last; gives its sha256."""
        predict = load_params().predict.model_dump(mode="json")
        return archive_model("phantom", present_files("unet"), predict)

    def crown(self) -> str:
        """The same, and makes it champion."""
        sha256 = self.archive()
        decision = {"name": "phantom", "champion_after": sha256}
        made.write_json(decision, "data/registry/versions/phantom/decision.json")
        return sha256


@pytest.fixture
def crowned(project: Path, shared_data: Path) -> DriftProject:
    """A champion that was trained on 30 cases, and predicted none."""
    made_here = DriftProject(shared_data / "Task04_Hippocampus")
    made_here.add(0, 30)
    inspect_flow.fn()
    made.train("unet", "weights")
    made.evaluate("unet", (0.8,) * 6)
    made_here.crown()
    return made_here


@pytest.mark.slow
def test_a_lot_of_another_scanner_is_reported_and_an_ordinary_one_is_not(crowned: DriftProject) -> None:
    assert check_drift(OUTPUT) is None  # no new case
    lot = crowned.add(30, 33)
    inspect_flow.fn()
    few = check_drift(OUTPUT)
    assert few is not None and (few["drifted"], few["features"], few["picture"]) == (False, [], "")
    assert few["sentence"] == (
        "3 new cases since the champion, too few to compare: 2 more needed (nightly.drift.min_cases: 5)."
    )
    lot += crowned.add(33, 38)
    inspect_flow.fn()
    same = check_drift(OUTPUT)
    assert same is not None and not same["drifted"]
    assert same["sentence"] == "8 new cases do not differ from the 30 of the champion in any of 7 features."
    assert (same["new_cases"], same["reference_cases"]) == (sorted(lot), 30)
    crowned.remove(lot)
    crowned.add(30, 38, spacing=1.3)
    inspect_flow.fn()
    other = check_drift(OUTPUT)
    assert other is not None and other["drifted"]
    found = {one["feature"] for one in other["features"] if one["drifted"]}
    # 2.2 times the volume, too: the header alone is wrong.
    assert found == SPACING | {"volume_Anterior_mm3", "volume_Posterior_mm3"}
    assert "spacing_x_mm (median 1.3, the champion's 1)" in other["sentence"]
    assert other == json.loads((OUTPUT / "drift.json").read_text())
    assert (OUTPUT / other["picture"]).stat().st_size > 10_000
    spacing = next(one for one in other["features"] if one["feature"] == "spacing_x_mm")
    assert spacing["new"] == {"mean": 1.3, "p05": 1.3, "p50": 1.3, "p95": 1.3}
    assert spacing["reference"] == {"mean": 1.0, "p05": 1.0, "p50": 1.0, "p95": 1.0}


@pytest.mark.slow
def test_a_small_lot_does_not_go_under_in_what_came_before_it(crowned: DriftProject) -> None:
    """25 ordinary cases that only a refused version has seen, then 6 of another scanner: alone they are found."""
    ordinary = crowned.add(30, 55)
    inspect_flow.fn()
    made.train("unet", "other weights", minute=1)
    made.evaluate("unet", (0.7,) * 6)
    crowned.archive()
    lot = crowned.add(55, 61, spacing=1.3)
    inspect_flow.fn()
    together = check_drift(OUTPUT, arrived=[])
    assert together is not None and not together["drifted"]
    assert together["new_cases"] == sorted(ordinary + lot)
    for arrived in (None, lot):
        apart = check_drift(OUTPUT, arrived)
        assert apart is not None and apart["drifted"] and apart["new_cases"] == lot
        assert apart["sentence"].startswith(
            "The newest 6 of 31 new cases differ from the 30 of the champion in "
        )
        assert {one["feature"] for one in apart["features"] if one["drifted"]} >= SPACING


def test_the_champions_cases_may_be_gone_and_a_renamed_one_is_not_new(crowned: DriftProject) -> None:
    known = sorted(path.name for path in (RAW / "imagesTr").iterdir())
    for part in ("imagesTr", "labelsTr"):
        (RAW / part / known[0]).rename(RAW / part / "hippocampus_999.nii.gz")
    crowned.remove([name.removesuffix(".nii.gz") for name in known[1:]])
    lot = crowned.add(30, 38)
    inspect_flow.fn()
    found = check_drift(OUTPUT)
    assert found is not None and found["new_cases"] == lot and found["reference_cases"] == 30
    assert not found["drifted"]


def test_a_version_that_keeps_no_fingerprints_is_compared_by_the_cases_that_are_here(
    crowned: DriftProject,
) -> None:
    (stored,) = Path("data/registry/versions/phantom").glob("*/fingerprints.csv")
    stored.unlink()
    kept = sorted(path.name.removesuffix(".nii.gz") for path in (RAW / "imagesTr").iterdir())
    crowned.remove(kept[:10])
    crowned.add(30, 38)
    inspect_flow.fn()
    found = check_drift(OUTPUT)
    assert found is not None and found["reference_cases"] == 20
    assert "keeps no fingerprints: those of its 20 cases that are still here were taken." in found["sentence"]
    crowned.remove(kept[10:])
    inspect_flow.fn()
    found = check_drift(OUTPUT)
    assert found is not None and (found["drifted"], found["features"]) == (False, [])
    assert "nothing was compared" in found["sentence"]


def test_nothing_to_compare_without_a_champion(
    project: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.write_project()
    assert check_drift(OUTPUT) is None
    assert not OUTPUT.exists()
    assert main(["drift"]) == 0
    assert "there is no champion yet" in capsys.readouterr().out


@pytest.mark.slow
def test_predicted_volumes_and_uncertainty(
    project: Path,
    shared_data: Path,
    capsys: pytest.CaptureFixture[str],
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The champion predicts the new cases; one whose image is damaged since is left out, the others count."""
    monkeypatch.setattr(flows.drift, "MOST_PREDICTED", 6)
    here = DriftProject(shared_data / "Task04_Hippocampus")
    test = here.add(0, 12)
    inspect_flow.fn()
    Path("data/models").mkdir()
    bundle = write_ct_bundle(Path("data/models/unet"))
    run = {"bundle_sha256": hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()}
    made.write_json(run, bundle / "run.json")
    here.split(test)
    predict_flow.fn("unet")
    made.evaluate("unet", (0.8,) * 6)
    records = [json.loads(path.read_text()) for path in Path("data/predictions/unet").glob("*.json")]
    table = Path("data/metrics/unet") / PREDICTED
    save_features({record["case_id"]: predicted_features(record) for record in records}, table)
    assert len(load_features(table)) == 12
    here.crown()
    lot = here.add(12, 20)
    inspect_flow.fn()
    first = min((case for case in load_cases(CASES) if case.case_id in lot), key=lambda case: case.sha256)
    Path(first.images[0]).write_bytes(b"damaged")
    assert main(["drift", "-o", str(OUTPUT)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^uncertainty .*\bno$", out, re.MULTILINE)
    found = {one["feature"]: one for one in json.loads((OUTPUT / "drift.json").read_text())["features"]}
    assert any(line.startswith("drift: ") and first.case_id in line for line in messages)
    assert found["uncertainty"]["n_new"] == 5
    assert (found["uncertainty"]["n_reference"], found["spacing_x_mm"]["n_new"]) == (12, 8)
    assert {"predicted_liver_mm3", "predicted_tumour_mm3"} <= found.keys()
