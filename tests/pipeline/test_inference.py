"""Windows, mirrors and the way back to the source grid, with networks whose answer is known."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.errors import SegtrailError
from pipeline.inference import is_out_of_memory, predict_classes, predict_logits
from pipeline.inference_memory import list_settings
from pipeline.io.images import load_volume
from pipeline.plan import ChannelNormalization, Plan, RegionPlan
from pipeline.preprocessing import prepare_volume
from pipeline.volume import Volume, from_canonical, reorientation, spacing_mm
from pipeline.windows import Network, Setting, sum_windows

CPU = torch.device("cpu")
SINGLE, HALF = list_settings(CPU)


def make_plan(patch: tuple[int, int, int], spacing: tuple[float, float, float]) -> Plan:
    return Plan(
        dataset="x", channels=("CT",), label_names=("background", "bright"), label_values=(0, 1),
        dimensions=3, spacing_mm=spacing, patch_size=patch, batch_size=2, strides=((1, 1, 1),),
        kernels=((3, 3, 3),), features=(4,), reasons={}, n_cases=1,
        normalization=(ChannelNormalization(scheme="ct", low=-100, high=100, mean=0, std=100),),
    )  # fmt: skip


def threshold(image: torch.Tensor) -> torch.Tensor:
    """A network that calls bright what is above zero."""
    return torch.cat([-image, image], dim=1) * 10


def predict(
    network: Network, volume: Volume, plan: Plan, mirror: str = "", setting: Setting = SINGLE
) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Index and probability of the winner, slab by slab."""
    image = prepare_volume(volume, plan, "case")
    grid = volume.array.shape[1:], volume.affine
    found = predict_classes(network, image, grid, plan, 0.5, mirror, [setting], "case")
    return found.winner, found.probability


def predict_whole(network: Network, volume: Volume, plan: Plan, mirror: str = "") -> np.ndarray:  # type: ignore[type-arg]
    """Probabilities of all classes on the source grid, all at once."""
    logits = predict_logits(network, prepare_volume(volume, plan, "case"), plan, 0.5, mirror)
    axes, _ = reorientation(volume.affine)
    x, y, z = (volume.array.shape[1 + axis] for axis in axes)
    return from_canonical(
        interpolate(logits.softmax(dim=0)[None], (x, y, z), mode="trilinear")[0].numpy(), volume.affine
    )


def rotated_affine() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Left-posterior-superior, turned 20 degrees about the head axis, voxels of 1.5 x 2 x 4 mm."""
    turn = np.deg2rad(20)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.5, -2.0, 4.0])
    affine[:3, 3] = [11, -7, 3]
    return affine


def test_windows_cover_every_voxel_once_weighted() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 23, 17, 9, generator=generator)
    logits = predict_logits(threshold, image, make_plan((8, 8, 8), (1, 1, 1)), 0.5, mirror_axes="")
    torch.testing.assert_close(logits[1], image[0] * 10, rtol=1e-4, atol=1e-4)


def test_mirroring_a_symmetric_network_changes_nothing() -> None:
    image = torch.randn(1, 12, 10, 9, generator=torch.Generator().manual_seed(0))
    plan = make_plan((8, 8, 8), (1, 1, 1))
    plain = predict_logits(threshold, image, plan, 0.5, mirror_axes="")
    torch.testing.assert_close(
        predict_logits(threshold, image, plan, 0.5, mirror_axes="xyz"), plain, rtol=1e-4, atol=1e-4
    )


def test_mirroring_averages_over_all_eight_views() -> None:
    seen = []

    def record(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.clone())
        return threshold(image)

    predict_logits(record, torch.randn(1, 8, 8, 8), make_plan((8, 8, 8), (1, 1, 1)), 0.5, mirror_axes="xyz")
    assert len(seen) == 8
    assert len({float(view[0, 0, 0, 0, 0]) for view in seen}) == 8


@pytest.mark.parametrize("plan_spacing", [(1.5, 2.0, 4.0), (2.0, 2.0, 2.0), (1.0, 3.0, 5.0)])
def test_a_box_comes_back_to_its_place_on_an_oblique_grid(plan_spacing: tuple[float, float, float]) -> None:
    array = np.full((1, 30, 26, 14), -80.0, np.float32)
    array[0, 6:18, 4:16, 3:10] = 80
    volume = Volume(array, rotated_affine())
    assert spacing_mm(volume.affine) == pytest.approx((1.5, 2.0, 4.0))
    winner, probability = predict(threshold, volume, make_plan((16, 16, 16), plan_spacing))
    assert winner.shape == probability.shape == (30, 26, 14)
    assert probability.min() >= 0.5  # of two classes
    assert probability.max() <= 1 + 1e-6
    found, truth = winner == 1, array[0] > 0
    overlap = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert overlap > (0.999 if plan_spacing == (1.5, 2.0, 4.0) else 0.9)


def test_outside_is_air_for_ct() -> None:
    # A volume smaller than the window: the padding must not look like tissue.
    values = []

    def record(image: torch.Tensor) -> torch.Tensor:
        values.append(float(image[0, 0, 0, 0, 0]))
        return threshold(image)

    predict_logits(record, torch.zeros(1, 4, 4, 4), make_plan((8, 8, 8), (1, 1, 1)), 0.5, mirror_axes="")
    assert values == [pytest.approx(-1.0)]


def test_the_wrong_number_of_channels_is_one_clear_error() -> None:
    volume = Volume(np.zeros((2, 8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(SegtrailError, match=r"2 channel\(s\), the model wants 1: CT"):
        predict(threshold, volume, make_plan((8, 8, 8), (1, 1, 1)))


def test_not_a_number_is_refused() -> None:
    array = np.zeros((1, 8, 8, 8), np.float32)
    array[0, 1, 1, 1] = np.nan
    with pytest.raises(SegtrailError, match="1 voxels are NaN"):
        predict(threshold, Volume(array, np.eye(4)), make_plan((8, 8, 8), (1, 1, 1)))


def test_mirroring_keeps_to_the_axes_it_is_given() -> None:
    seen = []

    def record(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.clone())
        return threshold(image)

    image = torch.randn(1, 8, 8, 8)
    predict_logits(record, image, make_plan((8, 8, 8), (1, 1, 1)), 0.5, mirror_axes="x")
    assert len(seen) == 2
    assert torch.equal(seen[1], seen[0].flip(2))


def blurred(image: torch.Tensor) -> torch.Tensor:
    """Five classes that depend on the place in the window and on neighbours, as those of a network do."""
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(5, image.shape[1], 5, 5, 5, generator=generator)
    return torch.nn.functional.conv3d(image, kernel, padding=2)


SHAPES = [
    ((40, 30, 21), (2.0, 3.0, 1.5)),  # coarser and finer
    ((21, 40, 30), (1.5, 2.0, 4.0)),  # the plan's own spacing
    ((30, 21, 45), (0.9, 1.1, 9.0)),
    ((9, 40, 6), (1.5, 2.0, 4.0)),  # smaller than a window
]


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_slabs_say_what_the_whole_volume_says(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    array = np.random.default_rng(0).normal(0, 60, (1, *shape)).astype(np.float32)
    volume, plan = Volume(array, rotated_affine()), make_plan((16, 12, 8), spacing)
    whole = predict_whole(blurred, volume, plan, "xz")
    winner, probability = predict(blurred, volume, plan, "xz")
    two = np.sort(whole, axis=0)[-2:]
    clear = two[1] - two[0] > 1e-5
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(winner[clear], whole.argmax(axis=0)[clear])
    np.testing.assert_allclose(probability, whole.max(axis=0), atol=2e-6)


def test_sums_of_16_bits_differ_only_where_two_classes_are_nearly_equal() -> None:
    array = np.random.default_rng(0).normal(0, 60, (1, 40, 30, 21)).astype(np.float32)
    volume, plan = Volume(array, rotated_affine()), make_plan((16, 12, 8), (1.5, 2.0, 4.0))
    (winner, probability), (other, others) = (
        predict(blurred, volume, plan, setting=s) for s in (SINGLE, HALF)
    )
    assert (winner == other).mean() > 0.998
    np.testing.assert_allclose(others, probability, atol=0.01)


@pytest.mark.parametrize("windows", [1, 3, 5, 100])
def test_windows_at_once_change_nothing(windows: int) -> None:
    array = np.random.default_rng(0).normal(0, 60, (1, 20, 12, 40)).astype(np.float32)
    volume, plan = Volume(array, np.eye(4)), make_plan((12, 12, 8), (1, 1, 1))
    setting = Setting(windows, torch.float32, CPU, CPU)
    np.testing.assert_allclose(
        predict(blurred, volume, plan, setting=setting)[1], predict(blurred, volume, plan)[1], atol=1e-6
    )


@pytest.mark.parametrize(("patch", "overlap"), [((40, 16, 1), 0.5), ((8, 16, 8), 0.0)])
def test_windows_that_do_not_overlap_keep_to_themselves(patch: tuple[int, int, int], overlap: float) -> None:
    """Single slices, and windows side by side: nothing of one slab is left in the next."""
    image = torch.randn(1, 40, 16, 24, generator=torch.Generator().manual_seed(0))
    slabs = sum_windows(lambda windows: windows.clone(), image, patch, overlap, SINGLE)
    for slab in slabs:
        planes = image.narrow(slab.axis + 1, slab.first, slab.logits.shape[slab.axis + 1])
        torch.testing.assert_close(slab.logits, planes)


def test_an_image_of_one_slice_is_predicted_as_it_is() -> None:
    array = np.random.default_rng(0).normal(0, 60, (1, 50, 40, 1)).astype(np.float32)
    volume, plan = Volume(array, np.eye(4)), make_plan((16, 16, 1), (1, 1, 1))
    np.testing.assert_array_equal(predict(threshold, volume, plan)[0], array[0] > 0)


def test_memory_that_runs_out_is_answered_with_the_next_setting(caplog: pytest.LogCaptureFixture) -> None:
    """The allocator of the CPU itself refuses."""
    calls = []

    def greedy(image: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            torch.empty(1 << 60, dtype=torch.uint8)
        return threshold(image)

    image = torch.randn(1, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    plan, grid = make_plan((8, 8, 8), (1, 1, 1)), ((20, 20, 20), np.eye(4))
    with caplog.at_level("WARNING", logger="segtrail"):
        found = predict_classes(greedy, image, grid, plan, 0.5, "", [SINGLE, HALF], "case 7")
    np.testing.assert_array_equal(found.winner, image[0].numpy() > 0)
    assert "case 7: out of memory with 1 window(s) at once, sums of 32 bits" in caplog.text
    assert "again with 1 window(s) at once, sums of 16 bits" in caplog.text
    calls.clear()
    with pytest.raises(SegtrailError, match="smallest setting") as error:
        predict_classes(greedy, image, grid, plan, 0.5, "", [HALF], "case 7")
    assert error.value.fix.startswith("free memory, or raise plan.spacing_mm")  # no setting takes less
    calls.clear()
    on_device = Setting(1, torch.float32, torch.device("meta"), CPU)
    with pytest.raises(SegtrailError, match="smallest setting") as error:
        predict_classes(greedy, image, grid, plan, 0.5, "", [on_device], "case 7")
    assert "raise predict.memory_gb" in error.value.fix  # with more, sums could lie in main memory


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_who_says_that_memory_ran_out(error: Exception, wanted: bool) -> None:
    assert is_out_of_memory(error) is wanted


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(image: torch.Tensor) -> torch.Tensor:
        return torch.ones(2, 3) @ image[0, 0, 0]

    image, grid = torch.zeros(1, 8, 8, 8), ((8, 8, 8), np.eye(4))
    with pytest.raises(RuntimeError, match="size mismatch|shapes cannot be multiplied"):
        predict_classes(broken, image, grid, make_plan((8, 8, 8), (1, 1, 1)), 0.5, "", [SINGLE, HALF], "x")


def test_a_real_case_is_the_weighted_mean_of_its_windows(shared_data: Path) -> None:
    """The plain way: all classes and the sum of the weights as whole volumes."""
    image_path = sorted((shared_data / "Task04_Hippocampus" / "imagesTr").glob("hippo*.nii.gz"))[0]
    plan = make_plan((16, 12, 20), (1, 1, 1))
    plan = plan.model_copy(update={"normalization": (ChannelNormalization(scheme="zscore"),)})
    image = prepare_volume(load_volume([image_path]), plan, "case")
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in plan.patch_size]
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    total, weights = torch.zeros(5, *image.shape[1:]), torch.zeros(image.shape[1:])
    rows = [
        range(math.ceil((n - p) / (p / 2)) + 1) for n, p in zip(image.shape[1:], (16, 12, 20), strict=True)
    ]
    for place in product(*rows):
        first = [
            round(i * (n - p) / (len(row) - 1))
            for i, n, p, row in zip(place, image.shape[1:], plan.patch_size, rows, strict=True)
        ]
        cut = tuple(slice(f, f + p) for f, p in zip(first, plan.patch_size, strict=True))
        total[(slice(None), *cut)] += blurred(image[(slice(None), *cut)][None])[0] * weight
        weights[cut] += weight
    ours = predict_logits(blurred, image, plan, 0.5, "")
    torch.testing.assert_close(ours, total / weights, rtol=1e-4, atol=1e-3)


NESTED = (
    RegionPlan(name="whole", labels=(1, 2), paint=1),
    RegionPlan(name="core", labels=(2,), paint=2),
)


def two_thresholds(image: torch.Tensor) -> torch.Tensor:
    """A network that calls whole what is above zero, core what is above one half."""
    return torch.cat([image, image - 0.5], dim=1) * 4


@pytest.mark.parametrize("plan_spacing", [(1.5, 2.0, 4.0), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("setting", [SINGLE, HALF])
def test_regions_slab_by_slab_are_those_of_the_whole_volume(
    plan_spacing: tuple[float, float, float], setting: Setting
) -> None:
    array = np.random.default_rng(5).normal(0, 60, (1, 33, 29, 17)).astype(np.float32)
    volume = Volume(array, rotated_affine())
    plan = make_plan((16, 16, 16), plan_spacing).model_copy(
        update={
            "regions": NESTED,
            "label_names": ("background", "edema", "core"),
            "label_values": (0, 1, 2),
        }
    )
    winner, probability = predict(two_thresholds, volume, plan, setting=setting)
    logits = predict_logits(two_thresholds, prepare_volume(volume, plan, "case"), plan, 0.5, "")
    axes, _ = reorientation(volume.affine)
    x, y, z = (volume.array.shape[1 + axis] for axis in axes)
    resampled = interpolate(logits.sigmoid()[None], (x, y, z), mode="trilinear")[0].numpy()
    whole, core = from_canonical(resampled, volume.affine)
    sure = (np.abs(whole - 0.5) > 0.01) & (np.abs(core - 0.5) > 0.01)  # rounding apart
    assert sure.mean() > 0.9
    expected = np.where(core > 0.5, 2, np.where(whole > 0.5, 1, 0))
    np.testing.assert_array_equal(winner[sure], expected[sure])
    assert all((winner == index).mean() > 0.05 for index in range(3))
    shares = np.where(core > 0.5, core, np.where(whole > 0.5, whole, 1 - np.maximum(whole, core)))
    np.testing.assert_allclose(probability[sure], shares[sure], atol=0.01)
