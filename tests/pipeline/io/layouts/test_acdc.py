"""Both forms of ACDC: folders of patients as the challenge gives them, made of real hearts; and the real HDF5 files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest

from pipeline.errors import SegtrailError
from pipeline.io.sources import list_cases

INFO = "ED: 1\nES: 6\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"


def write_patient(source: Path, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Patient 75 as the challenge has it: X, Y, Z with a spacing; returns the labels of the frames."""
    labels = {}
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text(INFO)
    spacing = np.diag([1.5, 1.5, 10.0, 1.0])
    for frame in ("frame01", "frame06"):
        with h5py.File(source / f"patient075_{frame}.h5") as file:
            image, label = file["image"][()].transpose(2, 1, 0), file["label"][()].transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(image, spacing), folder / f"patient075_{frame}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, spacing), folder / f"patient075_{frame}_gt.nii.gz")
        labels[frame] = label
    (folder / "patient075_4d.nii.gz").touch()
    return labels


def test_the_folder_of_a_patient_gives_the_two_frames_of_info_cfg(
    shared_data: Path, tmp_path: Path, inspect: Callable[..., Any]
) -> None:
    folder = tmp_path / "ACDC"
    labels = write_patient(shared_data / "acdc_h5/ACDC_training_volumes", folder / "training/patient075")
    _, cases = list_cases(folder, "acdc")
    assert [(case.case_id, case.patient_id) for case in cases] == [
        ("patient075_frame01", "patient075"), ("patient075_frame06", "patient075"),
    ]  # fmt: skip
    volumes = []
    for case in cases:
        found = inspect(folder, "acdc", case.case_id)
        assert (found.record.verdict, found.record.spacing_mm) == ("ok", (1.5, 1.5, 10.0))
        cavity = sum(row.voxels for row in found.objects if row.label == "left_ventricle")
        assert cavity == (labels[case.case_id[-7:]] == 3).sum()
        volumes.append(cavity)
    assert volumes[1] < volumes[0]  # the heart contracts in systole


def test_the_real_files_keep_both_frames_of_a_patient_together(
    shared_data: Path, inspect: Callable[..., Any]
) -> None:
    found = inspect(shared_data / "acdc_h5", "acdc", "patient038_frame01")
    assert (found.record.verdict, found.record.code) == ("warn", "spacing_unknown")
    with h5py.File(shared_data / "acdc_h5/ACDC_training_volumes/patient038_frame01.h5") as file:
        slices, rows, columns = file["image"].shape
        cavity = (file["label"][()] == 3).sum()
    assert found.record.shape == (columns, rows, slices)
    assert sum(row.voxels for row in found.objects if row.label == "left_ventricle") == cavity
    _, cases = list_cases(shared_data / "acdc_h5", "acdc")
    assert len(cases) == 10
    assert len({case.patient_id for case in cases}) == 5
    assert cases[0].images[0].endswith("patient038_frame01.h5#image")
    assert cases[0].label == cases[0].images[0].replace("#image", "#label")


def test_a_damaged_info_and_a_missing_frame(touch: Callable[..., Path]) -> None:
    folder = touch("patient001/Info.cfg", "patient002/Info.cfg", "patient002/patient002_frame01.nii")
    (folder / "patient001/Info.cfg").write_text("ED: 1\nES: soon\n")
    (folder / "patient002/Info.cfg").write_text("ED: 1\nES: 12\n")
    with pytest.raises(SegtrailError, match="3 problems") as caught:
        list_cases(folder, "acdc")
    assert "ES is 'soon'" in str(caught.value)
    assert "patient001_frame01" in str(caught.value) and "patient002_frame12" in str(caught.value)
