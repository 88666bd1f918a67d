"""A limit on memory is kept, shared and, where it is too low, named."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from small_bundle import PREDICT, write_ct_bundle
from torch.profiler import ProfilerActivity, profile

from pipeline import inference_memory
from pipeline.allocation import keep_freed_memory
from pipeline.bundle import load_bundle
from pipeline.errors import SegtrailError
from pipeline.inference_memory import (
    GB,
    PROCESS,
    CaseSize,
    Memory,
    choose_free_settings,
    choose_settings,
    list_settings,
    window_bytes,
)  # fmt: skip
from pipeline.io.sizes import unpacked_bytes
from pipeline.models.networks import build_network
from pipeline.plan import Plan
from pipeline.prediction import Predictor
from pipeline.topology import pooling
from pipeline.volume import Volume
from pipeline.windows import Setting

CPU = torch.device("cpu")
SINGLE = list_settings(CPU)[0]
LARGE = CaseSize(512 * 512 * 800 * 2, 512 * 512 * 800, (512, 512, 800))


def make_plan(folder: Path, classes: int, patch: tuple[int, int, int]) -> Plan:
    plan = load_bundle(write_ct_bundle(folder)).metadata.plan
    names = tuple(f"class_{i}" for i in range(classes))
    return plan.model_copy(
        update={"label_names": names, "label_values": tuple(range(classes)), "patch_size": patch}
    )


def test_sums_are_as_long_as_a_window(tmp_path: Path) -> None:
    """20 classes of 512 x 512 x 96 voxels in 4 and 2 bytes, not of all 800 slices."""
    plan = make_plan(tmp_path / "b", 20, (128, 128, 96))
    single, half = (window_bytes(LARGE, plan, 0.5, setting) for setting in list_settings(CPU))
    assert single - half == 20 * 512 * 512 * 96 * 2


@pytest.mark.parametrize("name", ["unet", "resunet"])
@pytest.mark.parametrize("patch", [(40, 56, 40), (192, 192, 1)])
def test_a_window_takes_no_more_than_is_reckoned_with(
    tmp_path: Path, name: str, patch: tuple[int, int, int]
) -> None:
    """Torch's own allocations against the part of the estimate that grows with the network."""
    strides, kernels = pooling(patch, (1, 1, 1))
    features = tuple(16 * 2**stage for stage in range(len(strides)))
    blocks = {"blocks": (1, 3, 4, 6, 6, 6)[: len(strides)]} if name == "resunet" else {}
    network = build_network(
        name, channels=1, classes=3, features=features, strides=strides, kernels=kernels,
        dimensions=2 if patch[2] == 1 else 3, **blocks,
    ).eval()  # fmt: skip
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        network(torch.zeros(1, 1, *patch))
    results = record.profiler.kineto_results if record.profiler else None
    changes = [event.nbytes() for event in results.events() if event.name() == "[memory]"] if results else []
    plan = make_plan(tmp_path / "b", 3, patch).model_copy(update={"features": features, "strides": strides})
    size = CaseSize(0, 0, patch)
    fixed = window_bytes(
        size, plan.model_copy(update={"features": (0,), "strides": strides[:1]}), 0.5, SINGLE
    )
    estimate = window_bytes(size, plan, 0.5, SINGLE) - fixed
    assert 0.4 * estimate < max(itertools.accumulate(changes)) < 1.1 * estimate


def test_a_lower_limit_chooses_smaller_sums_and_then_names_the_params(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "b", 20, (128, 128, 96))
    single, half = list_settings(CPU)
    settings, peak = choose_settings(LARGE, plan, 0.5, CPU, Memory(100), "ct")
    assert settings == [single, half]
    memory = Memory(100)
    memory.free_bytes = peak - 1
    assert choose_settings(LARGE, plan, 0.5, CPU, memory, "ct")[0] == [half]
    with pytest.raises(SegtrailError, match="GB of memory at least, the limit is 1.0 GB") as error:
        choose_settings(LARGE, plan, 0.5, CPU, Memory(1), "ct")
    assert "predict.memory_gb" in error.value.where
    for name in ("predict.memory_gb", "plan.spacing_mm", "plan.patch_size"):
        assert name in error.value.fix


def test_without_a_param_the_free_memory_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(tmp_path / "b", 20, (128, 128, 96))
    single, half = list_settings(CPU)
    peak = window_bytes(LARGE, plan, 0.5, single)

    def choose(free: int) -> list[Setting]:
        monkeypatch.setattr(inference_memory, "free_bytes", lambda: free)
        return choose_free_settings(LARGE, plan, 0.5, CPU, "ct")

    assert choose(peak) == choose(10 * peak) == [single, half]
    assert caplog.text == ""
    assert choose(peak - 1) == choose(0) == [half]
    assert "ct: 1 window(s) at once, sums of 16 bits" in caplog.text


def test_a_machine_that_is_too_small_is_named_instead_of_the_param(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """90 % of 4 GB are 3.6; sums of 16 bits take more, and those of 32 bits more still."""
    plan = make_plan(tmp_path / "b", 20, (128, 128, 96))
    single, half = (
        choose_settings(LARGE, plan, 0.5, CPU, Memory(limit), "ct")[1] + PROCESS for limit in (100, 6)
    )
    with pytest.raises(SegtrailError) as error:
        choose_settings(LARGE, plan, 0.5, CPU, Memory(100, machine_bytes=4 * GB), "ct")
    assert error.value.what.endswith("this machine or container allows 3.6 GB")
    assert error.value.where == "ct"
    need = math.ceil(half / GB / 0.9)
    assert error.value.fix.startswith(f"give the machine or container {need} GB, or a larger plan.spacing_mm")
    # Where the param is too low as well, both are named.
    with pytest.raises(SegtrailError) as error:
        choose_settings(LARGE, plan, 0.5, CPU, Memory(4, machine_bytes=4 * GB), "ct")
    assert f"{need} GB (and predict.memory_gb: {math.ceil(half / GB)})" in error.value.fix
    with caplog.at_level("INFO", logger="segtrail"):
        choose_settings(LARGE, plan, 0.5, CPU, Memory(100, machine_bytes=(single - 1) / 0.9), "ct")
    assert "to stay below what this machine or container allows" in caplog.text


def test_a_predictor_refuses_what_does_not_fit(tmp_path: Path) -> None:
    bundle = load_bundle(write_ct_bundle(tmp_path / "b"))
    predictor = Predictor(bundle, PREDICT.model_copy(update={"memory_gb": 0.5}), CPU, {})
    volume = Volume(np.zeros((1, 400, 400, 400), np.int8), np.eye(4))
    with pytest.raises(SegtrailError, match="the limit is 0.5 GB"):
        predictor.predict(volume, "case")


def test_cases_wait_for_room_unless_they_are_alone() -> None:
    memory = Memory(1)
    memory.free_bytes = 100
    order: list[str] = []

    def second() -> None:
        with memory.share() as hold:
            hold(60)
            order.append("second")

    with memory.share() as hold:
        hold(500)  # alone: whatever it takes
        hold(90)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first is smaller")
        hold(40)
        thread.join(10)
    assert order == ["first is smaller", "second"]


def test_bytes_of_a_packed_file_are_known_from_its_end(tmp_path: Path) -> None:
    voxels = np.zeros((40, 30, 20), np.int16)
    for name in ("a.nii.gz", "a.nii"):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / name)
        assert unpacked_bytes([tmp_path / name]) == 352 + voxels.nbytes
    assert unpacked_bytes([tmp_path]) == sum(p.stat().st_size for p in tmp_path.iterdir())
    for name in ("none.nii.gz", "none.h5#image", "none.hdr"):
        assert unpacked_bytes([tmp_path / name]) == 0


def test_what_other_formats_unpack_to_is_known_before_they_are_read(tmp_path: Path) -> None:
    voxels = np.zeros((40, 30, 20), np.float32)  # Z, Y, X; packed to almost nothing
    image = sitk.GetImageFromArray(voxels)
    for name in ("a.nrrd", "a.mha", "a.mhd"):
        sitk.WriteImage(image, tmp_path / name, useCompression=True)
        assert (tmp_path / name).stat().st_size < 3000
        assert unpacked_bytes([tmp_path / name]) == voxels.nbytes
    nibabel.save(nibabel.Nifti1Pair(voxels, np.eye(4)), tmp_path / "a.img")
    assert unpacked_bytes([tmp_path / "a.hdr"]) == 348 + voxels.nbytes
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=voxels, compression="gzip")
    assert unpacked_bytes([Path(f"{tmp_path / 'a.h5'}#image")]) == voxels.nbytes
    assert unpacked_bytes([Path(f"{tmp_path / 'a.h5'}#image[3]")]) == voxels.nbytes // 40


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone takes these settings")
def test_freed_memory_can_be_kept() -> None:
    assert keep_freed_memory()


LIMITED = """
import logging, resource, sys
import numpy as np, torch
from pathlib import Path
from pipeline.errors import SegtrailError
from pipeline.inference import predict_classes
from pipeline.inference_memory import list_settings
from test_inference_memory import make_plan

logging.basicConfig(format="%(message)s", stream=sys.stdout)
torch.set_num_threads(1)
plan = make_plan(Path(sys.argv[1]), 80, (32, 32, 32))
image = torch.randn(1, 200, 200, 200, generator=torch.Generator().manual_seed(0))
grid = ((200, 200, 200), np.eye(4))
table = torch.linspace(-1, 1, 80).view(1, 80, 1, 1, 1)
network = lambda windows: -(windows - table).abs()
settings = list_settings(torch.device("cpu"))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for room in (900, 460, 20):
    resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), -1))
    try:
        found = predict_classes(network, image, grid, plan, 0.0, "", settings, "case")
        print(room, "classes", len(np.unique(found.winner)))
        del found
    except SegtrailError as error:
        print(room, error)
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited by setrlimit")
def test_a_limited_address_space_is_backed_off_from(tmp_path: Path) -> None:
    """Sums of 80 classes, 32 x 200 x 200 voxels: 410 MB of 32 bits, 205 MB of 16; about 200 MB beside them."""
    here = Path(__file__).resolve()
    paths = (here.parents[2], here.parents[1], here.parent)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "b")], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.startswith(
        "900 classes 80\ncase: out of memory with 1 window(s) at once, sums of 32 bits"
    )
    assert "again with 1 window(s) at once, sums of 16 bits on cpu\n460 classes 80\n" in done.stdout
    assert "\n20 memory ran out with the smallest setting" in done.stdout
    advice = done.stdout.rpartition("fix:")[2]
    assert "plan.patch_size" in advice
    assert "predict.memory_gb" not in advice  # there is no more


def test_a_full_size_ct_stays_below_the_shipped_limit(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "b", 20, (128, 128, 96))
    settings, peak = choose_settings(LARGE, plan, 0.5, CPU, Memory(6), "ct")
    assert [setting.dtype for setting in settings] == [torch.float16]
    assert peak + PROCESS < 6 * GB


def test_further_networks_leave_less_for_the_cases() -> None:
    """Of 2 GB, libraries and one network take 0.8; four further ones of 50 MB another 0.2."""
    assert Memory(2.0, further_networks=200_000_000).free_bytes == 1_000_000_000
    assert Memory(2.0).free_bytes == 1_200_000_000
