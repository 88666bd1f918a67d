"""Metrics of one pair of binary masks: a reference and a prediction of one class in one case.

The contract, for every metric here (DESIGN.md section 6):

- Metrics are taken per case and per foreground class and averaged afterwards; voxels are never pooled over
  cases and the background is never averaged.
- **Both masks empty**: NaN, because nothing was there to be found. Such a case is left out of the mean and
  seen in the count of defined cases. `volume_error_mm3` alone is defined: it is 0.
- **Exactly one mask empty**: 0 for the overlaps (`dice`, `jaccard`, `precision`, `recall`, `f1`,
  `surface_dice`). There is no surface to measure to, so `hd95_mm` and `assd_mm` are NaN, and their count of
  defined cases is lower than that of the overlaps. `relative_volume_error` is -1 for an empty prediction and
  NaN for an empty reference. `specificity`, `accuracy` and `volume_error_mm3` are their formulas.

Masks are boolean (X, Y, Z) arrays on one grid. A surface is the set of boundary voxels of a mask: those with
a face neighbour outside it, the edge of the image counting as outside; distances run between voxel centres
in mm. Along an axis with a single voxel nothing is outside: a 2D image (Z = 1) is measured by its contour.

Where a reference has voxels that nobody labelled, all metrics are those of the labelled voxels, as if the rest
lay beyond the edge of the image (`find_boundary`): no prediction there is right or wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from pipeline.ignored_voxels import find_boundary

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]

# Headers hold the spacing in single precision: 5 voxels of 0.4 mm may come out as 2.00000003 mm.
ROUNDING_MM = 1e-4


@dataclass(frozen=True)
class Counts:
    """Voxels of a grid by what the reference and the prediction say of them."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.true_positive + self.false_negative

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.true_positive + self.false_positive

    @property
    def both_empty(self) -> bool:
        """Whether there was nothing to find and nothing was found."""
        return self.reference + self.prediction == 0


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of every boundary voxel of one mask to the nearest boundary voxel of the other.

    Attributes:
        reference_to_prediction: One value in mm a boundary voxel of the reference, in C order of the voxels;
            all infinite when the prediction is empty.
        prediction_to_reference: The same the other way round.
    """

    reference_to_prediction: Distances
    prediction_to_reference: Distances

    @property
    def defined(self) -> bool:
        """Whether both masks have a surface."""
        return len(self.reference_to_prediction) > 0 and len(self.prediction_to_reference) > 0

    def both(self) -> Distances:
        """All values of both directions."""
        return np.concatenate([self.reference_to_prediction, self.prediction_to_reference])


def count_voxels(reference: Mask, prediction: Mask, known: Mask | None = None) -> Counts:
    """Counts agreement and disagreement over the whole grid.

    Args:
        reference: (X, Y, Z) boolean.
        prediction: The same shape.
        known: Voxels that somebody labelled; None = all. Neither mask has others.
    """
    size = reference.size if known is None else int(np.count_nonzero(known))
    both = int(np.count_nonzero(reference & prediction))
    only_prediction = int(np.count_nonzero(prediction)) - both
    only_reference = int(np.count_nonzero(reference)) - both
    return Counts(both, only_prediction, only_reference, size - both - only_prediction - only_reference)


def dice(counts: Counts) -> float:
    """2 TP / (2 TP + FP + FN): twice the common volume by the sum of the volumes."""
    return _ratio(2 * counts.true_positive, counts.reference + counts.prediction)


def jaccard(counts: Counts) -> float:
    """TP / (TP + FP + FN): intersection over union."""
    return _ratio(counts.true_positive, counts.reference + counts.false_positive)


def precision(counts: Counts) -> float:
    """TP / (TP + FP); 0 when only the prediction is empty."""
    return _ratio(counts.true_positive, counts.prediction, 0.0, counts.both_empty)


def recall(counts: Counts) -> float:
    """TP / (TP + FN), the sensitivity; 0 when only the reference is empty."""
    return _ratio(counts.true_positive, counts.reference, 0.0, counts.both_empty)


def f1(counts: Counts) -> float:
    """Harmonic mean of precision and recall; for one pair of masks this is the Dice, by another road."""
    found, right = recall(counts), precision(counts)
    return 0.0 if found + right == 0 else 2 * found * right / (found + right)


def specificity(counts: Counts) -> float:
    """TN / (TN + FP); NaN when both masks are empty or the reference fills the grid."""
    negative = counts.true_negative + counts.false_positive
    return _ratio(counts.true_negative, negative, math.nan, counts.both_empty)


def accuracy(counts: Counts) -> float:
    """(TP + TN) / all voxels of the grid; it says little where the background is most of the image."""
    right = counts.true_positive + counts.true_negative
    voxels = counts.reference + counts.false_positive + counts.true_negative
    return _ratio(right, voxels, math.nan, counts.both_empty)


def volume_error_mm3(counts: Counts, spacing_mm: Sequence[float]) -> float:
    """Volume of the prediction less that of the reference in mm3: below 0, too little was found."""
    return float((counts.prediction - counts.reference) * math.prod(spacing_mm))


def relative_volume_error(counts: Counts) -> float:
    """(prediction - reference) / reference volume; NaN when the reference is empty."""
    return _ratio(counts.prediction - counts.reference, counts.reference)


def _ratio(part: int, whole: int, without_whole: float = math.nan, undefined: bool = False) -> float:
    if undefined:
        return math.nan
    return part / whole if whole else without_whole


def surface_distances(
    reference: Mask, prediction: Mask, spacing_mm: Sequence[float], known: Mask | None = None
) -> SurfaceDistances:
    """Measures the distances between two surfaces once, for all surface metrics.

    Both masks are cut to their common bounding box first. This changes no value: every boundary voxel lies
    inside, and the outside of the box counts as background just as it is. A k-d tree over the boundary
    voxels gives the same numbers as a distance transform of the box and depends on the size of the surfaces
    alone, so that one wrong voxel in a far corner costs nothing.

    Args:
        reference: (X, Y, Z) boolean.
        prediction: The same shape.
        spacing_mm: Voxel size along X, Y, Z.
        known: As in `count_voxels`.
    """
    axes = [axis for axis in range(reference.ndim) if reference.shape[axis] > 1] or [0]
    flat = tuple(i for i in range(reference.ndim) if i not in axes)
    spacing = np.array([spacing_mm[axis] for axis in axes], dtype=np.float64)
    boxes = ndimage.find_objects((reference | prediction).astype(np.uint8))
    if not boxes:
        return SurfaceDistances(np.empty(0), np.empty(0))
    if known is not None:
        wider = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in boxes[0])
        edges = [find_boundary(mask[wider], known[wider]) for mask in (reference, prediction)]
        first, second = (np.argwhere(edge.squeeze(flat)) for edge in edges)
        return SurfaceDistances(_nearest(first, second, spacing), _nearest(second, first, spacing))
    first = _boundary_voxels(reference[boxes[0]].squeeze(flat))
    second = _boundary_voxels(prediction[boxes[0]].squeeze(flat))
    return SurfaceDistances(_nearest(first, second, spacing), _nearest(second, first, spacing))


def _boundary_voxels(mask: Mask) -> NDArray[np.intp]:
    """Indices (N, axes) of the voxels with a face neighbour outside the mask."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def _nearest(start: NDArray[np.intp], end: NDArray[np.intp], spacing: NDArray[np.float64]) -> Distances:
    """Distance in mm of each voxel of `start` to the nearest of `end`."""
    if not len(end):
        return np.full(len(start), np.inf)
    _, index = cKDTree(end * spacing, leafsize=32).query(start * spacing)
    # From whole voxel steps, so that the place in the image does not change the rounding.
    steps: NDArray[Any] = start - end[index]
    distances: Distances = np.sqrt(((steps * spacing) ** 2).sum(axis=1))
    return distances


def hd95_mm(distances: SurfaceDistances) -> float:
    """95 % Hausdorff distance in mm: the larger of the 95th percentiles of the two directions.

    Percentiles are interpolated linearly, every boundary voxel weighs the same (as in MONAI; packages that
    pool both directions, or weigh by surface area, give other numbers).
    """
    if not distances.defined:
        return math.nan
    return max(
        float(np.percentile(distances.reference_to_prediction, 95)),
        float(np.percentile(distances.prediction_to_reference, 95)),
    )


def assd_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance in mm: the mean over all boundary voxels of both masks.

    The larger surface weighs more; it is not the mean of the two directed means.
    """
    return float(distances.both().mean()) if distances.defined else math.nan


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of the boundary voxels of both masks that lie within a tolerance of the other surface.

    Source: Nikolov et al., arXiv:1809.04430; on boundary voxels as in MONAI and arXiv:2111.05408.

    Args:
        distances: From `surface_distances`.
        tolerance_mm: Largest distance that counts as agreement, itself included.
    """
    values = distances.both()
    return float(np.mean(values <= tolerance_mm + ROUNDING_MM)) if len(values) else math.nan
