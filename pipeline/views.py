"""How an image is turned and coloured for a person to look at."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pipeline.volume import Volume

PAPER, INK = "#101214", "#e8eaed"
DRAWING = threading.Lock()  # Matplotlib is not thread-safe, cases are drawn in threads
Array = NDArray[Any]


@dataclass(frozen=True)
class Plane:
    """A cut through an array: of a volume, whose axes run to R, A and S, or of a picture.

    Attributes:
        horizontal: Axis that runs across.
        vertical: Axis that runs up; of a picture down.
        sides: Anatomical sides at left, right, top and bottom; "" for a picture.
    """

    name: str
    horizontal: int
    vertical: int
    sides: str

    def cut(self, array: Array, position: int) -> Array:
        """Cuts the plane out and turns it as it is drawn: rows from top to bottom, columns from the left.

        Args:
            array: (X, Y, Z) or (X, Y, Z, colours).
            position: Index along the third axis.
        """
        rows: Array = np.take(array, position, axis=3 - self.horizontal - self.vertical).swapaxes(0, 1)
        # Every plane of a volume starts at the side to which its horizontal axis runs: R or A.
        return rows[::-1, ::-1] if self.sides else rows


# The radiological view: the patient's right is at the left.
PLANES = (Plane("axial", 0, 1, "RLAP"), Plane("coronal", 0, 2, "RLSI"), Plane("sagittal", 1, 2, "APSI"))
PICTURE = Plane("", 0, 1, "")  # column and row


def is_picture(volume: Volume) -> bool:
    """Whether an image was read from a picture file: a single slice without a place in the world.

    Such an image has the identity as its affine (1 mm stands for 1 pixel), X runs along its columns and Y
    down its rows.
    """
    return volume.array.shape[-1] == 1 and bool(np.array_equal(volume.affine, np.eye(4)))


def picture_colours(volume: Volume) -> tuple[Array, tuple[float, float]]:
    """What `imshow` needs to show a picture as it is.

    Returns:
        (X, Y, 1, 3) from 0 to 1 when there are three channels, else the first one, (X, Y, 1); and the values
        that are black and white.
    """
    if len(volume.array) != 3:
        return volume.array[0].astype(np.float32), grey_window(volume.array[0])
    colours = np.moveaxis(volume.array, 0, -1).astype(np.float32)
    full = 255.0 if volume.array.dtype == np.uint8 else max(float(np.nanmax(colours)), 1e-6)
    return np.clip(np.nan_to_num(colours) / full, 0, 1), (0.0, 1.0)


def grey_window(values: Array) -> tuple[float, float]:
    """Intensities to show as black and white: the 0.5th and 99.5th percentile, never the same."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def draw_sides(axes: Axes, plane: Plane) -> None:
    """Writes the anatomical sides at the edges of a panel."""
    places = ((0, 0.5, 9, 0), (1, 0.5, -9, 0), (0.5, 1, 0, -9), (0.5, 0, 0, 9))
    for side, (across, up, right, above) in zip(plane.sides, places, strict=False):
        axes.annotate(
            side,
            (across, up),
            (right, above),
            "axes fraction",
            "offset points",
            color="#ffd75e",
            fontsize=10,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )
