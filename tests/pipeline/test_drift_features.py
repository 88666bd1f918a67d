"""The table of features: what a fingerprint and a prediction give, there and back through CSV, the picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.drift import compare_features
from pipeline.drift_features import (
    fingerprint_features,
    load_features,
    predicted_features,
    save_features,
    to_columns,
)
from pipeline.drift_pictures import DRIFTED, draw_drift
from pipeline.errors import SegtrailError
from pipeline.fingerprint import build_fingerprint
from pipeline.nightly_params import DriftParams
from pipeline.prediction_record import measure_uncertainty
from pipeline.volume import Instance, LabelMap, Volume

LABELS = {"background": 0, "organ": 1, "tumour": 2}
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def fingerprint_of(label: int | None, channels: int = 1, affine: np.ndarray = AFFINE):
    """4 x 4 x 4 voxels of 10, in one octant (8 voxels) 20 and 40 in halves; this octant is labelled."""
    image = np.full((channels, 4, 4, 4), 10.0, np.float32)
    image[:, :2, :2, 0], image[:, :2, :2, 1] = 20.0, 40.0
    map_ = None
    if label is not None:
        array = np.zeros((4, 4, 4), np.uint8)
        array[:2, :2, :2] = label
        map_ = LabelMap(array, affine)
    return build_fingerprint("case", Volume(image, affine), map_, LABELS, "0" * 64)


def test_features_of_a_labelled_case_by_hand() -> None:
    assert fingerprint_features(fingerprint_of(1), ["CT"]) == {
        "spacing_x_mm": 1.0, "spacing_y_mm": 2.0, "spacing_z_mm": 3.0,
        "intensity_mean": 30.0, "intensity_deviation": 10.0,
        "volume_organ_mm3": 48.0, "volume_tumour_mm3": 0.0,  # 8 voxels of 6 mm3
    }  # fmt: skip


@pytest.mark.parametrize("label", [0, None])
def test_intensities_of_a_case_without_labelled_voxels_are_another_feature(label: int | None) -> None:
    found = fingerprint_features(fingerprint_of(label), ["CT"])
    assert "intensity_mean" not in found
    assert found["intensity_mean_whole"] == pytest.approx((56 * 10 + 4 * 20 + 4 * 40) / 64)


def test_several_channels_are_named() -> None:
    found = fingerprint_features(fingerprint_of(1, channels=2), ["T1", "FLAIR"])
    assert {"intensity_mean_T1", "intensity_deviation_T1", "intensity_mean_FLAIR"} <= found.keys()


def test_uncertainty_by_hand() -> None:
    # 30 voxels of probability 0.9 and 10 of 0.5: 1 - (27 + 5) / 40.
    box = ((0, 0, 0), (1, 1, 1))
    one = Instance(id=1, label=1, score=0.9, voxels=30, centroid_mm=(0.0, 0.0, 0.0), box_voxels=box)
    assert measure_uncertainty([one, replace(one, id=2, score=0.5, voxels=10)]) == 0.2
    assert measure_uncertainty([]) is None


def test_features_of_a_prediction() -> None:
    record = {"labels": {"organ": {"voxels": 3, "volume_mm3": 18.0}}, "instances": [], "uncertainty": 0.1}
    assert predicted_features(record) == {"predicted_organ_mm3": 18.0, "uncertainty": 0.1}
    flat = {"labels": {"organ": {"voxels": 3, "area_mm2": 12.0}}, "uncertainty": None}
    assert predicted_features(flat) == {"predicted_organ_mm2": 12.0, "uncertainty": None}


def test_the_table_comes_back_with_equal_spacings_equal(tmp_path: Path) -> None:
    path = tmp_path / "features.csv"
    rows = {
        "b": {"spacing_x_mm": 0.30000001192, "volume_a_mm3": None},
        "a": {"spacing_x_mm": 0.3, "new": 7.0},
    }
    save_features(rows, path)
    assert path.read_text() == "case_id,spacing_x_mm,new,volume_a_mm3\na,0.3,7,\nb,0.3,,\n"
    found = load_features(path)
    assert to_columns(found) == {"spacing_x_mm": [0.3, 0.3], "new": [7.0, None], "volume_a_mm3": [None, None]}


@pytest.mark.parametrize("text", ["case_id,x\na,blue\n", "name,x\na,1\n", "case_id,x\na,1,2,3\n"])
def test_a_damaged_table_is_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "features.csv"
    path.write_text(text)
    with pytest.raises(SegtrailError, match="no table of features"):
        load_features(path)
    with pytest.raises(SegtrailError, match="missing"):
        load_features(tmp_path / "none.csv")


def test_the_picture_marks_what_drifted(tmp_path: Path) -> None:
    reference = {
        "spacing_x_mm": [1.0] * 40,
        "intensity_mean": [float(i) for i in range(40)],
        "empty": [None] * 40,
    }
    same = {"spacing_x_mm": [1.0] * 6, "intensity_mean": [3.0, 9.0, 17.0, 22.0, 30.0, 38.0]}
    other = {**same, "spacing_x_mm": [1.3] * 6}
    limits = DriftParams(psi=0.25, ks_p=0.01, min_cases=5)
    marked = {}
    for name, new in (("same", same), ("other", other)):
        path = tmp_path / f"{name}.png"
        draw_drift(compare_features(reference, new, limits), reference, new, path)
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert pixels.shape[1] == 1200  # legible at the width of a report
        red, green, blue = (int(DRIFTED[i : i + 2], 16) for i in (1, 3, 5))
        marked[name] = int((pixels == (red, green, blue)).all(axis=2).sum())
    assert marked["same"] == 0 and marked["other"] > 500
