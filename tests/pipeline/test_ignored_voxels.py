"""Voxels that nobody labelled on their way to the store, by hand and from real scribbles."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CaseFolder
from plan_cases import make_fingerprints, make_params
from training_jobs import cube_plan

from pipeline.case_checks import check_labels
from pipeline.case_preprocessing import Target, preprocess_case
from pipeline.cases import CaseRecord
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.ignored_voxels import IGNORE_INDEX
from pipeline.inspection import inspect_case
from pipeline.io.dataset import DatasetFacts
from pipeline.io.sources import open_dataset
from pipeline.planning import build_plan
from pipeline.preprocessing import prepare_instances, prepare_label_map
from pipeline.slices import require_detection
from pipeline.store import load_case
from pipeline.volume import LabelMap

FACTS = DatasetFacts("sparse", ("MRI",), {"background": 0, "one": 1, "two": 2}, ignore=3)


def line(*values: int) -> LabelMap:
    """Voxels in a row along X, 1 mm apart."""
    return LabelMap(np.array(values, np.uint8).reshape(-1, 1, 1), np.eye(4))


def test_the_facts_keep_the_value_apart_from_the_classes(tmp_path: Path) -> None:
    FACTS.save(tmp_path / "dataset.json")
    assert DatasetFacts.load(tmp_path / "dataset.json") == FACTS
    assert FACTS.foreground == {"one": 1, "two": 2}


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ((0, 1, 3), []),
        ((0, 3, 3), ["empty_label"]),
        ((3, 3, 3), ["nothing_labelled"]),
        ((0, 1, 4), ["label_value_unknown"]),
    ],
)
def test_what_inspection_says_of_labels(values: tuple[int, ...], code: list[str]) -> None:
    findings = check_labels(line(*values), FACTS)
    assert [finding.code for finding in findings] == code
    assert all(finding.fatal == (finding.code != "empty_label") for finding in findings)


def test_statistics_leave_them_out_and_their_share_is_known(case_folder: CaseFolder) -> None:
    image = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    label = np.full((5, 4, 3), 3, np.uint8)
    label[:, :, 0] = 0
    label[1, 1, 0], label[2, 2, 0] = 1, 2
    case_folder.write_dataset()
    path = case_folder.write("a", image, label)
    record = CaseRecord(
        "a", "a", "", (path.as_posix(),), (path.parents[1] / "labelsTr/a.nii.gz").as_posix(), ""
    )
    found = inspect_case(record, FACTS, load_params().inspect)
    assert found.record.verdict == "ok" and found.fingerprint is not None
    assert found.fingerprint.ignored_fraction == pytest.approx(2 / 3, abs=1e-6)
    assert {name: one.voxels for name, one in found.fingerprint.classes.items()} == {"one": 1, "two": 1}
    # Mean of the two foreground voxels: (1 * 12 + 1 * 3) = 15 and (2 * 12 + 2 * 3) = 30.
    assert found.fingerprint.intensity[0].mean == 22.5
    assert [row.label for row in found.objects] == ["one", "two"]


def test_the_plan_takes_the_value_and_refuses_detection() -> None:
    fingerprints = [
        f.model_copy(update={"ignored_fraction": 0.95}) for f in make_fingerprints((40, 40, 40), (1, 1, 1))
    ]
    plan = build_plan(fingerprints, FACTS, make_params())
    assert (plan.ignore_value, plan.label_values, plan.outputs) == (3, (0, 1, 2), 3)
    assert "95%" in plan.reasons["ignore_value"]
    assert plan.configured("unet", "full").ignore_value == 3
    with pytest.raises(SegtrailError, match="ignore value 3"):
        require_detection(plan)


def test_resampling_keeps_what_is_labelled_by_half() -> None:
    plan = cube_plan().model_copy(
        update={"label_values": (0, 2), "ignore_value": 7, "spacing_mm": (2.0, 1.0, 1.0)}
    )
    # Pairs of voxels become one: half labelled and half not is labelled; of 9, nobody knows, it is background.
    halves = prepare_label_map(line(2, 7, 7, 0, 7, 7, 9, 9), plan)
    assert halves.ravel().tolist() == [1, 0, IGNORE_INDEX, 0]
    same = prepare_label_map(line(2, 7, 0), plan.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)}))
    assert same.ravel().tolist() == [1, IGNORE_INDEX, 0]


def test_objects_have_no_voxel_there() -> None:
    plan = cube_plan().model_copy(update={"ignore_value": 7})
    ids, labels = prepare_instances(line(1, 1, 7, 7, 1), None, plan, "a")
    assert ids.ravel().tolist() == [1, 1, 0, 0, 2] and labels.tolist() == [0, 1, 1]
    given = np.array([1, 1, 1, 2, 3], np.uint16).reshape(-1, 1, 1)
    ids, _ = prepare_instances(line(1, 1, 7, 7, 1), given, plan, "a")
    assert ids.ravel().tolist() == [1, 1, 0, 0, 2]


def test_real_scribbles_go_from_their_file_to_the_store(shared_data: Path, project: Path) -> None:
    source = shared_data / "acdc_h5/ACDC_training_volumes/patient050_frame01.h5"
    folder = Path("data/raw/scribbles")
    folder.mkdir(parents=True)
    (folder / source.name).symlink_to(source)
    labels = {"background": 0, "right": 1, "myocardium": 2, "left": 3, "ignore": 4}
    facts = {"name": "scribbles", "modality": {"0": "MRI"}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(facts))
    (folder / "cases.csv").write_text(
        f"case_id,patient_id,image,label\na,a,{source.name}#image,{source.name}#scribble\n"
    )
    dataset = open_dataset(folder, "table")
    found = inspect_case(dataset.records[0], dataset.facts, load_params().inspect)
    with h5py.File(source) as file:
        scribble = np.asarray(file["scribble"])
    assert found.record.usable and found.fingerprint is not None
    assert found.fingerprint.ignored_fraction == pytest.approx((scribble == 4).mean(), abs=1e-6)
    counts = [found.fingerprint.classes[name].voxels for name in ("right", "myocardium", "left")]
    assert counts == [int((scribble == value).sum()) for value in (1, 2, 3)]
    plan = build_plan([found.fingerprint], dataset.facts, make_params())
    same = plan.model_copy(update={"spacing_mm": found.record.spacing_mm})
    preprocess_case(found.record, [Target(same, folder)], "float16")
    stored = load_case(folder, "a")
    assert np.bincount(stored.label.ravel(), minlength=256)[[0, 1, 2, 3, 255]].tolist() == [
        int((scribble == value).sum()) for value in (0, 1, 2, 3, 4)
    ]
    assert set(np.unique(stored.foreground[:, 0])) == {0, 1, 2, 3}
