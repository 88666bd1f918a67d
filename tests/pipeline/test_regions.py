"""Regions from label maps and back: three voxels by hand, then any nested regions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import RegionPlan
from pipeline.regions import paint_regions, to_region_masks

NESTED = (
    RegionPlan(name="whole", labels=(1, 2, 3), paint=2),
    RegionPlan(name="core", labels=(1, 3), paint=1),
    RegionPlan(name="enhancing", labels=(3,), paint=3),
)


def test_three_voxels_by_hand() -> None:
    # Oedema, necrosis, enhancing: only the first is outside of the core, only the last is in all three.
    label = torch.tensor([2, 1, 3], dtype=torch.uint8).reshape(1, 3, 1, 1)
    masks = to_region_masks(label, NESTED)
    assert masks.shape == (1, 3, 3, 1, 1)
    assert masks.flatten(2)[0].tolist() == [[True, True, True], [False, True, True], [False, False, True]]


def test_painting_by_hand() -> None:
    probabilities = torch.tensor(
        [
            [0.9, 0.9, 0.8, 0.2, 0.5],  # whole
            [0.1, 0.7, 0.6, 0.4, 0.5],  # core
            [0.1, 0.4, 0.9, 0.1, 0.5],  # enhancing
        ]
    )
    value, index = paint_regions(probabilities, NESTED)
    assert index.dtype == torch.uint8
    # The last voxel: one half is not more likely than not.
    assert index.tolist() == [2, 1, 3, 0, 0]
    torch.testing.assert_close(value, torch.tensor([0.9, 0.7, 0.9, 0.6, 0.5]))


def test_a_later_region_paints_over_an_earlier_one_that_does_not_hold_it() -> None:
    value, index = paint_regions(torch.tensor([[0.1], [0.2], [0.8]]), NESTED)
    assert (index.tolist(), value.tolist()) == ([3], torch.tensor([0.8]).tolist())


@st.composite
def nested_regions(draw: st.DrawFn) -> tuple[RegionPlan, ...]:
    """Regions that lose one class each, largest first: nested, and each class is painted by one."""
    order = draw(st.permutations(range(1, 1 + draw(st.integers(1, 8)))))
    return tuple(RegionPlan(name=str(i), labels=tuple(order[i:]), paint=order[i]) for i in range(len(order)))


@given(nested_regions(), st.integers(0, 2**32 - 1))
def test_painting_the_regions_of_a_label_map_gives_it_back(
    regions: tuple[RegionPlan, ...], seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, len(regions) + 1, (1, 5, 4, 3)).astype(np.uint8)
    masks = to_region_masks(torch.from_numpy(array), regions)
    value, index = paint_regions(masks[0].float(), regions)
    np.testing.assert_array_equal(index.numpy(), array[0])
    assert bool((value == 1).all())
    for region, mask in zip(regions, masks[0].numpy(), strict=True):
        np.testing.assert_array_equal(mask, np.isin(array[0], region.labels))
