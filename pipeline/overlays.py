"""Outlines of reference and prediction over the image: three planes of a volume, or the picture as it is."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import ndimage

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
from pipeline.volume import LabelMap, Volume, spacing_mm, to_canonical

REFERENCE_COLOUR = "#3ddc6a"
PREDICTION_COLOUR = "#ff4fd8"
IGNORED_COLOUR = (0.45, 0.6, 0.9, 0.3)
LINE_STYLES: tuple[tuple[int, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (4, 1.5)),
    (0, (1, 1)),
    (0, (5, 1.5, 1, 1.5)),
)
SMALLEST_FIELD_MM = 80.0
MOST_VOXELS = 1 << 24  # from which the grey window is found
CONTEXT = 1.6  # side of the field of view, in sides of the object
MOST_INCHES = (11.0, 4.4)  # of all panels together, across and up
PICTURE_INCHES = (8.0, 6.0)
HEAD, FOOT, GAP = 0.72, 0.5, 0.25  # inches
Array = NDArray[Any]


@dataclass(frozen=True)
class _Scene:
    """What is drawn, in canonical (RAS+) axis order, already cut to the field of view.

    Attributes:
        image: (X, Y, Z), in colour (X, Y, Z, 3) from 0 to 1.
        outlines: Colour, line width and label map, one voxel wider on each side, drawn in this order.
        centre: Voxel through which the planes go.
        spacing: mm a voxel.
        window: Intensities shown as black and white.
        ignored: (X, Y, Z) boolean, what nobody labelled; None = nothing.
    """

    image: Array
    outlines: list[tuple[str, float, Array]]
    centre: tuple[int, ...]
    spacing: tuple[float, float, float]
    window: tuple[float, float]
    ignored: Array | None = None


def pick_cases(dice: Mapping[str, float]) -> dict[str, str]:
    """Chooses the cases to look at.

    Args:
        dice: Mean Dice by case id; undefined ones are left out.

    Returns:
        Case ids under "best", "median" (the lower one of an even number) and "worst"; empty without cases.
        Ties go by case id. With few cases, one case may have two roles.
    """
    order = sorted((value, case_id) for case_id, value in dice.items() if not math.isnan(value))
    if not order:
        return {}
    places = {"best": -1, "median": (len(order) - 1) // 2, "worst": 0}
    return {role: order[place][1] for role, place in places.items()}


def draw_overlay(
    volume: Volume,
    prediction: LabelMap | None,
    reference: LabelMap | None,
    path: Path,
    title: str,
    labels: Mapping[str, int] | None = None,
    ignored: Array | None = None,
    whole: bool = False,
) -> None:
    """Draws outlines of reference (green) and prediction (magenta) over the image and writes a PNG.

    Axial, coronal and sagittal plane through the centre of the largest object of the reference (or of the
    prediction, when there is no reference or it is empty), at one physical scale; the patient's right is at
    the left. An image with a single voxel along an axis gives one panel. The grey window runs from the 0.5th
    to the 99.5th percentile of the part that is shown. A picture is shown whole, in its own orientation and
    colours.

    Args:
        volume: Of several channels the first is shown; of a picture with three channels all, as red, green
            and blue.
        prediction: On the same grid, or None.
        reference: On the same grid, or None.
        path: PNG file to write.
        title: Heading, such as the case id and its Dice.
        labels: Class values by name, for the legend and one line style each; None: all in one style.
        ignored: (X, Y, Z) boolean on the same grid, what nobody labelled: shaded; None = nothing.
        whole: Whether all of a volume is shown, not only the surroundings of the object.
    """
    values = {name: value for name, value in (labels or {}).items() if value != 0}
    if is_picture(volume):
        scene, planes = _build_picture(volume, prediction, reference, ignored), [PICTURE]
    else:
        scene = _build_scene(volume, prediction, reference, ignored, whole)
        shape = scene.image.shape
        planes = [p for p in PLANES if shape[p.horizontal] > 1 and shape[p.vertical] > 1] or [PLANES[0]]
    with DRAWING:
        figure = _draw_figure(scene, planes, values, title)
        figure.savefig(path, dpi=120, format="png")


def _draw_figure(scene: _Scene, planes: list[Plane], labels: Mapping[str, int], title: str) -> Figure:
    """Places the panels side by side, all at one physical scale."""
    extent = [n * s for n, s in zip(scene.image.shape, scene.spacing, strict=False)]
    widths, heights = [extent[p.horizontal] for p in planes], [extent[p.vertical] for p in planes]
    most = MOST_INCHES if planes[0].sides else PICTURE_INCHES
    scale = min(most[0] / sum(widths), most[1] / max(heights))  # inches a mm
    inner = sum(widths) * scale + GAP * (len(planes) - 1)
    legend = _legend_lines(scene, labels)
    below = sum(0.7 + 0.08 * len(str(line.get_label())) for line in legend)
    width = max(inner, 0.1 * len(title), below) + 2 * GAP
    height = max(heights) * scale + HEAD + FOOT
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    figure.text(0.5, 1 - 0.12 / height, title, color=INK, fontsize=12, ha="center", va="top")
    x, middle = (width - inner) / 2, FOOT + max(heights) * scale / 2
    for plane, across, up in zip(planes, widths, heights, strict=True):
        bottom = middle - up * scale / 2
        box = (x / width, bottom / height, across * scale / width, up * scale / height)
        _draw_plane(figure.add_axes(box), scene, plane, list(labels.values()))
        x += across * scale + GAP
    style: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 9, "columnspacing": 1.2}
    if legend:
        figure.legend(handles=legend, loc="lower center", ncols=len(legend), **style)
    return figure


def _build_scene(
    volume: Volume,
    prediction: LabelMap | None,
    reference: LabelMap | None,
    ignored: Array | None,
    whole: bool,
) -> _Scene:
    """Turns everything to canonical axes, finds the centre and cuts out the field of view."""
    image, affine = to_canonical(volume.array[0], volume.affine)
    spacing = spacing_mm(affine)
    drawn = ((REFERENCE_COLOUR, 2.8, reference), (PREDICTION_COLOUR, 1.1, prediction))
    outlines = [(c, w, to_canonical(m.array, m.affine)[0]) for c, w, m in drawn if m is not None]
    target = next((array for _, _, array in outlines if array.any()), np.zeros(image.shape, np.uint8))
    centre, size = _largest_object(target)
    if whole:
        size = image.shape
    side = max(SMALLEST_FIELD_MM, *(CONTEXT * n * s for n, s in zip(size, spacing, strict=True)))
    half = [math.ceil(side / 2 / s) for s in spacing]
    field = tuple(
        slice(max(0, min(c - h, n - 2 * h - 1)), min(n, max(c + h + 1, 2 * h + 1)))
        for c, h, n in zip(centre, half, image.shape, strict=True)
    )
    part = image[field]
    thin = math.ceil(
        (part.size / MOST_VOXELS) ** (1 / 3)
    )  # a whole CT as floats, and sorted, takes gigabytes
    # One voxel more on each side: outlines close at the edge of the image, but not at that of the field.
    wider = tuple(slice(f.start, f.stop + 2) for f in field)
    return _Scene(
        image=part,
        outlines=[(colour, width, np.pad(array, 1)[wider]) for colour, width, array in outlines],
        centre=tuple(c - f.start for c, f in zip(centre, field, strict=True)),
        spacing=spacing,
        window=grey_window(part[::thin, ::thin, ::thin].astype(np.float32)),
        ignored=None if ignored is None else to_canonical(ignored, volume.affine)[0][field],
    )


def _build_picture(
    volume: Volume, prediction: LabelMap | None, reference: LabelMap | None, ignored: Array | None
) -> _Scene:
    """The whole picture with its outlines."""
    drawn = ((REFERENCE_COLOUR, 1.8, reference), (PREDICTION_COLOUR, 1.0, prediction))
    outlines = [(c, w, np.pad(m.array, 1)) for c, w, m in drawn if m is not None]
    image, window = picture_colours(volume)
    return _Scene(image, outlines, (0, 0, 0), (1.0, 1.0, 1.0), window, ignored)


def _largest_object(label_map: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Centre voxel and size of the largest connected foreground object; without one, of the whole image.

    The centre is the object's own voxel nearest to its centre of gravity, which may itself lie outside.
    """
    objects, number = ndimage.label(label_map > 0)
    if not number:
        return tuple(n // 2 for n in label_map.shape), label_map.shape
    sizes = np.zeros(number + 1, np.int64)
    for plane in objects:  # counting the whole volume would take 8 bytes a voxel, listing it 24
        sizes += np.bincount(plane.ravel(), minlength=number + 1)
    sizes[0] = 0
    largest = int(sizes.argmax())
    box = ndimage.find_objects(objects, max_label=largest)[largest - 1]
    inside = objects[box] == largest
    middle = [_mean_place(inside, axis) for axis in range(3)]
    nearest = min((_nearest_in_plane(plane, x, middle) for x, plane in enumerate(inside)), key=lambda n: n[0])
    centre = tuple(part.start + place for part, place in zip(box, nearest[1], strict=True))
    return centre, inside.shape


def _mean_place(inside: NDArray[np.bool_], axis: int) -> float:
    counts = inside.sum(axis=tuple(a for a in range(3) if a != axis))
    return float((counts * np.arange(len(counts))).sum() / counts.sum())


def _nearest_in_plane(
    plane: NDArray[np.bool_], x: int, middle: Sequence[float]
) -> tuple[float, tuple[int, int, int]]:
    """Squared distance to a point of the plane's nearest voxel, and that voxel; infinite without one."""
    y, z = (np.arange(n) - centre for n, centre in zip(plane.shape, middle[1:], strict=True))
    distances = np.where(plane, (x - middle[0]) ** 2 + y[:, None] ** 2 + z**2, math.inf)
    row, column = np.unravel_index(int(distances.argmin()), plane.shape)
    return float(distances[row, column]), (x, int(row), int(column))


def _draw_plane(axes: Axes, scene: _Scene, plane: Plane, values: list[int]) -> None:
    """Draws one plane, in mm, with its outlines and the anatomical sides."""
    position = scene.centre[3 - plane.horizontal - plane.vertical]
    pixels = plane.cut(scene.image, position)
    rows, columns = pixels.shape[:2]
    dx, dy = scene.spacing[plane.horizontal], scene.spacing[plane.vertical]
    box = (0, columns * dx, rows * dy, 0)
    low, high = scene.window
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, extent=box, aspect="auto", interpolation="nearest")
    if scene.ignored is not None:
        shade = plane.cut(scene.ignored, position)[..., None] * np.array(IGNORED_COLOUR)
        axes.imshow(shade, extent=box, aspect="auto", interpolation="nearest")
    x, y = (np.arange(-1, columns + 1) + 0.5) * dx, (np.arange(-1, rows + 1) + 0.5) * dy
    for colour, width, array in scene.outlines:
        label_map = plane.cut(array, position + 1)
        for i, mask in enumerate([label_map == value for value in values] or [label_map > 0]):
            if mask.any():
                style = LINE_STYLES[i % len(LINE_STYLES)]
                axes.contour(x, y, mask, [0.5], colors=colour, linewidths=width, linestyles=[style])
    axes.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[], facecolor=PAPER)
    axes.set_title(plane.name, color=INK, fontsize=9, pad=4)
    draw_sides(axes, plane)


def _legend_lines(scene: _Scene, labels: Mapping[str, int]) -> list[Line2D]:
    """Names the colours and, for several classes, the line styles; only classes that are there."""
    names = {REFERENCE_COLOUR: "reference", PREDICTION_COLOUR: "prediction"}
    lines = [Line2D([], [], color=c, linewidth=w, label=names[c]) for c, w, _ in scene.outlines]
    if scene.ignored is not None:
        lines.append(Line2D([], [], color=IGNORED_COLOUR, linewidth=6, label="not labelled"))
    there = {value for _, _, array in scene.outlines for value in np.unique(array).tolist()}
    for i, style in enumerate(LINE_STYLES):
        same = [name for name in list(labels)[i :: len(LINE_STYLES)] if labels[name] in there]
        if same and len(labels) > 1:
            text = textwrap.shorten(", ".join(same), 32, placeholder=" ...")
            lines.append(Line2D([], [], color=INK, linewidth=1.5, linestyle=style, label=text))
    return lines
