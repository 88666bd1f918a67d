"""The built-in data set: CT-like volumes of a thorax with lung nodules, made from a seed.

A case is a function of the phantom's params, its seed and the number of the case, and of nothing else: more
cases leave the earlier ones as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.config import PhantomParams
from pipeline.errors import SegtrailError
from pipeline.phantom_anatomy import Box, Field, Thorax, WorldGrid, draw_thorax
from pipeline.phantom_nodules import (
    LARGEST_MM,
    SMALLEST_MM,
    Nodule,
    draw_nodules,
    nodule_distance,
    paint_nodule,
)
from pipeline.phantom_scan import SITES, acquire, draw_scan, sample_grid, smooth_noise, to_orientation
from pipeline.phantom_tissue import BLOOD_HU, coverage, draw_body, paint
from pipeline.phantom_vessels import Vessels, draw_vessels, vessel_share
from pipeline.volume import Affine, Instance, Instances, LabelMap, Volume

NODULE = 1
SMALLEST_FIELD_MM = 90.0


@dataclass(frozen=True)
class PhantomCase:
    """One finished case.

    Attributes:
        case_id: Such as "phantom_012".
        patient_id: Such as "p012".
        site: A key of `SITES`.
        volume: (1, X, Y, Z) int16 HU.
        label_map: uint8, 1 = nodule.
        instances: uint8, ids 1..n by falling volume.
        nodules: What was drawn; those that no voxel shows included.
        lung: (X, Y, Z) bool, the lungs with all that is in them.
    """

    case_id: str
    patient_id: str
    site: str
    volume: Volume
    label_map: LabelMap
    instances: Instances
    nodules: tuple[Nodule, ...]
    lung: NDArray[np.bool_]


def patient_number(index: int) -> int:
    """Patient of a case: one in eight cases is the second scan of the patient before it."""
    return index - 1 if index % 8 == 5 else index


def case_names(index: int) -> tuple[str, str, str]:
    """case_id, patient_id and site of a case."""
    patient = patient_number(index)
    return f"phantom_{index:03d}", f"p{patient:03d}", list(SITES)[patient % len(SITES)]


def make_case(params: PhantomParams, index: int) -> PhantomCase:
    """Makes one case.

    Args:
        params: The section `phantom`; `cases` has no influence.
        index: Number of the case, from 0.

    Raises:
        SegtrailError: The volume is too small for a thorax.
    """
    check_field(params)
    case_id, patient_id, site = case_names(index)
    thorax, vessels, nodules, zoom = _draw_patient(params, index)
    # Three streams: what one of them draws more or less does not shift the others.
    taking, tissue, noise = np.random.default_rng([params.seed % 2**64, index, 1]).spawn(3)
    scan = draw_scan(taking, params, zoom, site)
    if index != patient_number(index):
        nodules = [_grown(taking, nodule) for nodule in nodules]
    grid = sample_grid(scan.shape, scan.affine)
    hu, pleura = _draw_inside(tissue, thorax, vessels, nodules, grid)
    image = acquire(noise, hu, scan, params.noise_hu)
    ids = _draw_ids(nodules, grid, pleura)
    stored, affine = to_orientation(np.stack([image, ids, pleura < 0]), scan.affine, scan.orientation)
    return PhantomCase(
        case_id,
        patient_id,
        site,
        Volume(stored[:1].astype(np.int16), affine),
        LabelMap((stored[1] > 0).astype(np.uint8), affine),
        _instances(stored[1].astype(np.uint8), affine),
        tuple(nodules),
        stored[2].astype(bool),
    )


def check_field(params: PhantomParams) -> None:
    """Refuses a volume that no thorax fits into.

    Raises:
        SegtrailError: Width, depth or height is below `SMALLEST_FIELD_MM`.
    """
    wide, deep, high = (n * s for n, s in zip(params.shape, params.spacing_mm, strict=True))
    if min(wide, deep, high) < SMALLEST_FIELD_MM:
        raise SegtrailError(
            f"shape x spacing_mm is {wide:g} x {deep:g} x {high:g} mm, each must be at least "
            f"{SMALLEST_FIELD_MM:g} mm to hold a thorax",
            "params.yaml: phantom.shape, phantom.spacing_mm",
            "make phantom.shape or phantom.spacing_mm larger",
        )


def _draw_patient(params: PhantomParams, index: int) -> tuple[Thorax, Vessels, list[Nodule], float]:
    """Body, vessels and nodules of the patient, and the factor of the voxel size in the axial plane."""
    rng = np.random.default_rng([params.seed % 2**64, patient_number(index)])
    zoom = float(rng.uniform(0.83, 1.17))  # as on a scanner, the matrix stays and the voxel fits the patient
    wide, deep, high = (n * s for n, s in zip(params.shape, params.spacing_mm, strict=True))
    thorax = draw_thorax(rng, (wide * zoom, deep * zoom, high))
    vessels = draw_vessels(rng, thorax)
    return thorax, vessels, draw_nodules(rng, thorax, vessels), zoom


def _grown(rng: np.random.Generator, nodule: Nodule) -> Nodule:
    """The nodule at the second scan of a patient: somewhat larger or smaller."""
    size = nodule.diameter_mm * rng.uniform(0.92, 1.15)
    return replace(nodule, diameter_mm=float(np.clip(size, SMALLEST_MM, LARGEST_MM)))


def _draw_inside(
    rng: np.random.Generator, thorax: Thorax, vessels: Vessels, nodules: Sequence[Nodule], grid: WorldGrid
) -> tuple[Field, Field]:
    """The patient without blur and noise: HU, and the distance to the pleura in mm."""
    texture = smooth_noise(rng, grid.x.shape, 1.8)
    hu, pleura = draw_body(thorax, grid, texture)
    paint(hu, vessel_share(vessels, grid) * coverage(pleura, grid.voxel_mm), BLOOD_HU)
    for nodule in nodules:
        paint_nodule(hu, nodule, grid, pleura, texture)
    return hu, pleura


def _draw_ids(nodules: Sequence[Nodule], grid: WorldGrid, pleura: Field) -> Field:
    """Map of nodules, 1..n by falling volume: voxels whose centre lies in the nodule and in the lung."""
    found: list[tuple[Box, NDArray[np.bool_]]] = []
    taken = np.zeros(grid.x.shape, dtype=bool)
    for nodule in sorted(nodules, key=lambda n: -n.diameter_mm):
        box = grid.box(nodule.centre_mm, [1.8 * nodule.radius_mm + 2.0] * 3)
        distance = nodule_distance(nodule, grid.crop(box))
        if distance.size == 0 or distance.min() > grid.voxel_mm:
            continue  # outside of the volume
        # The nearest voxel always counts: a small nodule may lie between the centres of coarse voxels.
        inside = distance <= max(0.0, float(distance.min()))
        mask = _largest_part(inside & (pleura[box] < 0) & ~taken[box])
        taken[box] |= ndimage.binary_dilation(mask, np.ones((3, 3, 3)))  # two nodules never touch
        if mask.any():
            found.append((box, mask))
    ids = np.zeros(grid.x.shape, dtype=np.float32)
    for number, (box, mask) in enumerate(sorted(found, key=lambda item: -int(item[1].sum())), 1):
        ids[box][mask] = number
    return ids


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest face-connected part; a voxel at the tip of a bump may hang on by an edge alone."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def _instances(ids: NDArray[np.uint8], affine: Affine) -> Instances:
    """Records of the drawn nodules; as references they score 1."""
    items = []
    for number, box in enumerate(ndimage.find_objects(ids), 1):
        index = np.argwhere(ids == number)
        centre = affine[:3, :3] @ index.mean(axis=0) + affine[:3, 3]
        corners = tuple(s.start for s in box), tuple(s.stop for s in box)
        place = (float(centre[0]), float(centre[1]), float(centre[2]))
        items.append(Instance(number, NODULE, 1.0, len(index), place, corners))
    return Instances(ids, affine, tuple(items))
