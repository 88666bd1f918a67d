"""The stage `inspect` on real data sets of several kinds: fingerprints, references, objects; the same bytes again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from linked_sets import OUTPUT, choose, read_output, replace_file

from flows.inspect import inspect_flow
from pipeline.cases import load_cases
from pipeline.inspection import Fingerprint
from pipeline.io.sources import DatasetFacts
from pipeline.objects import load_objects


def test_fingerprints_agree_with_nibabel(hippocampi: Callable[[int], Path]) -> None:
    folder = hippocampi(3)
    inspect_flow.fn()
    for case in load_cases(OUTPUT / "cases.csv"):
        image = nibabel.load(folder / "imagesTr" / f"{case.case_id}.nii.gz").get_fdata()
        label = nibabel.load(folder / "labelsTr" / f"{case.case_id}.nii.gz").get_fdata()
        fingerprint = Fingerprint.load(OUTPUT / "fingerprints" / f"{case.case_id}.json")
        assert fingerprint.shape == case.shape == image.shape
        assert fingerprint.intensity[0].mean == pytest.approx(image[label > 0].mean(), rel=1e-6)
        assert fingerprint.classes["Anterior"].voxels == (label == 1).sum()
        assert Path(case.images[0]).is_file()
    assert DatasetFacts.load(OUTPUT / "dataset.json").labels["Posterior"] == 2


def test_the_same_set_gives_the_same_bytes_and_leaves_no_rest(hippocampi: Callable[[int], Path]) -> None:
    hippocampi(4)
    inspect_flow.fn()
    first = read_output()
    (OUTPUT / "fingerprints" / "gone.json").touch()  # of a case that has left the set
    (OUTPUT.parent / "inspected.tmp").mkdir()  # of a run that was killed
    inspect_flow.fn()
    assert read_output() == first
    assert sorted(p.name for p in OUTPUT.parent.iterdir()) == ["inspected", "raw"]


def test_brain_tumours_with_two_modalities_by_table(project: Path, shared_data: Path) -> None:
    folder = project / "data/raw/brats"
    folder.mkdir(parents=True)
    names = [f"brats_2013_pat000{i}_1" for i in (1, 3, 5, 6)]
    with (folder / "cases.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case_id", "patient_id", "image_0", "image_1", "label"])
        for name in names:
            (folder / name).symlink_to((shared_data / "brats2015_2mm" / name).resolve())
            files = (f"{name}/{name}_{kind}.nii.gz" for kind in ("flair", "t1ce", "seg"))
            writer.writerow([name, name.removesuffix("_1"), *files])
    labels = {"background": 0, "necrosis": 1, "oedema": 2, "non-enhancing": 3, "enhancing": 4}
    facts = {"name": "BraTS", "modality": {"0": "FLAIR", "1": "T1ce"}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(facts))
    choose(project, "brats", "table")
    inspect_flow.fn()
    cases = load_cases(OUTPUT / "cases.csv")
    assert [case.verdict for case in cases] == ["ok"] * 4
    assert {(case.shape, case.spacing_mm, case.orientation) for case in cases} == {
        ((120, 120, 78), (2.0, 2.0, 2.0), "LPS")
    }
    assert cases[0].patient_id == "brats_2013_pat0001"
    fingerprint = Fingerprint.load(OUTPUT / "fingerprints" / f"{names[0]}.json")
    assert len(fingerprint.intensity) == 2
    assert fingerprint.intensity[0].mean != fingerprint.intensity[1].mean


@pytest.fixture
def nuclei(project: Path, shared_data: Path) -> Path:
    """`data/raw/nuclei`: links to two real images of each type; one of them is spoilt."""
    source, folder = shared_data / "dsb2018", project / "data/raw/nuclei"
    folder.mkdir(parents=True)
    rows = [line.split(",") for line in (source / "image_types.csv").read_text().splitlines()[1:]]
    small = sorted(rows, key=lambda row: int(row[4]))
    chosen = [
        row[0] for kind in sorted({row[1] for row in rows}) for row in [r for r in small if r[1] == kind][:2]
    ]
    for case_id in chosen:
        for path in (source / "stage1_train" / case_id).rglob("*.png"):
            link = folder / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    spoilt = next((folder / "stage1_train" / chosen[0] / "masks").iterdir())
    replace_file(spoilt, spoilt.read_bytes()[:-40])
    (folder / "image_types.csv").symlink_to(source / "image_types.csv")
    choose(project, "nuclei", "dsb2018")
    return folder


@pytest.mark.slow
def test_nuclei_get_their_references_once(nuclei: Path) -> None:
    inspect_flow.fn()
    cases = load_cases(OUTPUT / "cases.csv")
    usable = [case for case in cases if case.usable]
    assert (len(cases), len(usable)) == (10, 9)
    assert len({case.site for case in cases}) == 5
    objects = load_objects(OUTPUT / "objects.csv")
    for case in usable:
        assert case.label == f"data/inspected/references/{case.case_id}_labels.nii.gz"
        instances = np.asarray(nibabel.load(case.instances).dataobj)
        masks = list((nuclei / "stage1_train" / case.case_id / "masks").iterdir())
        mine = [row for row in objects if row.case_id == case.case_id]
        assert instances.max() == len(masks) == len(mine)
        assert (np.asarray(nibabel.load(case.label).dataobj) == (instances > 0)).all()
        fingerprint = Fingerprint.load(OUTPUT / "fingerprints" / f"{case.case_id}.json")
        assert fingerprint.classes["nucleus"].objects == len(masks)
    assert len(list((OUTPUT / "references").iterdir())) == 2 * len(usable)
    assert {row.case_id for row in objects} == {case.case_id for case in usable}
    before = read_output()
    inspect_flow.fn()
    assert read_output() == before


@pytest.mark.parametrize(("layout", "folder"), [("luna16", "luna16"), ("lidc", "lidc_idri")])
def test_real_lung_scans(project: Path, shared_data: Path, layout: str, folder: str) -> None:
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/lungs").symlink_to((shared_data / folder).resolve())
    choose(project, "lungs", layout)
    inspect_flow.fn()
    cases = load_cases(OUTPUT / "cases.csv")
    assert len(cases) == 3 and all(case.usable for case in cases)
    assert all(Path(case.label).is_file() and Path(case.images[0]).exists() for case in cases)
    marked = [row for row in load_objects(OUTPUT / "objects.csv") if not row.ignored]
    assert len(marked) == {"luna16": 2, "lidc": 3}[layout]  # LUNA16 leaves out what two readers drew
    assert {row.readers for row in marked} == {"luna16": {0}, "lidc": {2, 4}}[layout]


def test_hippocampi_have_two_objects_each(hippocampi: Callable[[int], Path]) -> None:
    hippocampi(2)
    inspect_flow.fn()
    rows = load_objects(OUTPUT / "objects.csv")
    assert {(row.case_id, row.label) for row in rows} == {
        (case.case_id, name)
        for case in load_cases(OUTPUT / "cases.csv")
        for name in ("Anterior", "Posterior")
    }
    assert not (OUTPUT / "references").exists()


def test_under_prefect_the_result_is_the_same(
    hippocampi: Callable[[int], Path], prefect_harness: None
) -> None:
    hippocampi(3)
    inspect_flow.fn()
    plain = read_output()
    inspect_flow()
    assert read_output() == plain
