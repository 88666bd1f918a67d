"""The closing validation: predictions on the reference's grid, and scores by the rules of the metrics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from training_jobs import cube_plan

from pipeline import inference_memory
from pipeline.closing_validation import (
    ClassScore,
    ValidationCase,
    load_prediction,
    load_table,
    save_table,
    stored_cases,
    summarise_scores,
    validate_cases,
    with_previous,
)
from pipeline.errors import SegtrailError
from pipeline.plan import RegionPlan
from pipeline.store import StoredCase, save_case

CPU = torch.device("cpu")
PLAN = cube_plan()


def bright(image: torch.Tensor) -> torch.Tensor:
    """Logits of a network that finds what is above 0."""
    return torch.cat([-10 * image, 10 * image], dim=1)


def cube(shape: tuple[int, int, int], low: int, high: int) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[low:high, low:high, low:high] = 1
    return label


def test_predictions_and_dice_on_one_grid(tmp_path: Path) -> None:
    """Reference 8 voxels wide, seen 6 wide within it: 2 * 216 / (512 + 216)."""
    reference, seen = cube((20, 18, 16), 4, 12), cube((20, 18, 16), 5, 11)
    image = torch.from_numpy(2.0 * seen - 1).float()[None]
    case = ValidationCase("a", image, reference)
    rows = validate_cases(bright, PLAN, [case], 1, "xyz", CPU, tmp_path / "out", fold=3)
    assert rows == [ClassScore("a", 3, "cube", pytest.approx(2 * 216 / (512 + 216)))]
    np.testing.assert_array_equal(load_prediction(tmp_path / "out", "a"), seen)


def test_a_coarser_image_is_judged_on_the_grid_of_the_reference(tmp_path: Path) -> None:
    """Half the resolution: where the cube ends on an edge of the coarse voxels, nothing is lost but corners."""
    reference = cube((32, 32, 32), 8, 24)
    image = torch.from_numpy(2.0 * cube((16, 16, 16), 4, 12) - 1).float()[None]
    case = ValidationCase("a", image, reference)
    (row,) = validate_cases(bright, PLAN, [case], 1, "", CPU, tmp_path)
    predicted = load_prediction(tmp_path, "a")
    assert predicted.shape == (32, 32, 32)
    expected = torch.nn.functional.interpolate(
        bright(image[None]).softmax(1), size=(32, 32, 32), mode="trilinear", align_corners=False
    )[0].argmax(0)
    np.testing.assert_array_equal(predicted, expected.numpy())
    both = int((predicted * reference).sum())
    assert row.dice == pytest.approx(2 * both / (int(predicted.sum()) + 16**3))
    assert row.dice > 0.97


def test_regions_are_painted_and_scored_in_place_of_classes(tmp_path: Path) -> None:
    """Whole (both classes) found as it is, core two voxels too narrow: 2 * 4^3 / (6^3 + 4^3)."""
    reference = cube((20, 18, 16), 3, 13) + cube((20, 18, 16), 5, 11)
    whole, core = cube((20, 18, 16), 3, 13), cube((20, 18, 16), 6, 10)
    image = torch.from_numpy(np.stack([whole, core])).float()
    regions = (
        RegionPlan(name="whole", labels=(1, 2), paint=1),
        RegionPlan(name="core", labels=(2,), paint=2),
    )
    normalization = PLAN.normalization * 2
    plan = PLAN.model_copy(
        update={
            "label_names": ("background", "rim", "core"),
            "regions": regions,
            "normalization": normalization,
        }
    )
    rows = validate_cases(
        lambda image: 20 * image - 10, plan, [ValidationCase("a", image, reference)], 1, "", CPU, tmp_path
    )
    assert rows == [ClassScore("a", 0, "whole", 1.0), ClassScore("a", 0, "core", pytest.approx(128 / 280))]
    assert set(summarise_scores(rows, list(plan.scored))) == {
        "dice", "whole/dice", "whole/dice_n", "core/dice", "core/dice_n",
    }  # fmt: skip


def test_memory_that_runs_out_names_what_a_training_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inference_memory, "free_bytes", lambda: 0)

    def greedy(image: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    reference = cube((20, 18, 16), 4, 12)
    case = ValidationCase("a", torch.zeros(1, 20, 18, 16), reference)
    nowhere, objects = np.zeros((0, 4), np.int16), (reference.astype(np.uint16), np.zeros(1, np.uint8))
    save_case(tmp_path, "a", StoredCase(case.image.numpy(), reference, nowhere, *objects))
    for attempt in (
        lambda: validate_cases(greedy, PLAN, [case], 1, "", CPU, tmp_path / "out"),
        lambda: list(with_previous([case], greedy, PLAN, tmp_path, "", CPU)),
    ):
        caplog.clear()
        with pytest.raises(SegtrailError, match="a, closing validation") as caught:
            attempt()
        assert "predict.memory_gb" not in str(caught.value) and "plan.patch_size" in caught.value.fix
        # With nothing free the setting of 32 bits is not even tried.
        assert "out of memory with 1 window(s) at once, sums of 16 bits" in caplog.text
        assert "32 bits" not in caplog.text


def test_cases_of_a_store(tmp_path: Path) -> None:
    label = cube((10, 9, 8), 2, 5)
    image = np.arange(720, dtype=np.float16).reshape(1, 10, 9, 8)
    objects = label.astype(np.uint16), np.array([0, 1], np.uint8)
    save_case(tmp_path, "a", StoredCase(image, label, np.zeros((0, 4), np.int16), *objects))
    (case,) = stored_cases(tmp_path, ["a"])
    assert case.image.dtype == torch.float32
    np.testing.assert_array_equal(case.image.numpy(), image)
    np.testing.assert_array_equal(case.reference, label)


ROWS = [
    ClassScore("b", 0, "x", 0.5),
    ClassScore("b", 0, "y", math.nan),
    ClassScore("a", 1, "x", 1.0),
    ClassScore("a", 1, "y", 0.25),
]


def test_means_leave_out_what_is_not_defined_and_count_it() -> None:
    """x: (0.5 + 1) / 2, y: 0.25 of one case; their mean 0.5."""
    assert summarise_scores(ROWS, ["x", "y", "z"]) == {
        "dice": 0.5, "x/dice": 0.75, "x/dice_n": 2, "y/dice": 0.25, "y/dice_n": 1, "z/dice": None, "z/dice_n": 0,
    }  # fmt: skip
    assert summarise_scores([], ["x"]) == {"dice": None, "x/dice": None, "x/dice_n": 0}


def test_the_table_comes_back(tmp_path: Path) -> None:
    save_table(ROWS, tmp_path / "validation.csv")
    text = (tmp_path / "validation.csv").read_text()
    assert text.splitlines() == ["case_id,fold,class,dice", "a,1,x,1.0", "a,1,y,0.25", "b,0,x,0.5", "b,0,y,"]
    back = load_table(tmp_path / "validation.csv")
    assert back[:3] == [ROWS[2], ROWS[3], ROWS[0]]
    assert math.isnan(back[3].dice)


def test_a_damaged_prediction_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    for case_id in ("a", "b"):
        with pytest.raises(SegtrailError, match="closing prediction"):
            load_prediction(tmp_path, case_id)
