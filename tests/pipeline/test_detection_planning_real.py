"""The plan of detection on the phantom and on real sets: do its anchors meet the objects?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config import load_params
from pipeline.detection_planning import plan_detection
from pipeline.fingerprint import Fingerprint, build_fingerprint
from pipeline.io.images import load_label_map, load_volume
from pipeline.phantom import make_case
from pipeline.plan import DetectionPlan
from pipeline.volume import LabelMap, Volume, to_canonical

PARAMS = load_params()
AUTOMATIC = PARAMS.plan.model_copy(update={"detection_zoom": "auto", "detection_window": "auto"})


def plan_of(prints: Sequence[Fingerprint]) -> DetectionPlan:
    x, y, z = np.median([p.spacing_mm for p in prints], axis=0)
    plan = plan_detection(prints, (x, y, z), AUTOMATIC, {})
    assert plan is not None
    return plan


def best_overlap(plan: DetectionPlan, edges: np.ndarray, seed: int) -> np.ndarray:
    """Largest IoU of boxes (n, 2) in network pixels, anywhere, with the anchors nearest to them."""
    centres = np.random.default_rng(seed).uniform(0, 64, edges.shape)
    best = np.zeros(len(edges))
    for level, sizes in enumerate(plan.anchor_sizes):
        nearest = np.round(centres / (4 << level)) * (4 << level)
        for size in sizes:
            for ratio in plan.anchor_ratios:
                anchor = np.array([size / ratio**0.5, size * ratio**0.5])
                low = np.maximum(centres - edges / 2, nearest - anchor / 2)
                high = np.minimum(centres + edges / 2, nearest + anchor / 2)
                common = np.clip(high - low, 0, None).prod(axis=1)
                best = np.maximum(best, common / (edges.prod(axis=1) + anchor.prod() - common))
    return best


def test_the_phantom() -> None:
    """Nodules of 2 to 15 voxels: enlarged, seen whole, and nearly all slices of them near an anchor."""
    cases = [make_case(PARAMS.phantom, index) for index in range(6)]
    labels = {"background": 0, "nodule": 1}
    prints = [
        build_fingerprint(c.case_id, c.volume, c.label_map, labels, f"{i:064d}", c.instances.array)
        for i, c in enumerate(cases)
    ]
    plan = plan_of(prints)
    assert plan.slices == 3
    assert 2 <= plan.zoom <= 4
    assert plan.window == (192, 192)
    edges = []
    for case, found in zip(cases, prints, strict=True):
        ids, _ = to_canonical(case.instances.array, case.volume.affine)
        pixels = np.array(found.spacing_mm) / np.median([p.spacing_mm for p in prints], axis=0) * plan.zoom
        for plane in np.moveaxis(ids, 2, 0):
            for value in np.unique(plane[plane > 0]):
                edges.append((np.ptp(np.argwhere(plane == value), axis=0) + 1) * pixels[:2])
    assert (best_overlap(plan, np.array(edges), 0) >= 0.5).mean() > 0.85


def test_real_hippocampi(shared_data: Path) -> None:
    """Two objects a case of 14 to 25 voxels in slices of about 35 x 50."""
    folder = shared_data / "Task04_Hippocampus"
    prints = []
    for path in sorted((folder / "labelsTr").glob("hippocampus_*.nii.gz"))[:20]:
        volume = load_volume([folder / "imagesTr" / path.name])
        labels = {"background": 0, "Anterior": 1, "Posterior": 2}
        prints.append(build_fingerprint(path.stem, volume, load_label_map(path), labels, "0" * 64))
    assert [p.objects_per_slice for p in prints] == [2] * 20
    plan = plan_of(prints)
    assert (plan.slices, plan.zoom, plan.window, plan.detections) == (3, 1.0, (64, 64), 50)


def test_real_nuclei(shared_data: Path) -> None:
    """Pictures of 256 x 256 to 1040 x 1388 in one set; sizes and counts counted from the mask files."""
    from PIL import Image

    folders = sorted((shared_data / "dsb2018" / "stage1_train").iterdir())[::16]
    prints, edges = [], []
    for folder in folders:
        with Image.open(next((folder / "images").iterdir())) as picture:
            ids = np.zeros((*picture.size, 1), np.uint16)
        masks = sorted((folder / "masks").iterdir())
        for number, path in enumerate(masks, 1):
            with Image.open(path) as mask:
                left, upper, right, lower = mask.getbbox()
                ids[np.asarray(mask).T[..., None] > 0] = number
            edges.append((right - left, lower - upper))
        label = LabelMap((ids > 0).astype(np.uint8), np.eye(4))
        volume = Volume(ids[None].astype(np.float32), np.eye(4))
        prints.append(build_fingerprint(folder.name, volume, label, {"nucleus": 1}, folder.name, ids))
        assert abs(prints[-1].objects_per_slice - len(masks)) <= 1  # a mask may lie below others
    plan = plan_of(prints)
    assert (plan.slices, plan.zoom) == (1, 1.5)
    assert plan.window == (192, 192)
    assert 50 <= plan.detections < 600
    assert (best_overlap(plan, np.array(edges) * plan.zoom, 0) >= 0.5).mean() > 0.9
