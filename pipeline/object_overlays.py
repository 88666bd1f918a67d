"""Objects over the image: outlines, boxes and scores; what was found, what was missed, what is a false alarm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from pipeline.instances import find_boxes
from pipeline.io.raster import write_drawing
from pipeline.object_states import ObjectStates
from pipeline.views import (
    DRAWING,
    INK,
    PAPER,
    PICTURE,
    PLANES,
    Plane,
    draw_sides,
    grey_window,
    is_picture,
    picture_colours,
)
from pipeline.volume import Volume, spacing_mm, to_canonical

Array = NDArray[Any]
MOST_SLICES = 3
MOST_SCORES = 60  # objects of a panel whose boxes and scores can still be told apart
SMALLEST_FIELD_MM = 120.0
MARGIN_MM = 25.0
PANEL_INCHES = (4.4, 4.4)
PICTURE_INCHES = (8.4, 6.4)
HEAD, FOOT, GAP, LEGEND = 0.72, 0.46, 0.25, 7.6  # inches
OUTLINE = [withStroke(linewidth=1.6, foreground="black")]


@dataclass(frozen=True)
class _Style:
    """How objects of one kind are drawn."""

    name: str
    colour: str
    width: float
    line: Literal["solid", "dashed"] = "solid"


REFERENCE_FOUND = _Style("reference, found", "#3ddc6a", 2.6)
PREDICTION_FOUND = _Style("prediction, right", "#35b8ff", 1.0)
MISSED = _Style("reference, missed", "#ffd23f", 2.0)
FALSE_ALARM = _Style("prediction, false alarm", "#ff4747", 1.8, "dashed")


def draw_objects(
    volume: Volume, reference: ObjectStates, prediction: ObjectStates, path: Path, title: str
) -> None:
    """Draws the objects of reference and prediction over the image and writes a PNG.

    A picture gives one panel in its own orientation and colours; a volume its axial slices with most objects
    (at most three; each after the first shows most that are new), cut to where objects are, the patient's
    right at the left. Missed objects, false alarms and their scores are always drawn; boxes and scores of the
    others where a panel has at most 60 of them.

    Args:
        volume: Of several channels the first is shown; of a picture with three channels all.
        reference: On the grid of `volume`.
        prediction: On the same grid.
        path: PNG file to write.
        title: Heading, such as the case id.
    """
    if is_picture(volume):
        image, window = picture_colours(volume)
        spacing, plane, slices = (1.0, 1.0, 1.0), PICTURE, [0]
        maps = [reference.ids, prediction.ids]
    else:
        image, affine = to_canonical(volume.array[0], volume.affine)
        maps = [to_canonical(side.ids, volume.affine)[0] for side in (reference, prediction)]
        spacing, plane, slices = spacing_mm(affine), PLANES[0], _choose_slices(maps)
        part = _field(maps, spacing)
        image, maps = image[part], [ids[part] for ids in maps]
        window = grey_window(image[:, :, slices].astype(np.float32))
    panels = [[plane.cut(array, z) for array in (image, *maps)] for z in slices]
    names = [f"slice {z + 1} of {maps[0].shape[2]}" if plane.sides else "" for z in slices]
    with DRAWING:
        figure, axes = _place(panels[0][0].shape, spacing, names, plane, title)
        for one, (pixels, truth, predicted) in zip(axes, panels, strict=True):
            _draw_panel(one, pixels, spacing, window)
            _draw_side(one, truth, reference, (REFERENCE_FOUND, MISSED), spacing)
            _draw_side(one, predicted, prediction, (PREDICTION_FOUND, FALSE_ALARM), spacing)
        _add_legend(figure, reference, prediction)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        write_drawing(pixels[..., :3], path)


def _choose_slices(maps: list[Array]) -> list[int]:
    """Slices along Z that show most objects, each one most that those before did not show."""
    held: list[set[tuple[int, int]]] = [set() for _ in range(maps[0].shape[2])]
    for side, ids in enumerate(maps):
        for number, box in enumerate(find_boxes(ids), 1):
            if box is not None:
                for z in range(box[2].start, box[2].stop):
                    held[z].add((side, number))
    area = sum((ids > 0).sum(axis=(0, 1)) for ids in maps)
    shown: set[tuple[int, int]] = set()
    chosen: list[int] = []
    while len(chosen) < MOST_SLICES:
        best = max(range(len(held)), key=lambda z: (len(held[z] - shown), area[z]))
        if not held[best] - shown:
            break
        chosen.append(best)
        shown |= held[best]
    return sorted(chosen) or [len(held) // 2]


def _field(maps: list[Array], spacing: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """Box along X and Y around all objects, with a margin; the whole image without any."""
    boxes = ndimage.find_objects(((maps[0] > 0) | (maps[1] > 0)).astype(np.uint8))
    whole = tuple(slice(0, n) for n in maps[0].shape)
    if not boxes:
        return whole[0], whole[1], whole[2]
    parts = []
    for box, n, size in zip(boxes[0][:2], maps[0].shape[:2], spacing[:2], strict=True):
        width = max((box.stop - box.start) + 2 * MARGIN_MM / size, SMALLEST_FIELD_MM / size)
        start = max(0, round((box.start + box.stop - width) / 2))
        parts.append(slice(min(start, max(0, round(n - width))), min(n, start + round(width))))
    return parts[0], parts[1], whole[2]


def _place(
    shape: tuple[int, ...],
    spacing: tuple[float, float, float],
    names: list[str],
    plane: Plane,
    title: str,
) -> tuple[Figure, list[Axes]]:
    """A figure with one panel a slice."""
    wide, high = shape[1] * spacing[plane.horizontal], shape[0] * spacing[plane.vertical]
    most = PANEL_INCHES if plane.sides else PICTURE_INCHES
    scale = min(most[0] / wide, most[1] / high)  # inches a mm
    across, up = wide * scale, high * scale
    inner = len(names) * (across + GAP) - GAP
    head = HEAD if plane.sides else HEAD - 0.25  # panels of a volume have a name
    width, height = max(inner, 0.1 * len(title), LEGEND) + 2 * GAP, up + head + FOOT
    figure = Figure(figsize=(width, height), dpi=120, facecolor=PAPER)
    figure.text(0.5, 1 - 0.12 / height, title, color=INK, fontsize=12, ha="center", va="top")
    axes = []
    for i, name in enumerate(names):
        left = (width - inner) / 2 + i * (across + GAP)
        one = figure.add_axes((left / width, FOOT / height, across / width, up / height))
        one.set_title(name, color=INK, fontsize=9, pad=4)
        draw_sides(one, plane)
        axes.append(one)
    return figure, axes


def _draw_panel(
    axes: Axes, pixels: Array, spacing: tuple[float, float, float], window: tuple[float, float]
) -> None:
    rows, columns = pixels.shape[:2]
    box = (0, columns * spacing[0], rows * spacing[1], 0)
    low, high = window
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, extent=box, aspect="auto", interpolation="nearest")
    axes.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[], facecolor=PAPER)


def _draw_side(
    axes: Axes,
    ids: Array,
    side: ObjectStates,
    styles: tuple[_Style, _Style],
    spacing: tuple[float, float, float],
) -> None:
    """Draws all objects of one side in one panel; `styles`: of those with a partner, and of the others."""
    boxes = {i: box for i, box in enumerate(ndimage.find_objects(ids), 1) if box is not None}
    crowded = sum(i in side.found for i in boxes) > MOST_SCORES
    scale = np.array([spacing[0], spacing[1]])
    lines: dict[_Style, list[Array]] = {style: [] for style in styles}
    for number, box in boxes.items():
        right = number in side.found
        style = styles[0] if right else styles[1]
        corner = np.array([box[1].start, box[0].start])
        mask = np.pad(ids[box] == number, 1)
        contours = find_contours(mask.astype(float), 0.5)  # type: ignore[no-untyped-call]
        lines[style] += [(c[:, ::-1] - 0.5 + corner) * scale for c in contours]
        if not (right and crowded) and (side.scores or not right):
            size = np.array([box[1].stop, box[0].stop]) - corner
            _draw_box(axes, corner * scale, size * scale, style, side.scores.get(number))
    for style, outlines in lines.items():
        axes.add_collection(
            LineCollection(outlines, colors=style.colour, linewidths=style.width, linestyles=style.line)
        )


def _draw_box(axes: Axes, corner: Array, size: Array, style: _Style, score: float | None) -> None:
    """A box one screen point outside the object, with its score."""
    axes.add_patch(
        Rectangle(
            (corner[0], corner[1]), size[0], size[1],
            fill=False, edgecolor=style.colour, linewidth=0.9, linestyle=style.line, alpha=0.9,
        )
    )  # fmt: skip
    if score is not None:
        axes.annotate(
            f"{score:.2f}", (corner[0], corner[1]), (0, 1.5), textcoords="offset points",
            color=style.colour, fontsize=7, ha="left", va="bottom", path_effects=OUTLINE, clip_on=True,
        )  # fmt: skip


def _add_legend(figure: Figure, reference: ObjectStates, prediction: ObjectStates) -> None:
    """Names the four kinds and counts them over the whole image."""
    lines = []
    for side, styles in (
        (reference, (REFERENCE_FOUND, MISSED)),
        (prediction, (PREDICTION_FOUND, FALSE_ALARM)),
    ):
        right = len(side.present & side.found)
        counts = (right, len(side.present) - right)
        for style, count in zip(styles, counts, strict=True):
            text = f"{style.name}: {count}"
            line = Line2D([], [], color=style.colour, linewidth=style.width, linestyle=style.line, label=text)
            lines.append(line)
    figure.legend(
        handles=lines, loc="lower center", ncols=4, frameon=False, labelcolor=INK, fontsize=9,
        columnspacing=1.4, handlelength=1.8,
    )  # fmt: skip
