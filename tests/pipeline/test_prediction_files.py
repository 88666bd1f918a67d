"""Predictions read back from their files, and what is wrong with damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SegtrailError
from pipeline.prediction_files import find_predictions, in_label_map, load_prediction, load_record
from pipeline.volume import Instance, Instances, LabelMap, Prediction

LABELS = {"nodule": 1, "vessel": 2}
NODULE: dict[str, Any] = {
    "id": 1, "label": "nodule", "score": 0.9, "voxels": 4, "centroid_mm": [1.5, 1.5, 0.0],
    "box_voxels": [[1, 1, 0], [3, 3, 1]], "area_mm2": 4.0,
}  # fmt: skip
VESSEL = NODULE | {"id": 2, "label": "vessel", "score": 0.2, "box_voxels": [[5, 1, 0], [7, 3, 1]]}


def write(folder: Path, suffix: str, instances: list[dict[str, Any]], ids: int = 2) -> None:
    labels, numbers = np.zeros((8, 6, 1), np.uint16), np.zeros((8, 6, 1), np.uint16)
    for number, x in ((1, 1), (2, 5))[:ids]:
        numbers[x : x + 2, 1:3] = number
    labels[1:3, 1:3] = 1
    for part, array in (("labels", labels), ("instances", numbers)):
        path = folder / f"a_{part}{suffix}"
        if suffix == ".png":
            Image.fromarray(array[..., 0].T).save(path)
        else:
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    record = {"settings": {"min_score": 0.05}, "instances": instances}
    (folder / "a.json").write_text(json.dumps(record))


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_reads_pictures_and_volumes(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix, [NODULE, VESSEL])
    files = find_predictions(tmp_path, {"a": suffix}, "")["a"]
    prediction = load_prediction(files, LABELS)
    assert prediction.label_map.array[:, 1, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert prediction.instances.array[:, 1, 0].tolist() == [0, 1, 1, 0, 0, 2, 2, 0]
    first, second = prediction.instances.items
    assert first == Instance(1, 1, 0.9, 4, (1.5, 1.5, 0.0), ((1, 1, 0), (3, 3, 1)))
    assert (second.id, second.label, second.score) == (2, 2, 0.2)
    assert in_label_map(prediction).tolist() == [True, False]
    assert load_record(files)["settings"] == {"min_score": 0.05}


def test_an_object_stands_in_the_label_map_when_half_of_it_has_its_class_there() -> None:
    ids = np.array([1, 1, 1, 1, 2, 2, 2, 3, 0]).reshape(9, 1, 1)
    labels = np.array([1, 1, 0, 0, 1, 2, 0, 2, 1]).reshape(9, 1, 1)
    items = tuple(Instance(i, c, 0.5, 1, (0, 0, 0), ((0,), (1,))) for i, c in ((1, 1), (2, 1), (3, 1)))
    prediction = Prediction(LabelMap(labels, np.eye(4)), Instances(ids, np.eye(4), items))
    assert in_label_map(prediction).tolist() == [True, False, False]


def test_missing_parts_are_all_named(tmp_path: Path) -> None:
    write(tmp_path, ".png", [NODULE, VESSEL])
    with pytest.raises(SegtrailError, match=r"2 of 2 test cases[\s\S]*: a, b") as error:
        find_predictions(tmp_path, {"a": ".nii.gz", "b": ".png"}, "dvc repro")
    assert (error.value.where, error.value.fix) == (str(tmp_path), "dvc repro")
    (tmp_path / "a_instances.png").unlink()
    with pytest.raises(SegtrailError, match="1 of 1"):
        find_predictions(tmp_path, {"a": ".png"}, "")


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ([NODULE], r"differ in the objects \[2\]"),
        ([NODULE, VESSEL, VESSEL | {"id": 7}], r"differ in the objects \[7\]"),
        ([NODULE, VESSEL | {"label": "bone"}], r"names the classes \['bone'\], expected some of"),
        ([NODULE, {"id": 2, "label": "vessel"}], "cannot be read: KeyError"),
        ([NODULE, VESSEL | {"score": "high"}], "cannot be read: ValueError"),
    ],
)
def test_files_that_do_not_agree(tmp_path: Path, instances: list[dict[str, Any]], message: str) -> None:
    write(tmp_path, ".png", instances)
    with pytest.raises(SegtrailError, match=message) as error:
        load_prediction(find_predictions(tmp_path, {"a": ".png"}, "")["a"], LABELS)
    assert "case a" in error.value.where and error.value.fix == "dvc repro --force predict"


def test_maps_of_two_sizes_and_no_json(tmp_path: Path) -> None:
    write(tmp_path, ".png", [NODULE, VESSEL])
    files = find_predictions(tmp_path, {"a": ".png"}, "")["a"]
    Image.fromarray(np.zeros((3, 3), np.uint16)).save(files.instances)
    with pytest.raises(SegtrailError, match=r"shape \(8, 6, 1\), the instances \(3, 3, 1\)"):
        load_prediction(files, LABELS)
    files.record.write_text("{")
    for read in (load_record, lambda f: load_prediction(f, LABELS)):
        with pytest.raises(SegtrailError):
            read(files)


def test_a_prediction_without_objects(tmp_path: Path) -> None:
    write(tmp_path, ".png", [], ids=0)
    prediction = load_prediction(find_predictions(tmp_path, {"a": ".png"}, "")["a"], LABELS)
    assert prediction.instances.items == () and in_label_map(prediction).shape == (0,)
