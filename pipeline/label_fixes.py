"""A label or instance map against the grid of its image: mended where nothing is lost, otherwise refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.cases import Finding
from pipeline.config import InspectParams
from pipeline.findings import Fix
from pipeline.grids import Grid, describe_difference
from pipeline.io.case_maps import ORIENTATION, turn_map
from pipeline.io.images import StoredImage, round_labels
from pipeline.volume import Affine, LabelMap, axis_codes, corner_distance_mm

ROUNDING, HEADER = "rounding", "header"  # names of `inspect.fix`
HEADER_NOISE_MM = 1e-3  # float32 headers of one grid differ by less; not worth a word
TOLERANCE_KEY = "inspect.affine_tolerance_mm"


@dataclass(frozen=True)
class PlacedMap:
    """A map as it counts.

    Attributes:
        map: On the grid of the image when no finding is fatal.
        findings: What is wrong, and what was mended.
        fixes: One for each finding that was mended.
    """

    map: LabelMap
    findings: tuple[Finding, ...] = ()
    fixes: tuple[Fix, ...] = ()


def place_map(
    stored: StoredImage, path: Path, role: str, image: tuple[str, StoredImage] | None, params: InspectParams
) -> PlacedMap:
    """Takes a file's voxels as labels and brings them onto the grid of the image.

    Args:
        stored: The file.
        path: Its path.
        role: "label" or "instances".
        image: Role and voxels of the first image; None when it cannot be read.
        params: Tolerance, and which fixes are allowed.

    Raises:
        ImageFileError: The file is no label map.
    """
    label, rounded = round_labels(stored, path)
    placed = PlacedMap(label)
    if rounded:
        placed = _round(placed, rounded, role, path, params)
    return placed if image is None else _align(placed, role, path, image, params)


def _round(placed: PlacedMap, rounded: float, role: str, path: Path, params: InspectParams) -> PlacedMap:
    measured = f"{rounded:.2g}"
    what = f"{role}: values lie up to {measured} beside whole numbers"
    if ROUNDING not in params.fix:
        reason = f"{what}, and inspect.fix does not name {ROUNDING}"
        return _with(placed, Finding("label_not_integer", reason, measured=measured, limit="0"))
    finding = Finding("label_rounded", f"{what}; rounded", False, measured, "0", fixed=True)
    before = f"up to {measured} beside whole numbers"
    return _with(placed, finding, Fix(role, ROUNDING, "values", before, "whole numbers", path.as_posix()))


def _align(
    placed: PlacedMap, role: str, path: Path, image: tuple[str, StoredImage], params: InspectParams
) -> PlacedMap:
    """Turns the axes where that alone makes both one grid, and takes the image's affine within the tolerance."""
    name, first = image
    limit = params.affine_tolerance_mm
    grid = Grid(first.array.shape[1:], first.affine)
    codes, expected = axis_codes(placed.map.affine), axis_codes(first.affine)
    if not describe_difference(grid, Grid(placed.map.array.shape, placed.map.affine), limit):
        codes = expected  # at 45 degrees the last digit of a header decides what the axes are called
    turned = turn_map(placed.map, first.affine) if codes != expected else placed.map
    difference = describe_difference(grid, Grid(turned.array.shape, turned.affine), limit)
    where = f"{role} against {name}"
    if difference:
        prefix = "" if codes == expected else f"orientation is {codes}, expected {expected}; turned to it, "
        return _mismatch(placed, f"{where}: {prefix}{difference}", grid, turned, limit)
    if codes != expected:
        if ORIENTATION not in params.fix:
            what = f"orientation is {codes}, expected {expected}, and inspect.fix does not name {ORIENTATION}"
            return _with(
                placed, Finding("geometry_mismatch", f"{where}: {what}", measured=codes, limit=expected)
            )
        what = f"{where}: stored as {codes}, the image as {expected}; the same voxels, turned"
        finding = Finding("reoriented", what, False, codes, expected, fixed=True)
        fix = Fix(role, ORIENTATION, "axes", codes, expected, path.as_posix())
        placed = _with(replace(placed, map=turned), finding, fix)
    moved = corner_distance_mm(grid.shape, first.affine, turned.affine)
    if moved <= HEADER_NOISE_MM:
        return replace(placed, map=LabelMap(placed.map.array, first.affine))
    if HEADER not in params.fix:
        difference = describe_difference(grid, Grid(turned.array.shape, turned.affine), HEADER_NOISE_MM)
        what = f"{where}: {difference}, and inspect.fix does not name {HEADER}"
        return _mismatch(placed, what, grid, turned, HEADER_NOISE_MM)
    measured, text = f"{moved:.3g} mm", f"{TOLERANCE_KEY} = {limit:g}"
    what = f"{where}: corners lie up to {measured} apart, limit {text}; the image's affine counts"
    fix = Fix(role, HEADER, "affine", _text(turned.affine), _text(first.affine), path.as_posix())
    snapped = replace(placed, map=LabelMap(placed.map.array, first.affine))
    return _with(snapped, Finding("header_snapped", what, False, measured, text, fixed=True), fix)


def _mismatch(placed: PlacedMap, what: str, grid: Grid, turned: LabelMap, limit: float) -> PlacedMap:
    if turned.array.shape != grid.shape:
        measured, right = (" x ".join(map(str, shape)) for shape in (turned.array.shape, grid.shape))
    else:
        moved = corner_distance_mm(grid.shape, grid.affine, turned.affine)
        measured, right = f"{moved:.3g} mm", f"{TOLERANCE_KEY} = {limit:g}"
    reason = f"{what}, limit {TOLERANCE_KEY} = {limit:g}" if TOLERANCE_KEY not in what else what
    return _with(placed, Finding("geometry_mismatch", reason, measured=measured, limit=right))


def _with(placed: PlacedMap, finding: Finding, *fixes: Fix) -> PlacedMap:
    return PlacedMap(placed.map, (*placed.findings, finding), (*placed.fixes, *fixes))


def _text(affine: Affine) -> str:
    return " ".join(f"{float(v):.9g}" for v in np.asarray(affine)[:3].ravel())
