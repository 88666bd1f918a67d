"""The challenge's names, and a set in its format made of a real abdomen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipeline.errors import SegtrailError
from pipeline.io.sources import list_cases

LIVER, LIVER_VOXELS = 5, 38634  # of ct_slab/labels.json


def test_batches_belong_together_and_test_volumes_have_no_label(touch: Callable[..., Path]) -> None:
    folder = touch(
        *("Training Batch 1/volume-2.nii", "Training Batch 1/segmentation-2.nii"),
        *("Training Batch 2/volume-28.nii", "Training Batch 2/segmentation-28.nii", "test-volume-2.nii"),
    )
    facts, cases = list_cases(folder, "lits")
    assert [case.case_id for case in cases] == ["test-volume-2", "volume-2", "volume-28"]
    assert [Path(case.label).name for case in cases] == ["", "segmentation-2.nii", "segmentation-28.nii"]
    assert facts.regions == {"whole_liver": (1, 2), "liver_tumor": (2,)}


def test_a_segmentation_alone_and_a_volume_twice(touch: Callable[..., Path]) -> None:
    folder = touch("a/volume-1.nii", "b/volume-1.nii", "segmentation-9.nii")
    with pytest.raises(SegtrailError, match="2 problems") as caught:
        list_cases(folder, "lits")
    assert "the file is there twice" in str(caught.value)
    assert "segmentation-9.nii" in str(caught.value)


def test_a_real_liver(shared_data: Path, tmp_path: Path, inspect: Callable[..., Any]) -> None:
    source = shared_data / "organs_ct_mr/ct_slab"
    folder = tmp_path / "LiTS" / "Training Batch 1"
    folder.mkdir(parents=True)
    nibabel.save(nibabel.load(source / "image.nii.gz"), folder / "volume-0.nii")
    organs = nibabel.load(source / "label.nii.gz")
    liver = (np.asarray(organs.dataobj) == LIVER).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(liver, organs.affine), folder / "segmentation-0.nii")
    found = inspect(folder.parent, "lits", "volume-0")
    assert (found.record.verdict, found.record.shape) == ("ok", (122, 101, 30))
    assert {row.label for row in found.objects} == {"liver"}
    assert sum(row.voxels for row in found.objects) == LIVER_VOXELS
    largest = max(found.objects, key=lambda row: row.voxels)
    middle = organs.affine[:3, :3] @ (np.array(organs.shape) - 1) / 2 + organs.affine[:3, 3]
    assert largest.x_mm > middle[0]  # RAS: x grows to the right, where the liver lies
