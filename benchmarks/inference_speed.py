"""Prediction from file to file: Segtrail against nnU-Net v2 with the same network, weights, windows and mirrors.

    .venv/bin/python benchmarks/inference_speed.py HIPPOCAMPUS [--only small|ct] [--repeats 1]
    .venv/bin/python benchmarks/inference_speed.py --memory

HIPPOCAMPUS is `Task04_Hippocampus`. Cases: 40 of its volumes (about 36 x 50 x 35, mirrored along all axes) and a
synthetic CT of 512 x 512 x 300 (mirrored along x, because eight views of it take an hour). Both predict on the
CPU with step 0.5 and their defaults otherwise; Segtrail also writes objects, an overlay and a record of each case.
The grids have the plan's spacing, so nothing is resampled: the two resample differently. Seconds are from loading
the model to the last file, without imports; memory is the peak of what all processes together hold for themselves,
and what the largest one shares. `--memory` predicts a CT of 512 x 512 x 800 with 20 classes and prints the peak.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from inference_networks import build_peer, train_bundle, write_ct
from nnunet_peer import VERSION, peer_environment, peer_python
from preset_quality import describe_machine

from pipeline.io.images import load_label_map, load_volume
from pipeline.plan import ChannelNormalization, Plan
from pipeline.volume import LabelMap

HOME = Path(".segtrail/benchmarks/inference")
SMALL_CASES, TRAINING_CASES = 40, 60
PREDICT = """
import sys, time
from pathlib import Path
from flows.predict import predict_inputs
from flows.stage import show_progress
show_progress()
started = time.monotonic()
code = predict_inputs([Path(sys.argv[1])], Path(sys.argv[2]), sys.argv[3], "cpu")
print(f"seconds {time.monotonic() - started:.3f}")
sys.exit(code)
"""


def make_plan(classes: int, patch: tuple[int, int, int], features: tuple[int, ...], scheme: str) -> Plan:
    strides = ((1, 1, 1), *((2, 2, 2),) * (len(features) - 1))
    how = (
        ChannelNormalization(scheme="ct", low=-1000, high=700, mean=0, std=250)
        if scheme == "ct"
        else ChannelNormalization(scheme="zscore")
    )
    return Plan(
        dataset="inference", channels=("x",), label_values=tuple(range(classes)),
        label_names=("background", *(f"class_{i}" for i in range(1, classes))), dimensions=3,
        spacing_mm=(1, 1, 1), patch_size=patch, batch_size=2, strides=strides,
        kernels=((3, 3, 3),) * len(features), features=features, normalization=(how,), reasons={}, n_cases=1,
    )  # fmt: skip


def prepare_small(raw: Path) -> None:
    """Bundle and images of the hippocampus cases."""
    if (HOME / "small/bundle/bundle.json").exists():
        return
    shutil.rmtree(HOME / "small", ignore_errors=True)
    files = sorted(p for p in (raw / "imagesTr").glob("hippocampus_*.nii.gz"))
    (HOME / "small/images").mkdir(parents=True)
    for path in files[:SMALL_CASES]:
        name = path.name.replace(".nii.gz", "_0000.nii.gz")
        shutil.copyfile(path, HOME / "small/images" / name)
    training = [
        (load_volume([path]), load_label_map(raw / "labelsTr" / path.name))
        for path in files[-TRAINING_CASES:]
    ]
    plan = make_plan(3, (40, 56, 40), (16, 32, 64, 128), "zscore")
    train_bundle(HOME / "small/bundle", plan, training, 120, plan.patch_size)


def prepare_ct(name: str, shape: tuple[int, int, int], classes: int, patch: tuple[int, int, int]) -> None:
    """Bundle and image of a synthetic CT."""
    if (HOME / name / "bundle/bundle.json").exists():
        return
    shutil.rmtree(HOME / name, ignore_errors=True)
    (HOME / name / "images").mkdir(parents=True)
    path = HOME / name / "training.nii.gz"
    labels = write_ct(path, (160, 160, 160), classes, 1)
    plan = make_plan(classes, patch, (8, 16, 32, 64), "ct")
    case = (load_volume([path]), LabelMap(labels, np.eye(4)))
    train_bundle(HOME / name / "bundle", plan, [case], 100, (64, 64, 64))
    write_ct(HOME / name / "images/ct_0000.nii.gz", shape, classes, 2)


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that a command prints, and the peak memory of it and its children in GB."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            own, shared = 0, 0
            for one in _family(process.pid):
                try:
                    memory = one.memory_info()
                except psutil.Error:
                    continue
                own += memory.rss - memory.shared
                shared = max(shared, memory.shared)
            peak = max(peak, (own + shared) / 1e9)
            time.sleep(1)  # looking costs: on two cores a quarter of a second took a third of one

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = process.communicate()[0]
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[1]} failed:\n{said}")
    seconds = next(line for line in reversed(said.splitlines()) if line.startswith("seconds "))
    return float(seconds.split()[1]), peak


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def own_environment(folder: Path, **changes: str) -> dict[str, str]:
    """Environment of Segtrail's run; changed params lie in a folder that `predict_inputs` works in."""
    lines = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    for key, value in changes.items():
        lines = [f"  {key}: {value}" if line.startswith(f"  {key}:") else line for line in lines]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {**default_environment(), "PYTHONPATH": str(Path.cwd()), "SEGTRAIL_BENCHMARK": str(folder)}


def default_environment() -> dict[str, str]:
    """This environment without settings of OpenMP: each program has its own defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}


def run_segtrail(name: str, **changes: str) -> tuple[float, float]:
    environment = own_environment(HOME / name / "project", **changes)
    output = (HOME / name / "segtrail").absolute()
    shutil.rmtree(output, ignore_errors=True)
    code = f"import os; os.chdir(os.environ['SEGTRAIL_BENCHMARK'])\n{PREDICT}"
    paths = [str((HOME / name / part).absolute()) for part in ("images", "segtrail", "bundle")]
    return run([sys.executable, "-c", code, *paths], environment)


def run_nnunet(name: str) -> tuple[float, float]:
    output = HOME / name / "nnunet_output"
    shutil.rmtree(output, ignore_errors=True)
    environment = {**peer_environment(HOME / name / "nnunet")}
    environment = {key: value for key, value in environment.items() if not key.startswith("OMP_")}
    script = str(Path(__file__).with_name("nnunet_predict.py"))
    paths = [str((HOME / name / part).absolute()) for part in ("peer", "images", "nnunet_output")]
    return run([str(peer_python()), script, "predict", *paths], environment)


def compare(name: str) -> tuple[float, float]:
    """Share of voxels with the same label, and mean Dice of the foreground of both."""
    same, total, dices = 0, 0, []
    for path in sorted((HOME / name / "nnunet_output").glob("*.nii.gz")):
        case = path.name.removesuffix(".nii.gz")
        theirs = load_label_map(path).array
        ours = load_label_map(HOME / name / "segtrail" / f"{case}_0000_labels.nii.gz").array
        same += int((ours == theirs).sum())
        total += ours.size
        both = int(((ours > 0) & (theirs > 0)).sum())
        dices.append(2 * both / max(int((ours > 0).sum()) + int((theirs > 0).sum()), 1))
    return same / total, statistics.mean(dices)


def benchmark(name: str, title: str, mirror: str, repeats: int) -> None:
    if not (HOME / name / "peer/fold_0/checkpoint_final.pth").exists():
        shutil.rmtree(HOME / name / "peer", ignore_errors=True)
        difference = build_peer(HOME / name / "bundle", HOME / name / "peer", mirror)
        print(f"{title}: logits of both networks differ by {difference:.1e} at most")
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(run_segtrail(name, mirror=mirror))
        theirs.append(run_nnunet(name))
    for label, index, unit in (("time", 0, "s"), ("peak memory", 1, "GB")):
        first, second = ([value[index] for value in values] for values in (ours, theirs))
        ratio = statistics.median(second) / statistics.median(first)
        print(
            f"| {title} | {label} | {_text(first)} {unit} | {_text(second)} {unit} | {ratio:.2f} |",
            flush=True,
        )
    same, dice = compare(name)
    print(
        f"| {title} | equal voxels | {100 * same:.3f} % | foreground Dice of both {dice:.5f} | |", flush=True
    )


def _text(values: list[float]) -> str:
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", nargs="?", type=Path, help="folder Task04_Hippocampus")
    parser.add_argument("--only", choices=("small", "ct"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="512 x 512 x 800, 20 classes")
    parser.add_argument("--prepare", action="store_true", help="make data and weights, measure nothing")
    arguments = parser.parse_args()
    if arguments.memory:
        prepare_ct("large", (512, 512, 800), 20, (128, 128, 96))
        if not arguments.prepare:
            # A network that was trained for a minute finds specks by the hundred thousand.
            seconds, peak = run_segtrail("large", mirror="none", min_component_mm3="100.0")
            print(f"CT 512 x 512 x 800, 20 classes: peak {peak:.2f} GB, {seconds:.0f} s")
        return
    if arguments.only != "ct":
        if arguments.raw is None:
            parser.error("give the folder Task04_Hippocampus")
        prepare_small(arguments.raw)
    if arguments.only != "small":
        prepare_ct("ct", (512, 512, 300), 4, (256, 256, 96))
    if arguments.prepare:
        return
    print(f"| cases | | Segtrail | nnU-Net {VERSION} | ratio |\n|---|---|---|---|---|")
    if arguments.only != "ct":
        benchmark("small", f"{SMALL_CASES} hippocampi", "xyz", arguments.repeats)
    if arguments.only != "small":
        benchmark("ct", "CT 512 x 512 x 300", "x", arguments.repeats)
    print(describe_machine())


if __name__ == "__main__":
    main()
