"""Instance maps, objects and derived references of a case that is inspected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pytest
from inspection_cases import FACTS, PARAMS, image, inspect, label, record

from pipeline.cases import Finding
from pipeline.config import InspectParams
from pipeline.inspection import inspect_case
from pipeline.io.references import References
from pipeline.io.stored import StoredImage
from pipeline.objects import ObjectRow

if TYPE_CHECKING:
    from conftest import CaseFolder


def test_instances_are_checked_too(case_folder: CaseFolder) -> None:
    case_folder.write("a", image(), label())
    path = Path("data/raw/small/ids.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label()[:, :-1], np.eye(4)), path)
    case = inspect_case(record(instances=str(path)), FACTS, PARAMS).record
    assert case.code == "geometry_mismatch"
    assert case.reason.startswith("instances against image")


def test_instances_that_do_not_fit_the_label_are_told(case_folder: CaseFolder) -> None:
    ids = np.zeros((6, 7, 8), np.uint8)
    ids[2:4, 2:4, 2:5] = 1  # 8 voxels on the label, 4 beside it
    ids[0, 0, 0] = 2
    case_folder.write("a", image(), label())
    path = Path("data/raw/small/ids.nii.gz")
    nibabel.save(nibabel.Nifti1Image(ids, np.eye(4)), path)
    found = inspect_case(record(instances=str(path)), FACTS, PARAMS)
    assert (found.record.verdict, found.record.code) == (
        "warn",
        "instance_without_class;instance_outside_label",
    )
    assert "5 of 13 voxels" in found.record.reason
    assert [(row.id, row.label, row.voxels) for row in found.objects] == [(1, "organ", 12)]


def test_objects_without_an_instance_map_are_the_components(case_folder: CaseFolder) -> None:
    """Two blocks of 8 voxels of 1 x 2 x 3 mm in an LPS file; centres by hand."""
    two = label()
    two[0:2, 5:7, 6:8] = 1
    first, second = inspect(case_folder, image(), two, np.diag([-1.0, -2, 3, 1])).objects
    assert {(o.x_mm, o.y_mm, o.z_mm) for o in (first, second)} == {(-2.5, -5, 7.5), (-0.5, -11, 19.5)}
    assert first.diameter_mm == pytest.approx((6 * 48 / np.pi) ** (1 / 3))
    assert {first.id, second.id} == {1, 2}
    assert (first.case_id, first.label, first.readers, first.ignored) == ("a", "organ", 0, False)


def test_a_derived_reference_is_checked_saved_and_hashed(case_folder: CaseFolder, tmp_path: Path) -> None:
    case_folder.write("a", image())
    ids = np.zeros((6, 7, 8), np.uint8)
    ids[1, 1, 1], ids[4, 4, 4:6] = 1, 2
    seen = []

    def build(stored: StoredImage, params: InspectParams) -> References:
        seen.append(params.agreement)
        return References(ids, findings=(Finding("masks_overlap", "told", fatal=False),))

    bare = record(label="")
    found = inspect_case(bare, FACTS, PARAMS.model_copy(update={"agreement": 3}), build, tmp_path)
    assert seen == [3]
    assert (found.record.verdict, found.record.code, len(found.objects)) == ("warn", "masks_overlap", 2)
    assert found.record.label == f"{tmp_path}/a_labels.nii.gz"
    stored = np.asarray(nibabel.load(found.record.instances).dataobj)
    assert (stored == ids).all()
    assert (np.asarray(nibabel.load(found.record.label).dataobj) == (ids > 0)).all()
    assert inspect_case(bare, FACTS, PARAMS, build).record.sha256 == found.record.sha256
    ids[4, 4, 6] = 2
    assert inspect_case(bare, FACTS, PARAMS, build).record.sha256 != found.record.sha256


def test_the_hash_covers_the_rows_of_the_annotation(case_folder: CaseFolder) -> None:
    case_folder.write("a", image())
    ids = np.zeros((6, 7, 8), np.uint8)
    ids[1, 1, 1] = 1
    row = ObjectRow("a", 1, "organ", 5.0, 1.0, 1.0, 1.0, 1)

    def sha256(*rows: ObjectRow) -> str:
        return inspect_case(
            record(label=""), FACTS, PARAMS, lambda *_: References(ids, objects=rows)
        ).record.sha256

    assert sha256(row) == sha256(replace(row))
    excluded = ObjectRow("a", 0, "organ", -1.0, 4.0, 4.0, 4.0, 0, ignored=True)
    assert len({sha256(row), sha256(replace(row, diameter_mm=5.5)), sha256(row, excluded)}) == 3


def test_an_image_that_cannot_be_read_has_no_derived_reference(case_folder: CaseFolder) -> None:
    case_folder.write("a", image()).write_bytes(b"no image")

    def build(stored: StoredImage, params: InspectParams) -> References:
        raise AssertionError("there is no grid to draw on")

    assert inspect_case(record(label=""), FACTS, PARAMS, build).record.code == "unreadable"
