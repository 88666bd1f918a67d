"""Instance maps against label maps, counted by hand. What is wrong with files: test_inspection.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.case_checks import check_images, check_instances, check_value_range
from pipeline.io.dataset import DatasetFacts
from pipeline.io.stored import StoredImage

LABEL = np.array([0, 0, 1, 1, 1, 2, 2, 0], np.uint8).reshape(8, 1, 1)


def check(ids: list[int], label: NDArray[np.uint8] = LABEL) -> list[tuple[str, str]]:
    findings = check_instances(np.array(ids).reshape(label.shape), label)
    assert not any(f.fatal for f in findings)
    return [(f.code, f.reason) for f in findings]


def test_instances_that_fit() -> None:
    assert check([0, 0, 1, 1, 2, 7, 7, 0]) == []
    assert check([0] * 8) == []
    assert check([0] * 8, np.zeros_like(LABEL)) == []


def test_an_object_without_class_and_voxels_outside_the_label() -> None:
    """Id 4 lies on two voxels of background, id 1 has one of its three there."""
    assert check([4, 4, 1, 1, 2, 3, 3, 1]) == [
        ("instance_without_class", "instances: 1 of 4 objects lie on background alone: id 4"),
        ("instance_outside_label", "instances: 3 of 8 voxels of objects are background in the label"),
    ]


def test_an_object_of_two_classes() -> None:
    assert check([0, 0, 1, 1, 2, 2, 2, 0]) == [
        (
            "instance_of_two_classes",
            "instances: 1 of 2 objects have several classes: id 2; the most frequent counts",
        )
    ]


def test_only_some_ids_are_listed() -> None:
    label = np.zeros((9, 1, 1), np.uint8)
    assert check(list(range(1, 10)), label)[0][1] == (
        "instances: 9 of 9 objects lie on background alone: id 1, 2, 3, 4, 5 ..."
    )


@pytest.mark.parametrize(("low", "high"), [(0, 65536), (-1, 3)])
def test_ids_that_cannot_be_stored(low: int, high: int) -> None:
    ids = np.array([low, high, 0, 0, 0, 0, 0, 0], np.int32).reshape(LABEL.shape)
    (finding,) = check_instances(ids, LABEL)
    assert finding.fatal and finding.code == "instance_ids"
    assert f"from {low} to {high}, limit 0 to 65535" in finding.reason
    ids[ids != 0] = 65535
    assert all(f.code != "instance_ids" for f in check_instances(ids, LABEL))


def test_more_objects_than_can_be_numbered() -> None:
    ids = np.arange(300 * 300, dtype=np.uint32).reshape(300, 300, 1)
    assert [f.code for f in check_instances(ids, np.ones(ids.shape, np.uint8))] == ["instance_ids"]


def test_a_constant_channel_is_wrong_unless_it_is_a_colour() -> None:
    array = np.zeros((3, 2, 2, 1), np.uint8)
    array[1, 0] = 5
    image = {"image": StoredImage(array, np.eye(4))}
    assert [f.reason.split(":")[0] for f in check_images(image, colours=False)] == [
        *("image, channel 0", "image, channel 2")
    ]
    assert check_images(image, colours=True) == []
    array[1] = 0
    assert len(check_images(image, colours=True)) == 3


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-1024, 3071, ""),
        (-3024, 1500, ""),  # padding of a scanner
        (-1000, 30000, ""),  # metal in extended HU
        (0, 255, "windowed to 8 bits"),
        (0, 4095, "offset of 1024"),
        (0, 1, "span too small"),
        (-32768, 3071, "beyond what HU can be"),
        (-1024, 65535, "beyond what HU can be"),
    ],
)
def test_ct_that_is_not_in_hu(low: int, high: int, said: str) -> None:
    array = np.array([low, high, (low + high) // 2, low], np.float32).reshape(1, 4, 1, 1)
    images = {"image": StoredImage(array, np.eye(4))}
    found = check_value_range(images, DatasetFacts("a", ("CT",), {"background": 0}))
    assert [f.verdict for f in found] == ["warn"] * bool(said)
    assert all(said in f.reason and f.measured == f"{low} to {high}" for f in found)
    assert check_value_range(images, DatasetFacts("a", ("MRI",), {"background": 0})) == []


def test_each_channel_has_the_range_of_its_modality() -> None:
    """PET first, CT second, in one file."""
    array = np.stack([np.full((2, 2, 2), 5.0), np.full((2, 2, 2), 40.0)]).astype(np.float32)
    array[:, 0, 0, 0] = 0
    images = {"image": StoredImage(array, np.eye(4))}
    (finding,) = check_value_range(images, DatasetFacts("a", ("PET", "CT"), {"background": 0}))
    assert finding.measured == "0 to 40"
