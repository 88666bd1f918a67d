"""Folders of every generation of BraTS by name, and the real ones against nibabel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipeline.errors import SegtrailError
from pipeline.io.sources import list_cases


def names(case_id: str, separator: str, *kinds: str) -> list[str]:
    return [f"{case_id}/{case_id}{separator}{kind}.nii.gz" for kind in kinds]


def test_four_modalities_in_a_fixed_order_and_the_regions_of_the_challenge(
    touch: Callable[..., Path],
) -> None:
    old = ("flair", "seg", "t1", "t1ce", "t2")
    folder = touch(*names("BraTS20_Training_001", "_", *old), "BraTS20_Training_001/notes.txt")
    facts, (case,) = list_cases(folder, "brats")
    assert facts.channels == ("T1", "T1ce", "T2", "FLAIR")
    stems = [Path(path).name.removesuffix(".nii.gz").rpartition("_")[2] for path in case.images]
    assert stems == ["t1", "t1ce", "t2", "flair"]
    assert Path(case.label).name == "BraTS20_Training_001_seg.nii.gz"
    assert facts.labels == {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 4}
    assert facts.regions == {"whole_tumor": (1, 2, 4), "tumor_core": (1, 4), "enhancing_tumor": (4,)}


def test_names_and_values_since_2023_and_two_examinations_of_a_patient(touch: Callable[..., Path]) -> None:
    new = ("seg", "t1c", "t1n", "t2f", "t2w")
    folder = touch(*names("BraTS-GLI-00005-100", "-", *new), *names("BraTS-GLI-00005-101", "-", *new))
    facts, cases = list_cases(folder, "brats")
    assert [case.patient_id for case in cases] == ["BraTS-GLI-00005"] * 2
    assert [Path(path).name[20:23] for path in cases[0].images] == ["t1n", "t1c", "t2w", "t2f"]
    assert facts.regions["enhancing_tumor"] == (3,)
    assert facts.regions_class_order == (2, 1, 3)


def test_a_case_without_segmentation_and_one_without_a_modality(touch: Callable[..., Path]) -> None:
    folder = touch(
        *names("HGG/a", "_", "t1"), *names("a", "_", "t1", "flair", "seg"), *names("b", "_", "t1", "flair")
    )
    _, cases = list_cases(folder, "brats")
    assert [(case.case_id, bool(case.label)) for case in cases] == [("a", True), ("b", False)]
    touch(*names("c", "_", "t1"))
    with pytest.raises(SegtrailError, match="the modality FLAIR is missing") as caught:
        list_cases(folder, "brats")
    assert "case c" in str(caught.value)


def test_generations_do_not_mix_as_their_values_differ(touch: Callable[..., Path]) -> None:
    folder = touch(*names("BraTS-GLI-00005-100", "-", "t1c"), *names("BraTS20_Training_001", "_", "t1ce"))
    with pytest.raises(SegtrailError, match="cases of several generations"):
        list_cases(folder, "brats")


def test_other_classes_and_patients_by_files_beside_the_cases(touch: Callable[..., Path]) -> None:
    folder = touch(*names("a", "_", "t1", "seg"), *names("b", "_", "t1", "seg"))
    labels = '"labels": {"background": 0, "tumor": 1}'
    (folder / "dataset.json").write_text(f'{{"modality": {{"0": "T1"}}, {labels}}}')
    (folder / "patients.csv").write_text("case_id,patient_id,site\na,p1,x\nb,p1,x\n")
    facts, cases = list_cases(folder, "brats")
    assert (facts.labels, facts.regions) == ({"background": 0, "tumor": 1}, {})
    assert {(case.patient_id, case.site) for case in cases} == {("p1", "x")}


def test_real_patients_of_2015(shared_data: Path, inspect: Callable[..., Any]) -> None:
    """Two modalities; a class 3 that later challenges dropped; maps of the brain are no modality."""
    folder = shared_data / "brats2015_2mm"
    facts, cases = list_cases(folder, "brats")
    assert facts.channels == ("T1ce", "FLAIR")
    assert [case.patient_id for case in cases] == [f"brats_2013_pat000{n}" for n in (1, 3, 5, 6)]
    found = inspect(folder, "brats", "brats_2013_pat0001_1")
    assert (found.record.verdict, found.record.shape) == ("ok", (120, 120, 78))
    label = np.asarray(nibabel.load(cases[0].label).dataobj)
    values, counts = np.unique(label[label > 0], return_counts=True)
    assert {facts.labels[name]: n for name, n in voxels_by_class(found).items()} == dict(
        zip(values, counts, strict=True)
    )


def voxels_by_class(found: Any) -> dict[str, int]:
    names = {row.label for row in found.objects}
    return {name: sum(row.voxels for row in found.objects if row.label == name) for name in names}


def test_the_real_patient_in_the_layout_of_2020(shared_data: Path) -> None:
    """The five segmentations that the consensus was made of lie in a folder below and are no cases."""
    facts, (case,) = list_cases(shared_data / "brats_style", "brats")
    assert (case.case_id, len(case.images), len(facts.channels)) == ("TCGA-DU-7294", 4, 4)
    values = np.unique(np.asarray(nibabel.load(case.label).dataobj)).astype(int)
    assert set(values) <= set(facts.labels.values())
