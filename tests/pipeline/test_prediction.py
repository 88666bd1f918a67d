"""A prediction lies on its own image's grid, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from pipeline.bundle import load_bundle, save_bundle
from pipeline.config import PredictParams
from pipeline.errors import SegtrailError
from pipeline.models.networks import build_network
from pipeline.plan import ChannelNormalization, Plan
from pipeline.prediction import Predictor
from pipeline.topology import pooling


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    """An untrained network: where a prediction lies does not depend on what it says."""
    patch = (16, 16, 16)
    strides, kernels = pooling(patch, (2.0, 2.0, 2.0))
    arguments = {
        "channels": 1, "classes": 3, "features": [4, 8, 16], "strides": strides, "kernels": kernels,
        "dimensions": 3,
    }  # fmt: skip
    plan = Plan(
        dataset="x", channels=("CT",), label_names=("background", "liver", "tumour"), label_values=(0, 2, 5),
        dimensions=3, spacing_mm=(2, 2, 2), patch_size=patch, batch_size=2, strides=strides, kernels=kernels,
        features=(4, 8, 16), reasons={}, n_cases=1,
        normalization=(ChannelNormalization(scheme="ct", low=-100, high=300, mean=50, std=80),),
    )  # fmt: skip
    torch.manual_seed(3)
    folder = tmp_path / "bundle"
    folder.mkdir()
    save_bundle(
        folder, build_network("unet", **arguments).state_dict(), model="unet", network="unet",
        network_arguments=arguments, plan=plan, params={}, provenance={}, validation_dice=None,
    )  # fmt: skip
    params = PredictParams(overlap=0.5, mirror="none", min_component_mm3=0.0)
    return Predictor(load_bundle(folder), params, torch.device("cpu"), {"name": "test", "version": "1"})


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
