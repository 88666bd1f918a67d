"""One defect a case, one code a defect; and what makes a whole set unusable."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.cases import CaseRecord, Finding
from pipeline.config import InspectParams, load_params
from pipeline.errors import SegtrailError
from pipeline.inspection import InspectedCase, inspect_case, inspect_set, require_usable_set
from pipeline.io.references import References
from pipeline.io.sources import DatasetFacts
from pipeline.io.stored import StoredImage
from pipeline.objects import ObjectRow

if TYPE_CHECKING:
    from conftest import CaseFolder

FACTS = DatasetFacts("small", ("MRI",), {"background": 0, "organ": 1})
PARAMS = load_params().inspect.model_copy(update={"dataset": "small", "layout": "msd"})


def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)


def label() -> NDArray[np.uint8]:
    out = np.zeros((6, 7, 8), np.uint8)
    out[2:4, 2:4, 2:4] = 1
    return out


def record(case_id: str = "a", **more: Any) -> CaseRecord:
    base = CaseRecord(
        case_id=case_id,
        patient_id=case_id,
        site="",
        images=(f"data/raw/small/imagesTr/{case_id}.nii.gz",),
        label=f"data/raw/small/labelsTr/{case_id}.nii.gz",
        instances="",
    )
    return replace(base, **more)


def inspect(case_folder: CaseFolder, *written: Any, **placed: Any) -> InspectedCase:
    case_folder.write("a", *written, **placed)
    return inspect_case(record(), FACTS, PARAMS)


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


def test_instances_are_checked_too(case_folder: CaseFolder) -> None:
    case_folder.write("a", image(), label())
    path = Path("data/raw/small/ids.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label()[:, :-1], np.eye(4)), path)
    case = inspect_case(record(instances=str(path)), FACTS, PARAMS).record
    assert case.code == "geometry_mismatch"
    assert case.reason.startswith("instances against image")


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


# Whole sets


def good(case_id: str, **more: Any) -> CaseRecord:
    return record(case_id, sha256="0", **more)


def bad(case_id: str, code: str = "not_finite") -> CaseRecord:
    return good(case_id, verdict="quarantined", code=code, reason=f"reason of {case_id}")


def test_set_findings_change_only_their_cases(case_folder: CaseFolder) -> None:
    results = []
    for index in range(10):
        shifted = np.roll(label(), 3, axis=2) if index == 4 else label()
        case_folder.write(f"c{index}", image() + 1 + max(index, 3 if index == 2 else 0), shifted)
        results.append(inspect_case(record(f"c{index}"), FACTS, PARAMS))
    cases = {found.record.case_id: found.record for found in inspect_set(results, PARAMS)}
    assert {c.case_id for c in cases.values() if c.verdict != "ok"} == {"c3", "c4"}
    assert (cases["c4"].verdict, cases["c4"].code) == ("quarantined", "label_position")
    assert "inspect.position_outlier = 8" in cases["c4"].reason
    assert (cases["c3"].verdict, cases["c3"].code) == ("warn", "duplicate_of:c2;same_patient")
    assert cases["c3"].reason == (
        "the image has the same voxels as c2; one patient under two ids: the image of patient_id 'c3' is that of "
        "'c2' (c2)"
    )
    one = [replace(r, record=replace(r.record, patient_id="one")) for r in results]
    assert {f.record.code for f in inspect_set(one, PARAMS) if f.record.case_id == "c3"} == {
        "duplicate_of:c2"
    }


def test_a_fifth_may_be_bad_and_not_one_more() -> None:
    cases = [*(good(f"g{i}") for i in range(8)), bad("b1"), bad("b2")]
    require_usable_set(cases, PARAMS)
    with pytest.raises(SegtrailError) as caught:
        require_usable_set([*cases, bad("b3")], PARAMS)
    text = str(caught.value)
    assert "3 of 11 cases are quarantined (27%), limit inspect.max_bad_fraction = 0.2" in text
    for name in ("b1", "b2", "b3"):
        assert f"{name}: not_finite (reason of {name})" in text


def test_a_set_without_a_good_case_is_refused_whatever_the_limit() -> None:
    with pytest.raises(SegtrailError, match="1 of 1 cases"):
        require_usable_set([bad("b1")], PARAMS.model_copy(update={"max_bad_fraction": 1.0}))


def test_one_unknown_label_value_refuses_the_set() -> None:
    cases = [
        *(good(f"g{i}") for i in range(20)),
        bad("b1", "geometry_mismatch;label_value_unknown"),
        bad("b2"),
    ]
    with pytest.raises(SegtrailError) as caught:
        require_usable_set(cases, PARAMS)
    assert "reason of b1" in caught.value.what
    assert "b2" not in caught.value.what
    assert caught.value.where == "data/raw/small/dataset.json"
