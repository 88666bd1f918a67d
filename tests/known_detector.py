"""A detector whose answer is known: it finds what is bright."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.config import PredictParams
from pipeline.slices import WindowDetections

MASK = 28  # cells of a mask along each axis


def settings(**changes: float) -> PredictParams:
    values: dict[str, Any] = {
        "overlap": 0.5, "mirror": "none", "memory_gb": 6.0, "min_component_mm3": 0.0, "postprocessing": "learned",
        "min_score": 0.05, "label_score": 0.5, "duplicate_iou": 0.5, "link_iou": 0.3,
    }  # fmt: skip
    return PredictParams(**(values | changes))


def as_detections(rows: list[tuple[tuple[float, ...], float, int, torch.Tensor]]) -> WindowDetections:
    """Detections of a window from box, score, class and mask of each, best first."""
    rows = sorted(rows, key=lambda row: -row[1])
    return WindowDetections(
        boxes=torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([row[1] for row in rows], dtype=torch.float32),
        labels=torch.tensor([row[2] for row in rows], dtype=torch.int64),
        masks=torch.stack([row[3] for row in rows]) if rows else torch.zeros(0, MASK, MASK),
    )


def detect_bright(threshold: float = 0.05) -> Callable[[torch.Tensor, float], list[WindowDetections]]:
    """A detector that finds each connected bright patch of the middle channel and sees its shape.

    Its score is the brightness; what is below 0.7 is of class 2.
    """

    def detect(images: torch.Tensor, min_score: float) -> list[WindowDetections]:
        found = []
        for window in images[:, images.shape[1] // 2].numpy():
            ids, _ = ndimage.label(window > threshold, np.ones((3, 3)))
            rows = []
            for number, (x, y) in enumerate(ndimage.find_objects(ids), 1):
                score = float(window[ids == number].max())
                own = ids[x, y] == number
                cells = [((np.arange(MASK) + 0.5) * n / MASK).astype(int) for n in own.shape]
                mask = torch.from_numpy(own[np.ix_(*cells)].astype(np.float32))
                if score >= min_score:
                    rows.append(((x.start, y.start, x.stop, y.stop), score, 1 if score > 0.7 else 2, mask))
            found.append(as_detections(rows))
        return found

    return detect


def scatter(shape: tuple[int, int], cell: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """One rectangle a cell of a grid, none touching another: brightness, and ids from 1."""
    generator = np.random.default_rng(seed)
    picture, ids = np.zeros(shape), np.zeros((*shape, 1), np.int32)
    for corner in np.ndindex(shape[0] // cell, shape[1] // cell):
        size = generator.integers(2, cell - 1, 2)
        start = np.array(corner) * cell + [generator.integers(0, cell - n) for n in size]
        place = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        picture[place] = generator.uniform(0.3, 1.0)
        ids[place] = ids.max() + 1
    return picture, ids
