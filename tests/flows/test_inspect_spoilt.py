"""The stage `inspect` on spoilt cases: each is named or mended, and a set that is refused leaves nothing behind."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from linked_sets import OUTPUT, read_output, replace_file

from flows.inspect import inspect_flow
from flows.stage import run_stage
from pipeline.cases import load_cases
from pipeline.errors import SegtrailError

SPOILT = {
    "hippocampus_007": "truncated",
    "hippocampus_014": "not_finite",
    "hippocampus_019": "geometry_mismatch",
    "hippocampus_033": "label_position",
}


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


def test_four_spoilt_cases_are_named_and_seventeen_used(
    hippocampi: Callable[[int], Path], messages: list[str]
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
    told = [line for line in messages if line.startswith("quarantined")]
    for name, code in SPOILT.items():
        assert any(name in line and code in line and cases[name].reason in line for line in told)
    assert len(told) == 4
    assert messages[-1] == "inspected 21 cases: 17 usable (0 of them with a warning, 0 fixed), 4 quarantined"
    fingerprints = sorted(p.stem for p in (OUTPUT / "fingerprints").iterdir())
    assert fingerprints == sorted(case.case_id for case in cases.values() if case.usable)


def test_too_many_bad_cases_stop_the_stage_with_one_error(
    hippocampi: Callable[[int], Path], messages: list[str]
) -> None:
    spoil(hippocampi(19))  # 4 of 19 are more than a fifth
    with pytest.raises(SegtrailError) as caught:
        inspect_flow.fn()
    for name, code in SPOILT.items():
        assert f"{name}: {code}" in caught.value.what
    assert "inspect.max_bad_fraction = 0.2" in caught.value.what
    assert sum(line.startswith("quarantined") for line in messages) == 4
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
