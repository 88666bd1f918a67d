"""Voxels that nobody labelled count in no metric: by hand, by chance, and with a real scribble."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detection_cases import ReferenceObjects, collect_objects
from pipeline.evaluation import CaseMetrics, evaluate_case
from pipeline.ignored_voxels import crop_prediction, find_boundary, find_ignored, hide_ignored
from pipeline.volume import LabelMap
from tests.detection_scenes import ELSEWHERE, FIRST, SECOND, prediction, reference

LABELS = {"one": 1, "two": 2}


def numbers(rows: list[CaseMetrics]) -> list[tuple[object, ...]]:
    return [tuple(getattr(row, field.name) for field in fields(CaseMetrics)) for row in rows]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_metrics_are_those_of_the_labelled_box_cut_out(data: st.DataObject, seed: int) -> None:
    generator, spacing = np.random.default_rng(seed), np.diag([0.7, 1.0, 2.5, 1.0])
    shape = (9, 8, 7)
    cuts = []
    for size in shape:  # of one voxel too: a single labelled slice is measured by its contours
        start = data.draw(st.integers(0, size - 1))
        cuts.append(slice(start, data.draw(st.integers(start + 1, size))))
    box = tuple(cuts)
    smooth = [
        generator.integers(0, 3, (3, 3, 3)).repeat(3, 0).repeat(3, 1).repeat(3, 2)[:9, :8, :7] for _ in "ab"
    ]
    truth, predicted = (array.astype(np.uint8) for array in smooth)
    sparse = np.full(shape, 3, np.uint8)
    sparse[box] = truth[box]
    of_all = evaluate_case(
        LabelMap(sparse, spacing),
        LabelMap(predicted, spacing),
        LABELS,
        1.0,
        "a",
        "a",
        {"any": (1, 2)},
        ignore=3,
    )
    of_box = evaluate_case(
        LabelMap(truth[box], spacing),
        LabelMap(predicted[box], spacing),
        LABELS,
        1.0,
        "a",
        "a",
        {"any": (1, 2)},
    )
    np.testing.assert_equal(numbers(of_all), numbers(of_box))


def test_the_surface_of_a_single_slice_is_its_contour() -> None:
    mask, known = np.zeros((7, 7, 5), bool), np.zeros((7, 7, 5), bool)
    known[:, :, 2] = True
    mask[1:6, 1:6, 2] = True
    assert find_boundary(mask, known).sum() == 16  # of 5 x 5 the 3 x 3 within is no surface
    assert find_boundary(mask, np.ones_like(known)).sum() == 25  # labelled above and below, it is flat


def test_objects_found_there_are_neither_right_nor_wrong() -> None:
    shape = (40, 40, 9)
    first, second, elsewhere = ((*place, 4) for place in (FIRST, SECOND, ELSEWHERE))
    label_map, ids = reference(shape, {first: 1, second: 1})
    label_map.array[:, 20:] = 3
    label_map.array[28:] = 3
    found = prediction(shape, [(1, 0.9, first), (1, 0.8, elsewhere)])
    ignored = find_ignored(label_map, 3)
    hidden = hide_ignored({"label": label_map, "ids": LabelMap(ids, np.eye(4))}, ignored)
    truth = ReferenceObjects(hidden["label"], hidden["ids"].array, [])
    cropped = crop_prediction(found, ignored)
    assert [item.id for item in cropped.instances.items] == [1]
    (one,) = collect_objects(truth, cropped, {"nodule": 1}, "a", "a", flat=False)
    # Of the second, two planes are left (x = 26, 27): an object that is missed.
    assert (one.panoptic.tp, one.panoptic.fp, one.panoptic.fn) == (1, 0, 1)
    halved = crop_prediction(prediction(shape, [(1, 0.9, second)]), ignored).instances.items[0]
    assert halved.box_voxels[0][0] == 26 and halved.box_voxels[1][0] == 28
    assert 26 < halved.centroid_mm[0] < 27


def test_a_real_scribble_against_the_whole_label(shared_data: Path) -> None:
    source = shared_data / "acdc_h5/ACDC_training_volumes/patient038_frame01.h5"
    if not source.exists():
        source = sorted(source.parent.glob("*.h5"))[0]
    with h5py.File(source) as file:
        whole, scribble = (np.asarray(file[name]).T.astype(np.uint8) for name in ("label", "scribble"))
    labels = {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    rows = evaluate_case(
        LabelMap(scribble, np.eye(4)), LabelMap(whole, np.eye(4)), labels, 2.0, "a", "a", ignore=4
    )
    # The scribbles run inside what they name: against them the whole label is right, though it is many times larger.
    assert all(row.dice > 0.9 for row in rows)
    assert all(row.prediction_voxels < 1.2 * row.reference_voxels for row in rows)
    assert (whole > 0).sum() > 5 * ((scribble > 0) & (scribble < 4)).sum()
    unmasked = evaluate_case(LabelMap(scribble, np.eye(4)), LabelMap(whole, np.eye(4)), labels, 2.0, "a", "a")
    assert all(row.dice < 0.6 for row in unmasked)
