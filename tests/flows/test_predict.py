"""`segtrail predict`: what counts as an input, and what happens to bad ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conftest import CaseFolder
from PIL import Image
from small_bundle import write_ct_bundle, write_picture_bundle

from flows.predict import group_inputs, predict_inputs, resolve_model
from flows.predict_settings import settings_as_scored
from pipeline.config import load_params
from pipeline.errors import SegtrailError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "sub/b_0000.nii", "notes.txt", ".hidden.nii.gz"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def test_channels_of_a_folder_become_cases(folder: Path) -> None:
    cases, errors = group_inputs([folder], 2, Path("out"))
    assert errors == []
    assert {name: [p.name for p in paths] for name, paths in cases.items()} == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii"],
    }


def test_with_one_channel_every_file_is_a_case(folder: Path) -> None:
    cases, _ = group_inputs([folder], 1, Path("out"))
    assert sorted(cases) == ["a_0000", "a_0001", "b_0000"]


def test_each_bad_input_gets_its_own_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    inputs = [tmp_path / "empty", tmp_path / "none.nii.gz", folder / "notes.txt", folder / "a_0000.nii.gz"]
    cases, errors = group_inputs(inputs, 1, Path("out"))
    assert list(cases) == ["a_0000"]
    assert [e.what for e in errors] == [
        "no image in this folder",
        "there is no such file",
        ".txt is no image suffix",
    ]


def test_two_files_of_one_name_would_overwrite_each_other(tmp_path: Path) -> None:
    for part in ("x", "y"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "case.nii.gz").touch()
    cases, errors = group_inputs([tmp_path / "x", tmp_path / "y"], 1, Path("out"))
    assert len(cases) == 1
    assert "two inputs are named case" in errors[0].what


def test_a_model_is_a_folder_or_a_name_with_an_alias(tmp_path: Path) -> None:
    with pytest.raises(SegtrailError, match="neither a folder nor NAME@ALIAS"):
        resolve_model("phantom")
    with pytest.raises(SegtrailError, match="this is no bundle"):
        resolve_model(str(tmp_path))


def test_channels_are_put_in_order_and_must_be_complete(folder: Path) -> None:
    (folder / "c_0001.nii.gz").touch()
    (folder / "c_0002.nii.gz").touch()
    named = ["a_0001.nii.gz", "a_0000.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz"]
    cases, errors = group_inputs([folder / name for name in named], 2, Path("out"))
    assert [p.name for p in cases["a"]] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert "c" not in cases
    assert errors[0].what == "channels 0001, 0002, expected 0000, 0001 in one folder"


def test_results_of_an_earlier_run_are_no_inputs(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "a_labels.nii.gz").touch()
    cases, _ = group_inputs([folder], 1, folder / "out")
    assert "a_labels" not in cases


def write_picture(path: Path, colours: bool = True, rows: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (rows, 50, 3) if colours else (rows, 50)
    Image.fromarray(np.random.default_rng(rows).integers(0, 256, shape, np.uint8)).save(path)
    return path


def test_files_of_every_format_are_cases(tmp_path: Path, shared_data: Path) -> None:
    series = shared_data / "loader_oddities" / "real_files" / "dicom_small_ct_series"
    for name in (
        "a.nii.gz",
        "b.nii",
        "c.mhd",
        "c.raw",
        "d.mha",
        "e.png",
        "F.TIF",
        "g.jpg",
        "h.txt",
        "i.nrrd",
        "j.mgz",
        "k.gif",
        "l.h5",
        "m.hdr",
        "m.img",
    ):
        (tmp_path / name).touch()
    cases, errors = group_inputs([tmp_path, series], 1, Path("out"))
    assert sorted(cases) == ["F", *"abcd", "dicom_small_ct_series", *"egijklm"]
    assert cases["m"] == [tmp_path / "m.hdr"]
    assert cases["dicom_small_ct_series"] == [series]
    assert errors == []
    named = [Path(f"{tmp_path / 'l.h5'}#{name}") for name in ("scan/t1", "stack[3]")]
    cases, errors = group_inputs(named, 1, Path("out"))
    assert cases == {"l_scan_t1": named[:1], "l_stack_3": named[1:]}
    assert errors == []
    _, errors = group_inputs([tmp_path / "none.h5#image"], 1, Path("out"))
    assert errors[0].what == "there is no such file"


def test_a_slice_alone_is_answered_with_the_way_to_its_series(shared_data: Path) -> None:
    path = shared_data / "loader_oddities" / "real_files" / "dicom_single" / "CT_small.dcm"
    cases, errors = group_inputs([path], 1, Path("out"))
    assert cases == {}
    assert errors[0].what == ".dcm is no image suffix"
    assert "give the folder of a DICOM series" in errors[0].fix


def test_series_are_found_below_a_folder(shared_data: Path) -> None:
    cases, errors = group_inputs([shared_data / "lidc_idri" / "LIDC-IDRI"], 1, Path("out"))
    assert errors == []
    assert len(cases) == 3
    assert all(path.is_dir() and path.name == case_id for case_id, (path,) in cases.items())


def test_a_picture_in_colours_is_a_case_whatever_its_number(tmp_path: Path) -> None:
    """Three frames of a film are three cases; three grey files are the channels of one."""
    for number in range(3):
        write_picture(tmp_path / f"frame_{number:04d}.png")
        write_picture(tmp_path / f"stain_{number:04d}.tif", colours=False)
    cases, errors = group_inputs([tmp_path], 3, Path("out"))
    assert errors == []
    assert sorted(cases) == ["frame_0000", "frame_0001", "frame_0002", "stain"]
    assert [path.name for path in cases["stain"]] == [f"stain_{n:04d}.tif" for n in range(3)]


def test_results_beside_the_slices_of_a_series_are_no_inputs(tmp_path: Path, shared_data: Path) -> None:
    series = tmp_path / "series"
    source = shared_data / "loader_oddities" / "real_files" / "dicom_small_ct_series"
    shutil.copytree(source, series, copy_function=shutil.copyfile)
    series.chmod(0o755)  # the sample data are read-only
    (series / "series_labels.nii.gz").touch()
    assert group_inputs([series], 1, series) == ({"series": [series]}, [])


def test_one_bad_input_does_not_stop_the_others(
    project: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures: in colours, grey, cut off, one channel of three, and one that is not there."""
    inputs = project / "in"
    good = [write_picture(inputs / "a.png"), write_picture(inputs / "deep" / "z.tif", rows=60)]
    (inputs / "cut.png").write_bytes(good[0].read_bytes()[:-100])
    write_picture(inputs / "grey.png", colours=False)
    write_picture(inputs / "stain_0001.png", colours=False)
    output, model = project / "out", str(write_picture_bundle(project / "bundle"))
    assert predict_inputs([inputs, project / "none.png"], output, model, "cpu") == 1
    said = capsys.readouterr().err
    assert said.count("segtrail: error:") == 3
    for name in ("cut.png", "stain_0001.png", "none.png"):
        assert name in said
    parts = ("_instances.png", "_labels.png", "_overlay.png", ".json")
    assert {path.name for path in output.iterdir()} == {
        stem + part for stem in ("a", "grey", "z") for part in parts
    }
    assert predict_inputs(good, output, model, "cpu") == 0
    assert json.loads((output / "z.json").read_text())["input"] == [str(good[1])]


def test_a_folder_of_scans_in_every_format(project: Path, shared_data: Path) -> None:
    odd = shared_data / "loader_oddities"
    inputs = project / "in"
    inputs.mkdir()
    for name in ("reference_image.nii.gz", "compressed.mhd", "compressed.zraw"):
        shutil.copyfile(odd / "derived_files" / name, inputs / name)
    model = str(write_ct_bundle(project / "bundle"))
    series = odd / "real_files" / "dicom_small_ct_series"
    assert predict_inputs([inputs, series], project / "out", model, "cpu") == 0
    stems = {"reference_image", "compressed", "dicom_small_ct_series"}
    assert {path.name for path in (project / "out").glob("*_labels.nii.gz")} == {
        f"{stem}_labels.nii.gz" for stem in stems
    }


@pytest.mark.slow
def test_a_dicom_segmentation_holds_the_predicted_voxels(
    project: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A series is answered with both forms of the same label map; a NIfTI file is an error of its own."""
    odd = shared_data / "loader_oddities"
    series = odd / "real_files" / "dicom_small_ct_series"
    other = odd / "derived_files" / "reference_image.nii.gz"
    model, output = str(write_ct_bundle(project / "bundle")), project / "out"
    assert predict_inputs([series, other], output, model, "cpu", dicom_seg=True) == 1
    assert "a DICOM segmentation refers to a DICOM series, this is none" in capsys.readouterr().err
    assert not list(output.glob("reference_image*"))
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(output / "dicom_small_ct_series_labels.nii.gz")))
    seg = highdicom.seg.segread(output / "dicom_small_ct_series_seg.dcm")
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == ["liver", "tumour"]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in series.iterdir()]
    headers.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    uids = [header.SOPInstanceUID for header in headers]
    frames = seg.get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True
    )  # (z, rows, columns, n)
    assert label.any()
    for number, value in enumerate((2, 5)):
        np.testing.assert_array_equal(frames[..., number] > 0, label == value)
    assert predict_inputs([series], output, model, "cpu") == 0
    assert not (output / "dicom_small_ct_series_seg.dcm").exists()  # it would be that of another prediction


def test_a_version_of_an_older_segtrail_predicts_as_it_was_scored_in_the_memory_of_today(
    project: Path,
) -> None:
    now = load_params().predict
    stored = {**now.model_dump(), "overlap": 0.125, "memory_gb": 99.0}
    del stored["link_iou"]  # a key that is newer than the version
    where = "phantom, version 3"
    assert settings_as_scored(stored, now, where) == now.model_copy(update={"overlap": 0.125})
    with pytest.raises(SegtrailError, match=r"colour[\s\S]*phantom, version 3"):
        settings_as_scored({**stored, "colour": "blue"}, now, where)


def test_cases_in_flight_together_are_answered_as_alone(
    project: Path, case_folder: CaseFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight volumes of different sizes, one of them cut off, through three stations; then one by one."""
    random = np.random.default_rng(0)
    names = [f"case_{number}" for number in range(8)]
    for number, name in enumerate(names):
        case_folder.write(name, random.normal(40, 100, (30 + 3 * number, 28, 20)).astype(np.int16))
    images = [case_folder.folder / "imagesTr" / f"{name}.nii.gz" for name in names]
    images[3].write_bytes(images[3].read_bytes()[:-500])
    model = write_ct_bundle(project / "bundle")
    assert predict_inputs(images, project / "together", str(model), "cpu") == 1
    assert capsys.readouterr().err.count("segtrail: error:") == 1
    for image, name in zip(images, names, strict=True):
        if name != "case_3":
            assert predict_inputs([image], project / "alone", str(model), "cpu") == 0
    assert not (project / "together" / "case_3.json").exists()
    for name in (n for n in names if n != "case_3"):
        for kind in ("labels", "instances"):
            first, second = (
                (project / f / f"{name}_{kind}.nii.gz").read_bytes() for f in ("together", "alone")
            )
            assert first == second
