"""Folders of three challenges, and a set in their format made of a real abdomen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from pipeline.io.sources import list_cases

RIGHT, LEFT = 2, 3  # kidneys in ct_slab/labels.json, 3947 and 3676 voxels
KIDNEYS = [3947, 3676]


def test_cases_of_2019_some_without_label(touch: Callable[..., Path]) -> None:
    folder = touch(
        "data/kits.json", "data/case_00000/imaging.nii.gz", "data/case_00000/segmentation.nii.gz",
        "data/case_00210/imaging.nii.gz",
    )  # fmt: skip
    facts, cases = list_cases(folder, "kits")
    assert [(case.case_id, bool(case.label)) for case in cases] == [
        ("case_00000", True),
        ("case_00210", False),
    ]
    assert facts.labels == {"background": 0, "kidney": 1, "tumor": 2}
    assert facts.regions == {"kidney_and_tumor": (1, 2), "kidney_tumor": (2,)}


def test_cysts_since_2021_and_the_majority_of_its_readers(touch: Callable[..., Path]) -> None:
    folder = touch(
        *(f"case_00000/{name}.nii.gz" for name in ("imaging", "segmentation", "aggregated_MAJ_seg"))
    )
    facts, (case,) = list_cases(folder, "kits")
    assert facts.labels["cyst"] == 3
    assert Path(case.label).name == "aggregated_MAJ_seg.nii.gz"


def test_2023_is_known_by_its_json(touch: Callable[..., Path]) -> None:
    folder = touch(
        "dataset/kits23.json", *(f"dataset/case_00000/{n}.nii.gz" for n in ("imaging", "segmentation"))
    )
    facts, (case,) = list_cases(folder, "kits")
    assert facts.regions == {"kidney_and_masses": (1, 2, 3), "masses": (2, 3), "kidney_tumor": (2,)}
    assert facts.regions_class_order == (1, 3, 2)
    assert Path(case.label).name == "segmentation.nii.gz"


def test_real_kidneys(shared_data: Path, tmp_path: Path, inspect: Callable[..., Any]) -> None:
    source = shared_data / "organs_ct_mr/ct_slab"
    folder = tmp_path / "kits19/data/case_00000"
    folder.mkdir(parents=True)
    nibabel.save(nibabel.load(source / "image.nii.gz"), folder / "imaging.nii.gz")
    organs = nibabel.load(source / "label.nii.gz")
    kidneys = np.isin(np.asarray(organs.dataobj), (RIGHT, LEFT)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(kidneys, organs.affine), folder / "segmentation.nii.gz")
    found = inspect(tmp_path / "kits19", "kits", "case_00000")
    assert found.record.verdict == "ok"
    assert sum(row.voxels for row in found.objects) == sum(KIDNEYS)
    assert {row.label for row in found.objects} == {"kidney"}
