"""Training windows with their objects, as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.datasets import StepSchedule, StepStream, is_forced
from pipeline.instances import Boxes, find_boxes
from pipeline.plan import DetectionPlan
from pipeline.slices import cut_window, source_window, zoom_ids, zoom_image
from pipeline.store import StoredCase, load_case

JITTER = 0.25  # of the window: how far an object may lie from its centre


@dataclass(frozen=True)
class WindowSampling:
    """How windows are drawn.

    Attributes:
        detection: Size of a window and its slices.
        batch_size: Windows a step over all processes.
        foreground_fraction: Share of the windows placed on an object.
        padding: Value outside the image, one a channel.
        seed: Of all draws.
    """

    detection: DetectionPlan
    batch_size: int
    foreground_fraction: float
    padding: tuple[float, ...]
    seed: int


class WindowStream(StepStream):
    """Batches of windows with the objects in them.

    Args:
        folder: Store of preprocessed cases.
        case_ids: Training cases.
        sampling: How windows are drawn.
        schedule: Which steps are yielded.
    """

    def __init__(
        self, folder: Path, case_ids: Sequence[str], sampling: WindowSampling, schedule: StepSchedule
    ) -> None:
        super().__init__(schedule)
        self.cases = [load_case(folder, case_id) for case_id in sorted(case_ids)]
        self.boxes: list[Boxes] = [find_boxes(case.instances) for case in self.cases]
        self.with_objects = [index for index, boxes in enumerate(self.boxes) if any(boxes)]
        self.sampling = sampling

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of an optimizer step.

        Returns:
            image: (N, slices * C, X, Y) float32, in network pixels.
            instances: (N, X, Y) int32 ids of the objects of each window's middle slice.
            labels: One (ids + 1,) int64 tensor a window: network class index by id.
            step: () int64.
        """
        numbers = self.sample_numbers(step, self.sampling.batch_size)
        samples = [self._sample(step, number) for number in numbers]
        detection = self.sampling.detection
        return {
            "image": zoom_image(torch.from_numpy(np.stack([image for image, _, _ in samples])), detection),
            "instances": zoom_ids(torch.from_numpy(np.stack([ids for _, ids, _ in samples])), detection),
            "labels": [torch.from_numpy(np.array(labels, np.int64)) for _, _, labels in samples],
            "step": torch.tensor(step),
        }

    def _sample(
        self, step: int, number: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint8]]:
        index = number - step * self.sampling.batch_size
        generator = np.random.default_rng([self.sampling.seed, step, index])
        forced = is_forced(number, self.sampling.foreground_fraction) and bool(self.with_objects)
        chosen = self.with_objects if forced else range(len(self.cases))
        position = chosen[int(generator.integers(len(chosen)))]
        case, detection = self.cases[position], self.sampling.detection
        size = source_window(detection)
        if forced:
            slice_index, start = _on_an_object(case, self.boxes[position], size, generator)
        else:
            slice_index, start = _anywhere(case, size, generator)
        image = cut_window(case.image, start, slice_index, size, detection.slices, self.sampling.padding)
        ids = cut_window(case.instances[None], start, slice_index, size, 1, (0,))[0].astype(np.int32)
        return image, ids, case.instance_labels


def _on_an_object(
    case: StoredCase, boxes: Boxes, size: tuple[int, int], generator: np.random.Generator
) -> tuple[int, tuple[int, int]]:
    """A slice of an object and a window around it; every object is as likely as any other."""
    present = [box for box in boxes if box is not None]
    box = present[int(generator.integers(len(present)))]
    slice_index = int(generator.integers(box[2].start, box[2].stop))
    starts = []
    for part, length, whole in zip(box, size, case.instances.shape, strict=False):
        centre = (part.start + part.stop) / 2 + generator.uniform(-JITTER, JITTER) * length
        low, high = min(0, (whole - length) // 2), max(whole - length, min(0, (whole - length) // 2))
        starts.append(int(min(max(round(centre - length / 2), low), high)))
    return slice_index, (starts[0], starts[1])


def _anywhere(
    case: StoredCase, size: tuple[int, int], generator: np.random.Generator
) -> tuple[int, tuple[int, int]]:
    """Any slice, and a window inside it (around it where it is smaller than the window)."""
    starts = []
    for length, whole in zip(size, case.instances.shape, strict=False):
        low = min(0, (whole - length) // 2)
        starts.append(int(generator.integers(low, max(whole - length, low) + 1)))
    return int(generator.integers(case.instances.shape[2])), (starts[0], starts[1])
