"""The stage on real hippocampi and brain tumours, some of them spoilt; whole or not at all."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from flows.inspect import inspect_flow
from flows.stage import run_stage
from pipeline.cases import load_cases
from pipeline.errors import SegtrailError
from pipeline.inspection import Fingerprint
from pipeline.io.sources import DatasetFacts
from pipeline.objects import load_objects

OUTPUT = Path("data/inspected")
SPOILT = {
    "hippocampus_007": "truncated",
    "hippocampus_014": "not_finite",
    "hippocampus_019": "geometry_mismatch",
    "hippocampus_033": "label_position",
}


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the stage tells the terminal."""
    told: list[str] = []

    class Keep(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            told.append(entry.getMessage())

    logger, handler = logging.getLogger("segtrail"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield told
    logger.removeHandler(handler)
    logger.setLevel(level)


def choose(project: Path, dataset: str, layout: str = "msd") -> None:
    """Points `params.yaml` to a data set."""
    path = project / "params.yaml"
    text = path.read_text(encoding="utf-8").replace("dataset: phantom ", f"dataset: {dataset} ")
    path.write_text(text.replace("layout: msd ", f"layout: {layout} "), encoding="utf-8")


@pytest.fixture
def hippocampi(project: Path, shared_data: Path) -> Callable[[int], Path]:
    """Makes `data/raw/hippocampus` with the first real cases, as links that a test may replace."""

    def make(count: int) -> Path:
        source, folder = shared_data / "Task04_Hippocampus", project / "data/raw/hippocampus"
        facts = json.loads((source / "dataset.json").read_text())
        facts["training"] = facts["training"][:count]
        for entry in facts["training"]:
            for name in entry.values():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).symlink_to((source / name).resolve())
        (folder / "dataset.json").write_text(json.dumps(facts))
        choose(project, "hippocampus")
        return folder

    return make


def replace_file(path: Path, contents: bytes) -> None:
    path.unlink()  # the link, never the shared file
    path.write_bytes(contents)


def spoil(folder: Path) -> None:
    """One case cut off, one filled with NaN, one label shifted in its header, one by its voxels."""
    cut, empty, header, voxels = (f"{name}.nii.gz" for name in SPOILT)
    whole = (folder / "imagesTr" / cut).read_bytes()
    replace_file(folder / "imagesTr" / cut, whole[: len(whole) * 6 // 10])
    image = nibabel.load(folder / "imagesTr" / empty)
    nan = nibabel.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine)
    (folder / "imagesTr" / empty).unlink()
    nibabel.save(nan, folder / "imagesTr" / empty)
    label = nibabel.load(folder / "labelsTr" / header)
    affine = label.affine.copy()
    affine[:3, 3] += [5, 0, 0]
    moved = nibabel.Nifti1Image(np.asarray(label.dataobj), affine)
    (folder / "labelsTr" / header).unlink()
    nibabel.save(moved, folder / "labelsTr" / header)
    label = nibabel.load(folder / "labelsTr" / voxels)
    rolled = nibabel.Nifti1Image(np.roll(np.asarray(label.dataobj), 12, axis=1), label.affine)
    (folder / "labelsTr" / voxels).unlink()
    nibabel.save(rolled, folder / "labelsTr" / voxels)


def read_output() -> dict[str, bytes]:
    return {p.relative_to(OUTPUT).as_posix(): p.read_bytes() for p in OUTPUT.rglob("*") if p.is_file()}


def test_four_spoilt_cases_are_named_and_seventeen_used(
    hippocampi: Callable[[int], Path], lines: list[str]
) -> None:
    spoil(hippocampi(21))
    inspect_flow.fn()
    cases = {case.case_id: case for case in load_cases(OUTPUT / "cases.csv")}
    assert {c.case_id: c.code for c in cases.values() if not c.usable} == SPOILT
    assert sum(case.usable for case in cases.values()) == 17
    assert "cut off" in cases["hippocampus_007"].reason
    assert "voxels are NaN or Inf" in cases["hippocampus_014"].reason
    assert "origin is moved by (5, 0, 0) mm" in cases["hippocampus_019"].reason
    assert "inspect.position_outlier = 8" in cases["hippocampus_033"].reason
    told = [line for line in lines if line.startswith("quarantined")]
    for name, code in SPOILT.items():
        assert any(name in line and code in line and cases[name].reason in line for line in told)
    assert len(told) == 4
    assert lines[-1] == "inspected 21 cases: 17 usable (0 of them with a warning, 0 fixed), 4 quarantined"
    fingerprints = sorted(p.stem for p in (OUTPUT / "fingerprints").iterdir())
    assert fingerprints == sorted(case.case_id for case in cases.values() if case.usable)


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


def test_too_many_bad_cases_stop_the_stage_with_one_error(
    hippocampi: Callable[[int], Path], lines: list[str]
) -> None:
    spoil(hippocampi(19))  # 4 of 19 are more than a fifth
    with pytest.raises(SegtrailError) as caught:
        inspect_flow.fn()
    for name, code in SPOILT.items():
        assert f"{name}: {code}" in caught.value.what
    assert "inspect.max_bad_fraction = 0.2" in caught.value.what
    assert sum(line.startswith("quarantined") for line in lines) == 4
    assert not OUTPUT.exists()


def test_unknown_label_values_end_the_process_after_the_whole_set(
    hippocampi: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hippocampi(12)
    facts = json.loads((folder / "dataset.json").read_text())
    del facts["labels"]["2"]
    (folder / "dataset.json").write_text(json.dumps(facts))
    monkeypatch.setenv("SEGTRAIL_NO_PREFECT", "1")
    with pytest.raises(SystemExit) as caught:
        run_stage(inspect_flow)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "12 label map(s) hold values that dataset.json does not know" in error
    assert error.count("value 2 (") == 12
    assert "max_bad_fraction" not in error
    assert "fix:" in error
    assert not OUTPUT.exists()


def test_a_missing_raw_folder_is_one_clear_error(project: Path) -> None:
    with pytest.raises(SegtrailError, match=r"no folder data/raw/phantom(.|\n)*segtrail data add"):
        inspect_flow.fn()
    assert not OUTPUT.exists()


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


def mend_later(folder: Path) -> list[str]:
    """Four labels stored otherwise without a change: axes, header, float noise; and an image with a fourth axis."""
    names = sorted(path.name for path in (folder / "labelsTr").iterdir())[:4]
    for name, kind in zip(names, ("axes", "header", "noise", "image"), strict=True):
        path = folder / ("imagesTr" if kind == "image" else "labelsTr") / name
        stored = nibabel.load(path)
        array, affine = np.asarray(stored.dataobj), stored.affine.copy()
        if kind == "axes":
            wanted = nibabel.orientations.axcodes2ornt("PSR")
            now = nibabel.io_orientation(affine)
            turned = stored.as_reoriented(nibabel.orientations.ornt_transform(now, wanted))
            array, affine = np.asarray(turned.dataobj), turned.affine
        elif kind == "header":
            affine[0, 3] += 0.006
        elif kind == "noise":
            array = array.astype(np.float32) + np.float32(1e-4)
        else:
            array = array[..., None]
        path.unlink()
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return [name.removesuffix(".nii.gz") for name in names]


def test_mended_cases_are_the_same_cases(hippocampi: Callable[[int], Path], project: Path) -> None:
    """Fingerprints and objects of the mended cases are those of the files before they were changed."""
    folder = hippocampi(10)
    inspect_flow.fn()
    before = read_output()
    first = {case.case_id: case for case in load_cases(OUTPUT / "cases.csv")}
    names = mend_later(folder)
    raw = {path: path.read_bytes() for path in folder.rglob("*.nii.gz")}
    inspect_flow.fn()
    after, cases = read_output(), {case.case_id: case for case in load_cases(OUTPUT / "cases.csv")}
    assert {c.case_id: c.code for c in cases.values() if c.verdict != "ok"} == dict(
        zip(names, ("reoriented", "header_snapped", "label_rounded", "axis_dropped"), strict=True)
    )
    assert {c.verdict for c in cases.values()} == {"ok", "fixed"}
    assert [cases[name].fixes for name in names] == [
        ("label:orientation",), ("label:header",), ("label:rounding",), ("image:axes",)
    ]  # fmt: skip
    assert after["objects.csv"] == before["objects.csv"]
    for name in names:
        assert cases[name].sha256 != first[name].sha256
        measured = [json.loads(files[f"fingerprints/{name}.json"]) for files in (before, after)]
        for one in measured:
            for channel in one["intensity"]:
                channel.pop("samples")  # drawn by the hash of the files
        assert measured[0] == measured[1]
    with (OUTPUT / "fixes.csv").open() as stream:
        assert [row["case_id"] for row in csv.DictReader(stream)] == names
    assert raw == {path: path.read_bytes() for path in folder.rglob("*.nii.gz")}


def test_a_refused_set_has_its_page(hippocampi: Callable[[int], Path], project: Path) -> None:
    folder = hippocampi(4)
    for path in (folder / "labelsTr").iterdir():
        label = nibabel.load(path)
        array, moved = np.asarray(label.dataobj), label.affine.copy()
        moved[0, 3] += 5
        path.unlink()
        nibabel.save(nibabel.Nifti1Image(array, moved), path)
    with pytest.raises(SegtrailError) as caught:
        inspect_flow.fn()
    page = Path(".segtrail/inspection/report.html")
    assert str(page) in caught.value.fix
    text = page.read_text(encoding="utf-8")
    assert "The set is refused" in text and text.count("data:image/png") == 4
    assert not OUTPUT.exists()


def test_text_that_names_a_person_is_told_and_never_repeated(hippocampi: Callable[[int], Path]) -> None:
    path = next(iter(sorted((hippocampi(10) / "imagesTr").iterdir())))
    image = nibabel.load(path)
    image.header["descrip"] = b"Mueller^Anna 19540312"
    array = np.asarray(image.dataobj)
    path.unlink()
    nibabel.save(nibabel.Nifti1Image(array, image.affine, image.header), path)
    inspect_flow.fn()
    cases = [case for case in load_cases(OUTPUT / "cases.csv") if case.verdict != "ok"]
    assert [(c.verdict, c.code) for c in cases] == [("warn", "identifying_text")]
    assert "header field descrip of the image" in cases[0].reason
    everything = b"".join(read_output().values())
    assert (
        b"identifying_text" in everything and b"Mueller" not in everything and b"19540312" not in everything
    )
