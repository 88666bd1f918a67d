"""Layout `dicom`: trees of many series, and what labels them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from pipeline.config import load_params
from pipeline.inspection import inspect_case
from pipeline.io.dicom_tree import scan_tree
from pipeline.io.images import load_label_map, load_volume
from pipeline.io.sources import RawDataset, open_dataset

PARAMS = load_params().inspect.model_copy(update={"dataset": "d", "layout": "dicom"})


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def test_files_of_several_series_in_any_folder_are_grouped(shared_data: Path, tmp_path: Path) -> None:
    """Two real MR series of two patients, one slice a folder in turn; a report and a damaged file beside them."""
    for study in ("Study1", "Study2"):
        (series,) = (shared_data / "hippocrop_dicom" / study).iterdir()
        for number, path in enumerate(sorted(series.iterdir())):
            copy(path, tmp_path / "set" / str(number % 3) / f"{study}-{path.name}")
    (tmp_path / "set" / "broken.dcm").write_bytes(b"DICM")
    dataset = open_dataset(tmp_path / "set", "dicom")
    assert dataset.facts.channels == ("MRI",)
    assert [(r.case_id, r.patient_id) for r in dataset.records] == [
        ("PGBM-002_" + _tail(shared_data, "Study1"), "PGBM-002"),
        ("PGBM-006_" + _tail(shared_data, "Study2"), "PGBM-006"),
    ]
    for record, study in zip(dataset.records, ("Study1", "Study2"), strict=True):
        (series,) = (shared_data / "hippocrop_dicom" / study).iterdir()
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
        expected = sitk.GetArrayFromImage(reader.Execute()).transpose(2, 1, 0)
        volume = load_volume([Path(name) for name in record.images])
        np.testing.assert_array_equal(volume.array[0], expected)


def _tail(shared_data: Path, study: str) -> str:
    path = next((shared_data / "hippocrop_dicom" / study).rglob("*.dcm"))
    return str(pydicom.dcmread(path).SeriesInstanceUID).replace(".", "")[-6:]


def test_a_folder_of_one_series_is_named_by_the_folder(shared_data: Path) -> None:
    tree = scan_tree(shared_data / "hippocrop_dicom")
    assert [item.path.name for item in tree.series] == ["13_HCropVolume", "14_HCropVolume", "11_HCropVolume"]


@pytest.fixture
def labelled(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real CT of three slices with two segmentations in a folder beside it."""
    monkeypatch.chdir(tmp_path)
    source = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations"
    for name in ("01.dcm", "02.dcm", "03.dcm"):
        copy(source / "ct-3slice" / name, Path("raw/ct") / name)
    for name in ("liver.dcm", "partial_overlaps.dcm"):
        copy(source / name, Path("raw/labels") / name)
    return Path("raw")


def inspect(dataset: RawDataset, folder: Path | None = None) -> tuple[dict[str, str], np.ndarray | None]:
    (record,) = dataset.records
    result = inspect_case(record, dataset.facts, PARAMS, dataset.references.get(record.case_id), folder)
    reasons = dict(zip(result.record.code.split(";"), result.record.reason.split("; "), strict=False))
    label = load_label_map(Path(result.record.label)).array if result.record.label else None
    return {"verdict": result.record.verdict, **reasons}, label


def test_the_liver_lies_where_its_nrrd_has_it(labelled: Path, shared_data: Path, tmp_path: Path) -> None:
    (labelled / "labels/partial_overlaps.dcm").unlink()
    dataset = open_dataset(labelled, "dicom")
    assert dataset.facts.labels == {"background": 0, "Liver": 1}
    found, label = inspect(dataset, tmp_path)
    assert set(found) == {"verdict", "identifying_text"}  # the headers have dates
    expected = sitk.ReadImage(str(shared_data / "dicom_seg_rtstruct/dcmqi/segmentations/liver_seg.nrrd"))
    np.testing.assert_array_equal(label, sitk.GetArrayFromImage(expected).transpose(2, 1, 0) > 0)


def test_overlapping_segments_and_unknown_ones_are_said(labelled: Path, tmp_path: Path) -> None:
    facts = {"name": "d", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "GREEN"}}
    (labelled / "dataset.json").write_text(json.dumps(facts))
    found, label = inspect(open_dataset(labelled, "dicom"), tmp_path)
    assert found["verdict"] == "warn"
    assert found["label_left_out"] == (
        "no class of dataset.json, left out: DARK_BLUE, LIGHT_BLUE, ORANGE, PURPLE"
    )
    assert label is not None
    both = int(found["masks_overlap"].split()[0])
    sizes = np.bincount(label.ravel())
    assert sizes[1] == 107098 - both  # green is the smaller one and keeps its voxels
    assert both > 0


def test_a_class_of_two_objects_is_joined_and_said(labelled: Path, tmp_path: Path) -> None:
    (labelled / "labels/partial_overlaps.dcm").unlink()
    copy(labelled / "labels/liver.dcm", labelled / "labels/again.dcm")
    found, label = inspect(open_dataset(labelled, "dicom"), tmp_path)
    assert found["label_joined"].startswith("several of again.dcm, liver.dcm draw liver")
    assert int((label > 0).sum()) == 107098


def test_a_label_of_another_series_is_left_out_and_said(
    labelled: Path, shared_data: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(labelled / "labels")
    copy(shared_data / "dicom_seg_rtstruct/dcmqi/segmentations/23x38x3/seg/label.seg", labelled / "label.seg")
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    dataset = open_dataset(labelled, "dicom")
    assert not dataset.references
    assert "labels no series that is here" in caplog.text


def test_an_object_without_its_series_labels_the_only_one_of_its_frame(labelled: Path) -> None:
    path = labelled / "labels/liver.dcm"
    dataset = pydicom.dcmread(path)
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    dataset.save_as(path)
    assert len(open_dataset(labelled, "dicom").references) == 1


def test_two_modalities_need_a_choice(labelled: Path, shared_data: Path) -> None:
    (series,) = (shared_data / "hippocrop_dicom/Study1").iterdir()
    shutil.copytree(series, labelled / "mr")
    with pytest.raises(Exception, match="found 1 of CT, 1 of MR"):
        open_dataset(labelled, "dicom")
    facts = {"name": "d", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver"}}
    (labelled / "dataset.json").write_text(json.dumps(facts))
    (record,) = open_dataset(labelled, "dicom").records
    assert record.patient_id == "PGBM-002"


def test_structures_on_a_slice_of_which_others_are_missing(shared_data: Path, tmp_path: Path) -> None:
    """One CT slice with its RTSTRUCT in one folder: BODY is on it, with 437 of 441 contours elsewhere."""
    source = shared_data / "dicom_seg_rtstruct/rtstruct_breast"
    for name in ("ct.0.dcm", "rtss.dcm"):
        copy(source / name, tmp_path / "raw" / name)
    dataset = open_dataset(tmp_path / "raw", "dicom")
    assert len(dataset.facts.labels) == 11
    found, label = inspect(dataset, tmp_path)
    assert found["verdict"] == "warn"
    assert found["annotation_outside"].startswith("437 of 441 contours")
    assert set(np.unique(label)) == {0, dataset.facts.labels["BODY"]}


@pytest.mark.parametrize("ending", ["1234577.0.0.0", "1234578.0.0.0"])
def test_endings_that_many_series_share_make_no_equal_names(labelled: Path, ending: str) -> None:
    """UIDs of Siemens end in zeros."""
    for folder in ("ct", "second"):
        for number in (1, 2, 3):
            dataset = pydicom.dcmread(labelled / "ct" / f"0{number}.dcm")
            dataset.SeriesInstanceUID = f"1.3.12.{len(folder)}.{ending}"
            (labelled / folder).mkdir(exist_ok=True)
            dataset.save_as(labelled / folder / f"0{number}.dcm")
    names = [record.case_id for record in open_dataset(labelled, "dicom").records]
    assert len(set(names)) == 2
    assert all(len(name.removeprefix("99000_")) == 12 for name in names)
