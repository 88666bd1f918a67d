"""Voxels that nobody labelled in training: in patches, in augmentation, in the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from training_jobs import cube_plan, make_job, read_params

from pipeline.bundle import load_bundle
from pipeline.case_preprocessing import Target, preprocess_case
from pipeline.cases import CaseRecord
from pipeline.datasets import PatchSampling, PatchStream, Share, StepSchedule
from pipeline.ignored_voxels import IGNORE_INDEX
from pipeline.models.cascade_module import CascadeModule
from pipeline.preprocessing import foreground_voxels
from pipeline.store import StoredCase, load_case, save_case
from pipeline.topology import pooling
from pipeline.train_worker import run_job


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
