"""Patches and cases of the second network of a cascade: they come with the label map that the first one made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.datasets import PatchSampling, PatchStream, StepSchedule, WholeCases, cut_patch
from pipeline.errors import SegtrailError
from pipeline.previous_augmentation import apply_changes, draw_changes
from pipeline.store import case_path, map_arrays, save_arrays

LABEL_MAP = "label_map"


def save_previous(folder: Path, case_id: str, label_map: NDArray[np.uint8]) -> None:
    """Writes what the first network found in a case, whole or not at all.

    Args:
        folder: Of these files.
        case_id: Of the case.
        label_map: (X, Y, Z) network indices on the grid of the second network.
    """
    save_arrays(case_path(folder, case_id), {LABEL_MAP: label_map})


def load_previous(folder: Path, case_id: str) -> NDArray[np.uint8]:
    """Maps into memory what the first network found in a case; (X, Y, Z).

    Raises:
        SegtrailError: The file is missing or damaged.
    """
    path = case_path(folder, case_id)
    try:
        return map_arrays(path, [LABEL_MAP])[LABEL_MAP]
    except (OSError, ValueError, KeyError) as error:
        raise SegtrailError(
            f"the label map of the first network cannot be read: {error}",
            str(path),
            "delete its folder; the training makes it again",
        ) from error


class CascadePatchStream(PatchStream):
    """Batches of patches with their label maps, and those of the first network, changed at random.

    Args:
        folder: Store of preprocessed cases.
        case_ids: Training cases.
        sampling: How patches are drawn.
        schedule: Which steps are yielded.
        previous: Folder of the first network's label maps.
        classes: Of these, background included.
    """

    def __init__(
        self,
        folder: Path,
        case_ids: Sequence[str],
        sampling: PatchSampling,
        schedule: StepSchedule,
        previous: Path,
        classes: int,
    ) -> None:
        super().__init__(folder, case_ids, sampling, schedule)
        self.previous = {case_id: load_previous(previous, case_id) for case_id in self.cases}
        self.classes = classes

    def cut(
        self, case_id: str, start: tuple[int, int, int], generator: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """As in `PatchStream`, with `previous`: (X, Y, Z) uint8."""
        size = self.sampling.patch_size
        patch = cut_patch(self.previous[case_id][None], start, size, (0,))[0]
        changed = apply_changes(patch, draw_changes(self.classes, size, generator))
        return {**super().cut(case_id, start, generator), "previous": changed}


class CascadeCases(WholeCases):
    """Whole preprocessed cases with the first network's label maps, for validation.

    Args:
        folder: Store of preprocessed cases.
        case_ids: Validation cases.
        previous: Folder of the first network's label maps.
    """

    def __init__(self, folder: Path, case_ids: Sequence[str], previous: Path) -> None:
        super().__init__(folder, case_ids)
        self.previous = previous

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As in `WholeCases`, with `previous`: (X, Y, Z) uint8."""
        label_map = load_previous(self.previous, self.case_ids[index])
        return {**super().__getitem__(index), "previous": torch.from_numpy(np.array(label_map))}
