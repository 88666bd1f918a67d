"""Voxels that nobody labelled: on the way in, in the store, in metrics, in the loss; by hand, and real scribbles."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from conftest import CaseFolder
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import make_fingerprints, make_params
from training_jobs import cube_plan, make_job, read_params

from pipeline.bundle import load_bundle
from pipeline.case_checks import check_labels
from pipeline.case_preprocessing import Target, preprocess_case
from pipeline.cases import CaseRecord
from pipeline.config import load_params
from pipeline.datasets import PatchSampling, PatchStream, Share, StepSchedule
from pipeline.detection_cases import ReferenceObjects, collect_objects
from pipeline.errors import SegtrailError
from pipeline.evaluation import CaseMetrics, evaluate_case
from pipeline.ignored_voxels import IGNORE_INDEX, crop_prediction, find_boundary, find_ignored, hide_ignored
from pipeline.inspection import inspect_case
from pipeline.io.dataset import DatasetFacts
from pipeline.io.sources import open_dataset
from pipeline.models.cascade_module import CascadeModule
from pipeline.planning import build_plan
from pipeline.preprocessing import foreground_voxels, prepare_instances, prepare_label_map
from pipeline.slices import require_detection
from pipeline.store import StoredCase, load_case, save_case
from pipeline.topology import pooling
from pipeline.train_worker import run_job
from pipeline.volume import LabelMap
from tests.detection_scenes import ELSEWHERE, FIRST, SECOND, prediction, reference

FACTS = DatasetFacts("sparse", ("MRI",), {"background": 0, "one": 1, "two": 2}, ignore=3)
LABELS = {"one": 1, "two": 2}


def line(*values: int) -> LabelMap:
    """Voxels in a row along X, 1 mm apart."""
    return LabelMap(np.array(values, np.uint8).reshape(-1, 1, 1), np.eye(4))


def test_the_facts_keep_the_value_apart_from_the_classes(tmp_path: Path) -> None:
    FACTS.save(tmp_path / "dataset.json")
    assert DatasetFacts.load(tmp_path / "dataset.json") == FACTS
    assert FACTS.foreground == LABELS


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ((0, 1, 3), []),
        ((0, 3, 3), ["empty_label"]),
        ((3, 3, 3), ["nothing_labelled"]),
        ((0, 1, 4), ["label_value_unknown"]),
    ],
)
def test_what_inspection_says_of_labels(values: tuple[int, ...], code: list[str]) -> None:
    findings = check_labels(line(*values), FACTS)
    assert [finding.code for finding in findings] == code
    assert all(finding.fatal == (finding.code != "empty_label") for finding in findings)


def test_statistics_leave_them_out_and_their_share_is_known(case_folder: CaseFolder) -> None:
    image = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    label = np.full((5, 4, 3), 3, np.uint8)
    label[:, :, 0] = 0
    label[1, 1, 0], label[2, 2, 0] = 1, 2
    case_folder.write_dataset()
    path = case_folder.write("a", image, label)
    record = CaseRecord(
        "a", "a", "", (path.as_posix(),), (path.parents[1] / "labelsTr/a.nii.gz").as_posix(), ""
    )
    found = inspect_case(record, FACTS, load_params().inspect)
    assert found.record.verdict == "ok" and found.fingerprint is not None
    assert found.fingerprint.ignored_fraction == pytest.approx(2 / 3, abs=1e-6)
    assert {name: one.voxels for name, one in found.fingerprint.classes.items()} == {"one": 1, "two": 1}
    # Mean of the two foreground voxels: (1 * 12 + 1 * 3) = 15 and (2 * 12 + 2 * 3) = 30.
    assert found.fingerprint.intensity[0].mean == 22.5
    assert [row.label for row in found.objects] == ["one", "two"]


def test_the_plan_takes_the_value_and_refuses_detection() -> None:
    fingerprints = [
        f.model_copy(update={"ignored_fraction": 0.95}) for f in make_fingerprints((40, 40, 40), (1, 1, 1))
    ]
    plan = build_plan(fingerprints, FACTS, make_params())
    assert (plan.ignore_value, plan.label_values, plan.outputs) == (3, (0, 1, 2), 3)
    assert "95%" in plan.reasons["ignore_value"]
    assert plan.configured("unet", "full").ignore_value == 3
    with pytest.raises(SegtrailError, match="ignore value 3"):
        require_detection(plan)


def test_resampling_keeps_what_is_labelled_by_half() -> None:
    plan = cube_plan().model_copy(
        update={"label_values": (0, 2), "ignore_value": 7, "spacing_mm": (2.0, 1.0, 1.0)}
    )
    # Pairs of voxels become one: half labelled and half not is labelled; of 9, nobody knows, it is background.
    halves = prepare_label_map(line(2, 7, 7, 0, 7, 7, 9, 9), plan)
    assert halves.ravel().tolist() == [1, 0, IGNORE_INDEX, 0]
    same = prepare_label_map(line(2, 7, 0), plan.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)}))
    assert same.ravel().tolist() == [1, IGNORE_INDEX, 0]


def test_objects_have_no_voxel_there() -> None:
    plan = cube_plan().model_copy(update={"ignore_value": 7})
    ids, labels = prepare_instances(line(1, 1, 7, 7, 1), None, plan, "a")
    assert ids.ravel().tolist() == [1, 1, 0, 0, 2] and labels.tolist() == [0, 1, 1]
    given = np.array([1, 1, 1, 2, 3], np.uint16).reshape(-1, 1, 1)
    ids, _ = prepare_instances(line(1, 1, 7, 7, 1), given, plan, "a")
    assert ids.ravel().tolist() == [1, 1, 0, 0, 2]


def test_every_patch_of_a_sparse_case_has_a_labelled_centre(tmp_path: Path) -> None:
    label = np.full((40, 40, 40), IGNORE_INDEX, np.uint8)
    label[:, :, 20] = 0
    label[5, 5, 20] = 1
    centres = foreground_voxels(label, 2, 50, seed=1)
    assert sorted(np.unique(centres[:, 0])) == [0, 1] and len(centres) == 51
    assert (label[tuple(centres[:, 1:].T)] == centres[:, 0]).all()
    assert len(foreground_voxels(np.where(label == 1, label, 0), 2, 50, seed=1)) == 1
    objects = np.zeros(label.shape, np.uint16), np.zeros(1, np.uint8)
    save_case(tmp_path, "a", StoredCase(np.zeros((1, *label.shape), np.float16), label, centres, *objects))
    for fraction in (0.0, 1.0):
        sampling = PatchSampling((8, 8, 8), 8, fraction, (0.0,), seed=1)
        stream = PatchStream(tmp_path, ["a"], sampling, StepSchedule(10, lambda: 0, Share()))
        batch = stream.batch(0)["label"].numpy()
        assert (batch != IGNORE_INDEX).any(axis=(1, 2, 3)).all()
        assert ((batch == 1).any(axis=(1, 2, 3))).all() == (fraction == 1.0)


def test_moved_patches_keep_the_index_in_a_cascade_too() -> None:
    plan = cube_plan().model_copy(update={"ignore_value": 9})
    always = {"flip": 1.0, "rotation": 1.0, "scale": 1.0}
    params = read_params("unet")
    augmentation = params.augmentation.model_copy(update=always)
    module = CascadeModule(plan, params.model_copy(update={"augmentation": augmentation}), None)  # type: ignore[arg-type]
    label = torch.tensor([0, 1, IGNORE_INDEX], dtype=torch.uint8)[
        torch.randint(0, 3, (4, 16, 16, 16), generator=torch.Generator().manual_seed(1))
    ]
    batch = {
        "image": torch.zeros(4, 1, 16, 16, 16),
        "label": label,
        "previous": (label == 1).byte(),
        "step": torch.tensor(3),
    }
    moved = module.on_after_batch_transfer(batch, 0)
    assert moved["label"].dtype == torch.uint8 and not torch.equal(moved["label"], label)
    assert moved["label"].unique().tolist() == [0, 1, IGNORE_INDEX]
    assert torch.equal(moved["previous"] == 1, moved["label"] == 1)


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


def test_real_scribbles_go_from_their_file_to_the_store(shared_data: Path, project: Path) -> None:
    source = shared_data / "acdc_h5/ACDC_training_volumes/patient050_frame01.h5"
    folder = Path("data/raw/scribbles")
    folder.mkdir(parents=True)
    (folder / source.name).symlink_to(source)
    labels = {"background": 0, "right": 1, "myocardium": 2, "left": 3, "ignore": 4}
    facts = {"name": "scribbles", "modality": {"0": "MRI"}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(facts))
    (folder / "cases.csv").write_text(
        f"case_id,patient_id,image,label\na,a,{source.name}#image,{source.name}#scribble\n"
    )
    dataset = open_dataset(folder, "table")
    found = inspect_case(dataset.records[0], dataset.facts, load_params().inspect)
    with h5py.File(source) as file:
        scribble = np.asarray(file["scribble"])
    assert found.record.usable and found.fingerprint is not None
    assert found.fingerprint.ignored_fraction == pytest.approx((scribble == 4).mean(), abs=1e-6)
    counts = [found.fingerprint.classes[name].voxels for name in ("right", "myocardium", "left")]
    assert counts == [int((scribble == value).sum()) for value in (1, 2, 3)]
    plan = build_plan([found.fingerprint], dataset.facts, make_params())
    same = plan.model_copy(update={"spacing_mm": found.record.spacing_mm})
    preprocess_case(found.record, [Target(same, folder)], "float16")
    stored = load_case(folder, "a")
    assert np.bincount(stored.label.ravel(), minlength=256)[[0, 1, 2, 3, 255]].tolist() == [
        int((scribble == value).sum()) for value in (0, 1, 2, 3, 4)
    ]
    assert set(np.unique(stored.foreground[:, 0])) == {0, 1, 2, 3}


def write_sparse_hippocampi(source: Path, folder: Path, count: int, share: float) -> list[CaseRecord]:
    """Real cases of which only some coronal slices are labelled, spread over the hippocampus."""
    records = []
    for index, path in enumerate(sorted((source / "labelsTr").glob("hippocampus_*.nii.gz"))[:count]):
        stored = nibabel.load(path)
        label = np.asarray(stored.dataobj).astype(np.uint8)
        filled = np.flatnonzero((label > 0).any(axis=(0, 2)))
        number = max(1, round(share * label.shape[1]))
        chosen = filled[np.linspace(0, len(filled) - 1, number + 2).astype(int)[1:-1] - index % 3]
        sparse = np.full_like(label, 3)
        sparse[:, chosen] = label[:, chosen]
        name = path.name.removesuffix(".nii.gz")
        nibabel.save(nibabel.Nifti1Image(sparse, stored.affine), folder / path.name)
        image = (source / "imagesTr" / path.name).as_posix()
        records.append(
            CaseRecord(name, name, "", (image,), (folder / path.name).as_posix(), "", f"{index:064x}")
        )
    return records


@pytest.mark.long
def test_a_twentieth_of_the_slices_teaches_a_unet(tmp_path: Path, shared_data: Path) -> None:
    source, labels = shared_data / "Task04_Hippocampus", tmp_path / "labels"
    labels.mkdir()
    records = write_sparse_hippocampi(source, labels, 28, share=0.05)
    whole = [
        replace(record, label=(source / "labelsTr" / f"{record.case_id}.nii.gz").as_posix())
        for record in records[-4:]
    ]
    patch = (32, 40, 32)
    strides, kernels = pooling(patch, (1.0, 1.0, 1.0))
    plan = cube_plan().model_copy(
        update={
            "label_names": ("background", "anterior", "posterior"), "label_values": (0, 1, 2), "ignore_value": 3,
            "patch_size": patch, "strides": strides, "kernels": kernels,
            "features": tuple(8 * 2**i for i in range(len(strides))),
        }
    )  # fmt: skip
    store = tmp_path / "unet"
    store.mkdir()
    for record in [*records[:-4], *whole]:
        preprocess_case(record, [Target(plan, store)], "float16")
    known = [
        float((load_case(store, record.case_id).label != IGNORE_INDEX).mean()) for record in records[:-4]
    ]
    assert 0.03 < np.mean(known) < 0.07
    plan.save(tmp_path / "unet.json")
    job = make_job(
        tmp_path, "sparse", max_epochs=8, steps_per_epoch=25, validate_every_epochs=4, learning_rate=0.01,
        class_weights="balanced",
    )  # fmt: skip
    cases = {
        "training_cases": tuple(record.case_id for record in records[:-4]),
        "validation_cases": tuple(record.case_id for record in whole),
    }
    run_job(job.model_copy(update=cases))
    scores = load_bundle(job.output).metadata.validation_scores
    assert scores["anterior/dice"] > 0.6 and scores["posterior/dice"] > 0.6
    assert load_bundle(job.output).metadata.postprocessing == ()
