"""A limit on memory is kept, shared and, where it is too low, named."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from small_bundle import PREDICT, write_ct_bundle

from pipeline.allocation import keep_freed_memory
from pipeline.bundle import load_bundle
from pipeline.errors import SegtrailError
from pipeline.inference_memory import (
    GB,
    PROCESS,
    CaseSize,
    Memory,
    choose_settings,
    list_settings,
    window_bytes,
)  # fmt: skip
from pipeline.io.sizes import unpacked_bytes
from pipeline.plan import Plan
from pipeline.prediction import Predictor
from pipeline.volume import Volume

CPU = torch.device("cpu")
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
    assert unpacked_bytes([tmp_path / "none.nii.gz"]) == 0


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
    assert "predict.memory_gb" in done.stdout.rpartition("fix:")[2]


def test_a_full_size_ct_stays_below_the_shipped_limit(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "b", 20, (128, 128, 96))
    settings, peak = choose_settings(LARGE, plan, 0.5, CPU, Memory(6), "ct")
    assert [setting.dtype for setting in settings] == [torch.float16]
    assert peak + PROCESS < 6 * GB
