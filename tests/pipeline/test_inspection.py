"""One defect a case, one code a defect."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pytest
from inspection_cases import FACTS, PARAMS, image, inspect, label, record

from pipeline.inspection import inspect_case
from pipeline.io.sources import DatasetFacts

if TYPE_CHECKING:
    from conftest import CaseFolder


def test_a_good_case_gets_its_geometry_hash_and_fingerprint(case_folder: CaseFolder) -> None:
    affine = np.diag([-1.0, -2, 3, 1])
    path = case_folder.write("a", image(), label(), affine)
    found = inspect_case(record(), FACTS, PARAMS)
    case, fingerprint = found.record, found.fingerprint
    assert (case.verdict, case.code, case.reason) == ("ok", "", "")
    assert (case.shape, case.spacing_mm, case.orientation) == ((6, 7, 8), (1, 2, 3), "LPS")
    files = (path, case_folder.folder / "labelsTr" / "a.nii.gz")
    digests = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert case.sha256 == hashlib.sha256(digests.encode()).hexdigest()
    assert fingerprint is not None
    assert fingerprint.classes["organ"].voxels == 8
    assert fingerprint.classes["organ"].volume_mm3 == 48


def test_geometry_is_that_of_the_canonical_axes(case_folder: CaseFolder) -> None:
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -1, 2, 3, 1
    found = inspect(case_folder, image(), label(), affine)
    case, fingerprint = found.record, found.fingerprint
    assert (case.shape, case.spacing_mm, case.orientation) == ((8, 6, 7), (3, 1, 2), "PSR")
    assert fingerprint is not None and fingerprint.shape == (8, 6, 7)


def test_nan_and_inf_are_counted(case_folder: CaseFolder) -> None:
    bad = image()
    bad[0, 0, :3], bad[1, 1, 1] = np.nan, np.inf
    found = inspect(case_folder, bad, label())
    case, fingerprint = found.record, found.fingerprint
    assert (case.verdict, case.code) == ("quarantined", "not_finite")
    assert case.reason == "image: 4 of 336 voxels are NaN or Inf, limit 0"
    assert fingerprint is None
    assert case.shape == (6, 7, 8)


def test_a_constant_image(case_folder: CaseFolder) -> None:
    case = inspect(case_folder, np.full((6, 7, 8), 7, np.int16), label()).record
    assert case.code == "constant_image"
    assert "all voxels are 7" in case.reason


def test_a_cut_off_file_has_no_hash(case_folder: CaseFolder) -> None:
    path = case_folder.write("a", image(), label())
    path.write_bytes(path.read_bytes()[:-20])
    found = inspect_case(record(), FACTS, PARAMS)
    case, fingerprint = found.record, found.fingerprint
    assert (case.verdict, case.code, case.shape) == ("quarantined", "truncated", ())
    assert case.reason.startswith("image: the gzip stream is cut off")
    assert case.sha256 == ""
    assert fingerprint is None


def test_a_shifted_label_names_field_millimetres_and_limit(case_folder: CaseFolder) -> None:
    moved = np.eye(4)
    moved[0, 3] = 5
    case = inspect(case_folder, image(), label(), label_affine=moved).record
    assert case.code == "geometry_mismatch"
    assert case.reason == (
        "label against image: origin is moved by (5, 0, 0) mm; corners lie up to 5 mm apart, "
        "limit inspect.affine_tolerance_mm = 0.01"
    )


def test_a_label_of_another_shape(case_folder: CaseFolder) -> None:
    case = inspect(case_folder, image(), label()[:, :, :-1]).record
    assert case.code == "geometry_mismatch"
    assert "shape is (6, 7, 7), expected (6, 7, 8)" in case.reason


def test_an_empty_label_only_warns(case_folder: CaseFolder) -> None:
    found = inspect(case_folder, image(), np.zeros((6, 7, 8), np.uint8))
    case, fingerprint = found.record, found.fingerprint
    assert (case.verdict, case.code) == ("warn", "empty_label")
    assert fingerprint is not None
    assert fingerprint.classes["organ"].centroid_fraction is None


def test_label_values_that_are_unknown_or_not_whole(case_folder: CaseFolder) -> None:
    wrong = label()
    wrong[0, 0, :5] = 3
    case = inspect(case_folder, image(), wrong).record
    assert case.code == "label_value_unknown"
    assert case.reason == "label: value 3 (5 voxels); known are 0, 1"
    case = inspect(case_folder, image(), label() * np.float32(0.5)).record
    assert case.code == "label_not_integer"


def test_all_defects_of_a_case_are_told(case_folder: CaseFolder) -> None:
    bad, wrong, moved = image(), label(), np.diag([1, 1, 2.0, 1])
    bad[0, 0, 0], wrong[0, 0, 0] = np.nan, 9
    case = inspect(case_folder, bad, wrong, label_affine=moved).record
    assert set(case.code.split(";")) == {"not_finite", "geometry_mismatch", "label_value_unknown"}
    assert "NaN" in case.reason and "spacing is (1, 1, 2) mm" in case.reason and "value 9" in case.reason


def test_forms_that_conflict_warn(case_folder: CaseFolder) -> None:
    path = case_folder.write("a", image(), label())
    stored = nibabel.load(path)
    stored.set_qform(np.diag([1.0, 1, 1, 1]) + np.outer([1, 0, 0, 0], [0, 0, 0, 20]), 1)
    nibabel.save(stored, path)
    case = inspect_case(record(), FACTS, PARAMS).record
    assert (case.verdict, case.code) == ("warn", "form_conflict")
    assert "20 mm" in case.reason


def test_channels_from_several_files_or_one(case_folder: CaseFolder) -> None:
    facts = DatasetFacts("small", ("T1", "T2"), {"background": 0, "organ": 1})
    for name in ("a_0000", "a_0001"):
        case_folder.write(name, image() + (name == "a_0001"))
    case_folder.write("a", np.stack([image(), image() + 1], axis=-1), label())
    names = tuple(f"data/raw/small/imagesTr/{name}.nii.gz" for name in ("a_0000", "a_0001"))
    several, one = inspect_case(record(images=names), facts, PARAMS), inspect_case(record(), facts, PARAMS)
    for found in (several, one):
        assert found.record.verdict == "ok"
        fingerprint = found.fingerprint
        assert fingerprint is not None
        means = [channel.mean for channel in fingerprint.intensity]
        assert means[1] - means[0] == pytest.approx(1, abs=1e-6)
    case = inspect_case(record(images=names[:1]), facts, PARAMS).record
    assert case.code == "channel_count"
    assert "1 channel(s), dataset.json names 2 (T1, T2)" in case.reason


def test_each_file_is_read_once(case_folder: CaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    case_folder.write("a", image(), label())
    reads: list[str] = []
    read_bytes = Path.read_bytes

    def counted(self: Path) -> bytes:
        reads.append(self.name)
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    inspect_case(record(), FACTS, PARAMS)
    assert reads == ["a.nii.gz", "a.nii.gz"]  # image and label
