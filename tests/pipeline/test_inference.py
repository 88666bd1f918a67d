"""Windows, mirrors, and what is said when channels, numbers or memory do not suffice."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from known_networks import CPU, HALF, SINGLE, blurred, make_plan, predict, threshold

from pipeline.errors import SegtrailError
from pipeline.inference import is_out_of_memory, predict_classes, predict_logits
from pipeline.io.images import load_volume
from pipeline.plan import ChannelNormalization
from pipeline.preprocessing import prepare_volume
from pipeline.volume import Volume
from pipeline.windows import Setting


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
