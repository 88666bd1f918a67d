"""Axis order and geometry, against nibabel on arbitrary affines."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.volume import (
    axis_codes,
    corner_distance_mm,
    from_canonical,
    spacing_mm,
    to_canonical,
)


def rotation(axis: int, degrees: float) -> NDArray[np.float64]:
    """Rotation about one world axis."""
    first, second = [a for a in range(3) if a != axis]
    matrix = np.eye(3)
    angle = np.radians(degrees)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


@st.composite
def affines(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any orientation, oblique up to 20 degrees about each axis, anisotropic, either handedness."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 6.0)] * 3))
    matrix = np.eye(3)[:, list(order)] * signs
    for axis in range(3):
        matrix = rotation(axis, draw(st.floats(-20, 20))) @ matrix
    affine = np.eye(4)
    affine[:3, :3] = matrix * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


def test_canonical_of_an_lps_image_by_hand() -> None:
    """LPS with 2 x 3 x 4 mm: x and y are flipped, the origin moves to the other end of both axes."""
    affine = np.diag([-2.0, -3.0, 4.0, 1.0])
    affine[:3, 3] = [10, 20, 30]
    array = np.arange(24).reshape(2, 3, 4)
    out, new = to_canonical(array, affine)
    assert axis_codes(affine) == "LPS"
    np.testing.assert_array_equal(out, array[::-1, ::-1])
    np.testing.assert_array_equal(new, [[2, 0, 0, 8], [0, 3, 0, 14], [0, 0, 4, 30], [0, 0, 0, 1]])


def test_codes_name_the_direction_of_each_voxel_axis() -> None:
    """First axis to the back, second to the feet, third to the right."""
    affine = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    assert axis_codes(affine) == "PIR"


@settings(max_examples=100, deadline=None)
@given(affine=affines(), shape=st.tuples(*[st.integers(1, 5)] * 3))
def test_canonical_agrees_with_nibabel(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    expected = nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine))
    out, new = to_canonical(array, affine)
    assert axis_codes(affine) == "".join(nibabel.aff2axcodes(affine))
    assert axis_codes(new) == "RAS"
    np.testing.assert_array_equal(out, np.asarray(expected.dataobj))
    np.testing.assert_allclose(new, expected.affine, atol=1e-9)
    np.testing.assert_allclose(spacing_mm(affine), nibabel.affines.voxel_sizes(affine))


@settings(max_examples=100, deadline=None)
@given(affine=affines(), shape=st.tuples(*[st.integers(1, 4)] * 3), channels=st.integers(1, 3))
def test_from_canonical_undoes_to_canonical(
    affine: NDArray[np.float64], shape: tuple[int, int, int], channels: int
) -> None:
    array = np.arange(channels * np.prod(shape)).reshape(channels, *shape)
    out, _ = to_canonical(array, affine)
    np.testing.assert_array_equal(from_canonical(out, affine), array)


def test_no_voxel_moves_in_the_world() -> None:
    """A marked voxel has the same position in mm before and after."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(2, 20) @ np.eye(3)[:, [2, 0, 1]] * [-1.5, 0.8, 3]
    affine[:3, 3] = [5, -7, 11]
    array = np.zeros((3, 4, 5))
    array[2, 1, 3] = 1
    out, new = to_canonical(array, affine)
    moved = np.argwhere(out)[0]
    np.testing.assert_allclose(new @ [*moved, 1], affine @ [2, 1, 3, 1], atol=1e-12)


@pytest.mark.parametrize(("shift", "expected"), [((0, 0, 0), 0.0), ((3, 4, 0), 5.0)])
def test_corner_distance_of_a_shift_is_its_length(shift: tuple[int, ...], expected: float) -> None:
    second = np.eye(4)
    second[:3, 3] = shift
    assert corner_distance_mm((10, 10, 10), np.eye(4), second) == expected


def test_corner_distance_of_a_wrong_spacing_grows_with_the_volume() -> None:
    """0.01 mm a voxel over 100 steps is 1 mm at the far corner."""
    second = np.diag([1.01, 1, 1, 1])
    assert corner_distance_mm((101, 5, 5), np.eye(4), second) == pytest.approx(1.0)
