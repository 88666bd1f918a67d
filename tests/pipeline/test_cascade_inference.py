"""A cascade predicts on two grids, in slabs as in one piece, within the memory it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bundle import PREDICT, write_cascade_bundle, write_ct_bundle
from torch.nn.functional import interpolate

from pipeline.bundle import load_bundle
from pipeline.errors import SegtrailError
from pipeline.inference import predict_classes, predict_logits
from pipeline.inference_memory import CaseSize, cascade_bytes, list_settings, window_bytes
from pipeline.models.cascade import Cascade
from pipeline.prediction import Predictor
from pipeline.preprocessing import prepare_volume
from pipeline.volume import Volume
from pipeline.windows import Setting

CPU = torch.device("cpu")
SINGLE, HALF = list_settings(CPU)


def reads_previous(image: torch.Tensor) -> torch.Tensor:
    """Logits that say what the last channel holds, of classes 0, 1 and 2."""
    return torch.stack([(image[:, -1] == label).float() * 20 for label in range(3)], dim=1)


@pytest.mark.parametrize("shape", [(21, 9, 30), (5, 6, 7)])
@pytest.mark.parametrize("mirror", ["", "xz"])
@pytest.mark.parametrize("windows", [1, 4])
def test_the_earlier_map_lies_under_its_windows(
    tmp_path: Path, shape: tuple[int, int, int], mirror: str, windows: int
) -> None:
    """Also where the case is smaller than a window, and where windows are turned: it comes out as it went in."""
    plan = load_bundle(write_ct_bundle(tmp_path / "b")).metadata.plan
    plan = plan.model_copy(update={"patch_size": (8, 8, 8)})
    previous = torch.from_numpy(np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8))
    image, setting = torch.zeros(1, *shape), Setting(windows, torch.float32, CPU, CPU)
    found = predict_classes(
        reads_previous, image, (shape, np.eye(4)), plan, 0.5, mirror, [setting], "case", previous
    )
    np.testing.assert_array_equal(found.winner, previous)
    logits = predict_logits(reads_previous, image, plan, 0.5, mirror, previous=previous)
    assert torch.equal(logits.argmax(dim=0).byte(), previous)


def volume() -> Volume:
    """Left-posterior-superior, voxels of 1 x 1.5 x 2 mm."""
    generator = np.random.default_rng(5)
    voxels = generator.normal(50, 200, (1, 52, 40, 34)).astype(np.int16)
    return Volume(voxels, np.diag([-1.0, -1.5, 2.0, 1.0]))


def predict_plainly(bundle: Path, mirror: str) -> np.ndarray:  # type: ignore[type-arg]
    """Both networks over the whole volume, all classes at once, by torch's own resampling."""
    loaded = load_bundle(bundle)
    cascade, plan, low_plan = loaded.build(CPU), loaded.metadata.plan, loaded.metadata.low_plan
    assert isinstance(cascade, Cascade)
    assert low_plan is not None
    image, low = (prepare_volume(volume(), p, "case") for p in (plan, low_plan))
    coarse = predict_logits(cascade.low, low, low_plan, 0.5, mirror).softmax(dim=0)
    previous = interpolate(coarse[None], image.shape[1:], mode="trilinear")[0].argmax(dim=0)
    assert len(previous.unique()) == 3
    logits = predict_logits(cascade.full, image, plan, 0.5, mirror, previous=previous).softmax(dim=0)
    source = interpolate(logits[None], volume().array.shape[1:], mode="trilinear")[0].argmax(dim=0)
    return np.array(plan.label_values)[source.flip(0, 1).numpy()]


@pytest.mark.parametrize("mirror", ["none", "x"])
def test_a_bundle_of_two_networks_predicts_in_slabs_what_it_does_in_one_piece(
    tmp_path: Path, mirror: str
) -> None:
    write_cascade_bundle(tmp_path / "b")
    params = PREDICT.model_copy(update={"mirror": mirror})
    predictor = Predictor(load_bundle(tmp_path / "b"), params, CPU, {})
    found = predictor.predict(volume(), "case").label_map.array
    expected = predict_plainly(tmp_path / "b", mirror.replace("none", ""))
    assert len(np.unique(expected)) == 3
    # Where two classes are equal up to rounding either may win.
    assert (found != expected).mean() < 2e-4


def test_the_second_network_sees_what_the_first_one_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a second network that only repeats, the cascade is its first network."""
    write_cascade_bundle(tmp_path / "b")
    loaded = load_bundle(tmp_path / "b")
    predictor = Predictor(loaded, PREDICT, CPU, {})
    assert isinstance(predictor.network, Cascade)
    predictor.network.full.forward = reads_previous  # type: ignore[method-assign]
    low = loaded.metadata.low_plan
    assert low is not None
    image, full = prepare_volume(volume(), low, ""), prepare_volume(volume(), loaded.metadata.plan, "")
    settings = [SINGLE]
    shape = tuple(full.shape[1:])
    first = predict_classes(
        predictor.network.low, image, (shape, np.eye(4)), low, 0.5, "", settings, "case"
    ).winner
    grid = volume().array.shape[1:], volume().affine
    plan = loaded.metadata.plan
    repeated = predict_classes(
        reads_previous, full, grid, plan, 0.5, "", settings, "", torch.from_numpy(first)
    )
    found = predictor.predict(volume(), "case").label_map.array
    np.testing.assert_array_equal(found, np.array(plan.label_values)[repeated.winner])


@pytest.fixture
def cascade(tmp_path: Path) -> Iterator[Predictor]:
    yield Predictor(load_bundle(write_cascade_bundle(tmp_path / "b")), PREDICT, CPU, {})


def test_memory_of_a_cascade_by_hand(cascade: Predictor) -> None:
    """512 x 512 x 512 voxels of one channel, on the coarse grid 128^3; windows of 16^3, 3 classes."""
    plan, low = cascade.plan, cascade.low_plan
    assert low is not None
    voxels = 512**3
    size = CaseSize(2 * voxels, voxels, (512, 512, 512))
    second = window_bytes(size, plan, 0.5, SINGLE) + voxels + 4 * 16**3 * (1 + 2 * 3)
    assert cascade_bytes(size, (128, 128, 128), plan, low, 0.5, SINGLE) == second
    # With 20 classes on a grid as fine as that of the second network the first one takes more: its sums are as
    # large, and the image of the second waits.
    many = {"label_values": tuple(range(20)), "label_names": tuple(map(str, range(20)))}
    wide, wide_low = plan.model_copy(update=many), low.model_copy(update=many)
    first = window_bytes(CaseSize(6 * voxels, voxels, (512, 512, 512)), wide_low, 0.5, SINGLE)
    assert cascade_bytes(size, (512, 512, 512), wide, wide_low, 0.5, SINGLE) == first


def test_a_cascade_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle(write_cascade_bundle(tmp_path / "b"))
    small = Predictor(bundle, PREDICT.model_copy(update={"memory_gb": 0.5}), CPU, {})
    with pytest.raises(SegtrailError, match="the limit is 0.5 GB"):
        small.predict(Volume(np.zeros((1, 200, 200, 200), np.int8), np.eye(4)), "case")
