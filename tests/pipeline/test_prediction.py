"""A prediction lies on its own image's grid, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from nibabel.freesurfer.mghformat import MGHImage
from PIL import Image
from skimage import io as skimage_io
from small_bundle import PREDICT, write_ct_bundle, write_picture_bundle

from pipeline.bundle import load_bundle
from pipeline.errors import SegtrailError
from pipeline.prediction import Predictor


def build_predictor(bundle: Path) -> Predictor:
    return Predictor(load_bundle(bundle), PREDICT, torch.device("cpu"), {"name": "test", "version": "1"})


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return build_predictor(write_ct_bundle(tmp_path / "bundle"))


@pytest.fixture
def oblique(tmp_path: Path) -> Path:
    """An oblique, anisotropic, left-posterior-superior CT."""
    angle = np.deg2rad(12)
    turn_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    turn_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn_x @ turn_z @ np.diag([-0.9, -1.3, 5.0])
    affine[:3, 3] = [91.7, 60.3, -123.4]
    voxels = np.random.default_rng(0).normal(40, 100, (41, 37, 13)).astype(np.int16)
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    path = tmp_path / "oblique.nii.gz"
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", ["labels", "instances"])
def test_header_field_by_field(predictor: Predictor, oblique: Path, tmp_path: Path, kind: str) -> None:
    predictor.predict_files([oblique], tmp_path, "case")
    path = tmp_path / f"case_{kind}.nii.gz"
    source, written = nibabel.load(oblique), nibabel.load(path)
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_array_equal(written.get_sform(), source.get_sform())
    np.testing.assert_array_equal(written.get_qform(), source.get_qform())
    assert written.shape == source.shape
    for field in ("pixdim", "sform_code", "qform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"):
        np.testing.assert_array_equal(written.header[field], source.header[field], err_msg=field)
    assert nibabel.aff2axcodes(written.affine) == ("L", "P", "S")

    ours, theirs = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(oblique))
    assert ours.GetSize() == theirs.GetSize()
    assert ours.GetSpacing() == theirs.GetSpacing()
    assert ours.GetOrigin() == theirs.GetOrigin()
    assert ours.GetDirection() == theirs.GetDirection()


def with_rule(bundle: Path) -> Path:
    """The bundle with the rule that no component is large enough."""
    record = json.loads((bundle / "bundle.json").read_text())
    rule = {
        "kind": "minimum_volume", "index": 1, "label": "liver", "minimum_mm3": 1e9, "dice_before": 0.5,
        "dice_after": 0.6, "classes": {}, "cases": 9, "cases_changed": 9,
    }  # fmt: skip
    (bundle / "bundle.json").write_text(json.dumps({**record, "postprocessing": [rule]}))
    return bundle


def test_the_rules_of_a_bundle_are_applied_and_named(oblique: Path, tmp_path: Path) -> None:
    bundle = write_ct_bundle(tmp_path / "bundle")
    plain = build_predictor(bundle).predict_files([oblique], tmp_path, "case")
    assert plain["labels"]["liver"]["voxels"] > 0
    assert plain["postprocessing"] == []
    ruled = build_predictor(with_rule(bundle)).predict_files([oblique], tmp_path, "case")
    assert ruled["labels"]["liver"]["voxels"] == 0
    assert ruled["labels"]["tumour"] == plain["labels"]["tumour"]
    assert {item["label"] for item in ruled["instances"]} <= {"tumour"}
    assert ruled["postprocessing"] == [{"kind": "minimum_volume", "label": "liver", "minimum_mm3": 1e9}]
    off = PREDICT.model_copy(update={"postprocessing": "none"})
    predictor = Predictor(load_bundle(bundle), off, torch.device("cpu"), {"name": "test"})
    again = predictor.predict_files([oblique], tmp_path, "case")
    assert (again["labels"], again["postprocessing"]) == (plain["labels"], [])


def test_a_bundle_from_before_there_were_rules_still_loads(oblique: Path, tmp_path: Path) -> None:
    bundle = write_ct_bundle(tmp_path / "bundle")
    record = json.loads((bundle / "bundle.json").read_text())
    del record["postprocessing"]
    (bundle / "bundle.json").write_text(json.dumps(record))
    assert build_predictor(bundle).predict_files([oblique], tmp_path, "case")["postprocessing"] == []


def test_the_record_agrees_with_the_files(predictor: Predictor, oblique: Path, tmp_path: Path) -> None:
    record = predictor.predict_files([oblique], tmp_path, "case")
    assert json.loads((tmp_path / "case.json").read_text()) == record
    labels = np.asarray(nibabel.load(tmp_path / "case_labels.nii.gz").dataobj)
    assert set(np.unique(labels)) <= {0, 2, 5}
    for name, value in (("liver", 2), ("tumour", 5)):
        voxels = int((labels == value).sum())
        assert record["labels"][name]["voxels"] == voxels
        assert record["labels"][name]["volume_mm3"] == pytest.approx(voxels * 0.9 * 1.3 * 5.0, abs=0.01)
    scores = [item["score"] for item in record["instances"]]
    assert scores == sorted(scores, reverse=True)
    ids = np.asarray(nibabel.load(tmp_path / "case_instances.nii.gz").dataobj)
    assert sorted(set(np.unique(ids)) - {0}) == [item["id"] for item in record["instances"]]
    np.testing.assert_array_equal(ids > 0, labels > 0)
    assert record["model"]["version"] == "1"
    assert (tmp_path / "case_overlay.png").read_bytes().startswith(b"\x89PNG")


def test_stored_orientation_does_not_change_what_is_found(
    predictor: Predictor, oblique: Path, tmp_path: Path
) -> None:
    image = nibabel.load(oblique)
    canonical = tmp_path / "canonical.nii.gz"
    nibabel.save(nibabel.as_closest_canonical(image), canonical)
    predictor.predict_files([oblique], tmp_path, "a")
    predictor.predict_files([canonical], tmp_path, "b")
    first = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a_labels.nii.gz"))
    second = nibabel.load(tmp_path / "b_labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))


def test_a_file_that_is_no_image_leaves_nothing_behind(predictor: Predictor, tmp_path: Path) -> None:
    broken, output = tmp_path / "broken.nii.gz", tmp_path / "out"
    broken.write_bytes(b"not an image")
    output.mkdir()
    with pytest.raises(SegtrailError, match=r"broken\.nii\.gz"):
        predictor.predict_files([broken], output, "case")
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_is_answered_with_pictures_of_its_size(tmp_path: Path, suffix: str) -> None:
    """Whoever opens them finds each pixel's label at its own row and column."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 4), dtype=np.uint8)  # rows, columns, RGBA
    Image.fromarray(pixels).save(tmp_path / f"image.{suffix}")
    predictor = build_predictor(write_picture_bundle(tmp_path / "bundle"))
    record = predictor.predict_files([tmp_path / f"image.{suffix}"], tmp_path, "case")
    labels = skimage_io.imread(tmp_path / "case_labels.png")
    ids = skimage_io.imread(tmp_path / "case_instances.png")
    assert (labels.shape, labels.dtype) == ((40, 56), np.uint8)
    assert (ids.shape, ids.dtype) == ((40, 56), np.uint16)
    assert set(np.unique(labels)) <= {0, 1, 200}
    assert len(record["instances"]) > 1
    assert sorted(set(np.unique(ids)) - {0}) == [item["id"] for item in record["instances"]]
    for item in record["instances"]:
        rows, columns = np.nonzero(ids == item["id"])
        low, high = [columns.min(), rows.min(), 0], [columns.max() + 1, rows.max() + 1, 1]
        assert item["box_voxels"] == [low, high]
        assert item["voxels"] == item["area_mm2"] == len(rows)  # 1 mm stands for 1 pixel
        np.testing.assert_allclose(item["centroid_mm"], [columns.mean(), rows.mean(), 0], atol=1e-3)
    for name, value in (("nucleus", 1), ("debris", 200)):
        pixels_of_class = int((labels == value).sum())
        assert record["labels"][name] == {"voxels": pixels_of_class, "area_mm2": pixels_of_class}
    assert not list(tmp_path.glob("*.nii.gz"))


def test_real_nuclei_are_predicted(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "loader_oddities" / "derived_files" / "rgba.png"
    predictor = build_predictor(write_picture_bundle(tmp_path / "bundle"))
    record = predictor.predict_files([path], tmp_path, "rgba")
    assert skimage_io.imread(tmp_path / "rgba_labels.png").shape == (256, 256)
    assert record["input"] == [str(path)]


def test_labels_that_a_png_cannot_hold_are_told(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)).save(tmp_path / "a.png")
    predictor = build_predictor(write_picture_bundle(tmp_path / "bundle", values=(0, 256, 1000)))
    with pytest.raises(SegtrailError, match="a PNG of 8 bits holds 0 to 255"):
        predictor.predict_files([tmp_path / "a.png"], tmp_path, "case")
    assert not (tmp_path / "case.json").exists()


@pytest.mark.parametrize("name", ["derived_files/single_file.mha", "real_files/dicom_small_ct_series"])
def test_metaimage_and_dicom_are_answered_with_nifti_at_their_place(
    predictor: Predictor, shared_data: Path, tmp_path: Path, name: str
) -> None:
    source = shared_data / "loader_oddities" / name
    predictor.predict_files([source], tmp_path, "case")
    if source.is_dir():
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
        theirs = reader.Execute()
    else:
        theirs = SimpleITK.ReadImage(str(source))
    for kind in ("labels", "instances"):
        ours = SimpleITK.ReadImage(str(tmp_path / f"case_{kind}.nii.gz"))
        assert ours.GetSize() == theirs.GetSize()
        for index in ((0, 0, 0), (9, 8, 7)):
            np.testing.assert_allclose(
                ours.TransformIndexToPhysicalPoint(index),
                theirs.TransformIndexToPhysicalPoint(index),
                atol=1e-4,
            )


def test_the_format_of_an_image_does_not_change_what_is_found(
    predictor: Predictor, oblique: Path, tmp_path: Path
) -> None:
    source = nibabel.load(oblique)
    voxels = np.asarray(source.dataobj)
    SimpleITK.WriteImage(SimpleITK.ReadImage(oblique), tmp_path / "a.nrrd", useCompression=True)
    nibabel.save(MGHImage(voxels, source.affine), tmp_path / "a.mgz")
    nibabel.save(nibabel.Nifti1Pair(voxels, source.affine), tmp_path / "a.img")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scans/ct"] = np.stack([voxels.T] * 2)
        file["scans/ct"].attrs["affine"] = source.affine
    predictor.predict_files([oblique], tmp_path, "expected")
    expected = {kind: nibabel.load(tmp_path / f"expected_{kind}.nii.gz") for kind in ("labels", "instances")}
    assert np.asarray(expected["labels"].dataobj).any()
    for name in ("a.nrrd", "a.mgz", "a.hdr", "a.img", "a.h5#scans/ct[1]"):
        predictor.predict_files([Path(f"{tmp_path}/{name}")], tmp_path, "case")
        for kind, wanted in expected.items():
            found = nibabel.load(tmp_path / f"case_{kind}.nii.gz")
            np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-4)
            assert (np.asarray(found.dataobj) != np.asarray(wanted.dataobj)).mean() < 1e-3, name


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_a_grey_picture_is_taken_as_three_equal_colours(tmp_path: Path, suffix: str) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (40, 56), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / f"grey.{suffix}")
    stored = skimage_io.imread(tmp_path / f"grey.{suffix}")  # what the JPEG kept
    Image.fromarray(np.stack([stored] * 3, axis=-1)).save(tmp_path / "colours.png")
    predictor = build_predictor(write_picture_bundle(tmp_path / "bundle"))
    predictor.predict_files([tmp_path / f"grey.{suffix}"], tmp_path, "a")
    predictor.predict_files([tmp_path / "colours.png"], tmp_path, "b")
    for kind in ("labels", "instances"):
        first, second = (skimage_io.imread(tmp_path / f"{case}_{kind}.png") for case in "ab")
        np.testing.assert_array_equal(first, second)
    assert skimage_io.imread(tmp_path / "a_labels.png").any()


def test_one_channel_of_another_kind_is_not_repeated(
    tmp_path: Path, predictor: Predictor, oblique: Path
) -> None:
    """A volume has no colours, and two of three channels are no grey picture."""
    pictures = build_predictor(write_picture_bundle(tmp_path / "pictures"))
    with pytest.raises(SegtrailError, match=r"1 channel\(s\), the model wants 3: R, G, B"):
        pictures.predict_files([oblique], tmp_path, "case")
    Image.fromarray(np.arange(40 * 56, dtype=np.uint8).reshape(40, 56)).save(tmp_path / "grey.png")
    with pytest.raises(SegtrailError, match=r"2 channel\(s\), the model wants 3"):
        pictures.predict_files([tmp_path / "grey.png"] * 2, tmp_path, "case")
    with pytest.raises(SegtrailError, match="model wants 1: CT"):
        Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save(tmp_path / "colours.png")
        predictor.predict_files([tmp_path / "colours.png"], tmp_path, "case")


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 GB and 90 % of them; more than the 6 GB that are asked for changes nothing."""
    bundle = write_ct_bundle(tmp_path / "bundle")
    for there, allowed in ((2_000_000_000, 1_800_000_000), (64_000_000_000, 6_000_000_000)):
        monkeypatch.setattr("pipeline.prediction.limit_bytes", lambda there=there: there)
        assert build_predictor(bundle)._memory.limit_bytes == allowed


def test_a_network_that_a_device_cannot_hold_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full GPU, told by the error that PyTorch raises there."""
    bundle = write_ct_bundle(tmp_path / "bundle")

    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr("torch.nn.Module.to", full)
    with pytest.raises(SegtrailError, match=r"does not fit into the memory of cpu(.|\n)*--devices cpu"):
        build_predictor(bundle)
