"""How data come in: cost a case at 100, 1,000 and 10,000 small cases, of one more case, and against nnU-Net.

    .venv/bin/python benchmarks/intake.py [--counts 40 100 1000 10000] [--dvc 1000] [--peer]

Small cases are boxes of 20 x 24 x 20 voxels of real hippocampi; the smallest set gives the fixed start. Each stage is a
process of its own, without Prefect; seconds are wall time, "CPU s" processor time of it and its children, peak
memory the largest sum of RSS over the process tree. `--dvc` runs `dvc repro preprocess` on so many cases: from nothing,
unchanged, changed. `--peer` takes 220 whole hippocampi through inspect, plan and preprocess, and through nnU-Net's
integrity check, fingerprint, plan and preprocessing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess_speed import DATA, WORKERS, measure, run_nnunet, run_segtrail
from preset_quality import change_params, copy_project, describe_machine
from small_cases import SmallCases

STAGES = ("inspect", "split", "plan", "preprocess")
RUNS = ("from nothing", "unchanged", "one more")
REAL = DATA / "Task04_Hippocampus"


@dataclass(frozen=True)
class Cost:
    """What the run of a stage took.

    Attributes:
        seconds: Wall time.
        cpu: Seconds of processor time, of the process and its children.
        peak: Bytes of RSS.
    """

    seconds: float
    cpu: float
    peak: int


def make_project(folder: Path, count: int) -> SmallCases:
    """A copy of the project with so many small cases."""
    copy_project(folder)
    settings = ("phantom.datasets=[]", "inspect.dataset=small", "inspect.layout=msd", "plan.memory=estimate")
    change_params(folder, list(settings))
    cases = SmallCases(REAL, folder / "data/raw/small")
    for number in range(count):
        cases.write(number)
    return cases


def run_stages(folder: Path) -> dict[str, Cost]:
    """Runs the stages up to `preprocess`, one after the other."""
    environment = {**os.environ, "SEGTRAIL_WORKERS": str(WORKERS), "SEGTRAIL_NO_PREFECT": "1"}
    found = {}
    for stage in STAGES:
        before = os.times()
        took = measure([sys.executable, "-m", f"flows.{stage}"], folder, environment)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        found[stage] = Cost(took.seconds, cpu, took.peak)
    return found


def row(count: int, what: str, costs: dict[str, Cost]) -> str:
    """One line of the table: seconds of each stage, their sum, CPU and memory."""
    seconds, cpu = (sum(getattr(cost, name) for cost in costs.values()) for name in ("seconds", "cpu"))
    peaks = [f"{costs[stage].peak / 1e9:.2f}" for stage in ("inspect", "plan", "preprocess")]
    cells = [f"{costs[stage].seconds:.1f}" for stage in STAGES]
    return f"| {count} | {what} | {' | '.join(cells)} | {seconds:.1f} | {cpu:.1f} | {' | '.join(peaks)} |"


def measure_growth(home: Path, counts: Sequence[int]) -> None:
    """Prints what a set of each size costs from nothing, unchanged and with one more case."""
    heads = [*(f"{stage} s" for stage in STAGES), "all s", "CPU s", "inspect GB", "plan GB", "preprocess GB"]
    print(f"| cases | run | {' | '.join(heads)} |")
    print("|---" * 11 + "|", flush=True)
    found: dict[int, list[dict[str, Cost]]] = {}
    for count in counts:
        folder = home / f"small_{count}"
        cases = make_project(folder, count)
        found[count] = []
        for what in RUNS:
            if what == "one more":
                cases.write(count)
            found[count].append(run_stages(folder))
            print(row(count, what, found[count][-1]), flush=True)
        shutil.rmtree(folder)
    describe(found)


def describe(found: dict[int, list[dict[str, Cost]]]) -> None:
    """Prints the cost a case, and that of one more case, without the fixed start: what the smallest set takes."""
    cpu = {count: [sum(cost.cpu for cost in run.values()) for run in runs] for count, runs in found.items()}
    fewest = min(cpu)
    small = cpu.pop(fewest)
    print("\n| cases | CPU ms a new case | CPU ms a known case | one more case, share of the first run |")
    print("|---" * 4 + "|")
    for count, (first, unchanged, more) in cpu.items():
        new, known = (
            1000 * (a - b) / (count - fewest) for a, b in zip((first, unchanged), small, strict=False)
        )
        print(f"| {count} | {new:.1f} | {known:.2f} | {(more - small[2]) / first:.1%} |")


def measure_dvc(home: Path, count: int) -> None:
    """Prints wall seconds of `dvc repro preprocess`."""
    folder = home / "dvc"
    cases = make_project(folder, count)
    environment = {
        **os.environ, "SEGTRAIL_WORKERS": str(WORKERS), "SEGTRAIL_NO_PREFECT": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    print(f"\n`dvc repro preprocess` at {count} cases, wall seconds:")
    for what, change in (
        ("from nothing", lambda: None),
        ("unchanged", lambda: None),
        ("unchanged again", lambda: None),
        ("one more case", lambda: cases.write(count)),
        ("one label changed", lambda: cases.change_label(count // 2)),
        ("one case removed", lambda: cases.remove(count // 4)),
        ("one file touched", lambda: os.utime(cases.paths(count // 3)[0])),
    ):
        change()
        took = measure([sys.executable, "-m", "dvc", "repro", "preprocess"], folder, environment)
        print(f"  {what}: {took.seconds:.1f}", flush=True)
    shutil.rmtree(folder)


def measure_peer(home: Path) -> None:
    """Prints Segtrail beside nnU-Net on the same 220 cases."""
    spacing = (1.0, 1.0, 1.0)
    ours = run_segtrail(REAL.resolve(), home / "segtrail_peer", spacing)
    theirs = run_nnunet(REAL.resolve(), home / "nnunet_peer", spacing, ["--verify_dataset_integrity"])
    print(
        "\n| step | Segtrail s | nnU-Net s | times faster | Segtrail GB | nnU-Net GB |\n|---|---|---|---|---|---|"
    )
    for step, title in (
        ("inspect", "inspect / integrity check, fingerprint"),
        ("plan", "plan"),
        ("preprocess", "preprocess"),
    ):
        a, b = ours[step], theirs[step]
        print(
            f"| {title} | {a.seconds:.1f} | {b.seconds:.1f} | {b.seconds / a.seconds:.1f} | {a.peak / 1e9:.2f} | "
            f"{b.peak / 1e9:.2f} |",
            flush=True,
        )
    whole = [sum(took.seconds for took in side.values()) for side in (ours, theirs)]
    print(f"| together | {whole[0]:.1f} | {whole[1]:.1f} | {whole[1] / whole[0]:.1f} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="*", default=[40, 100, 1000, 10_000])
    parser.add_argument("--dvc", type=int, default=1000, help="cases for `dvc repro`; 0 leaves it out")
    parser.add_argument("--peer", action="store_true", help="compare with nnU-Net")
    options = parser.parse_args()
    print(f"{describe_machine()}, {WORKERS} workers, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="segtrail-intake-") as scratch:
        home = Path(scratch)
        if options.counts:
            measure_growth(home, options.counts)
        if options.dvc:
            measure_dvc(home, options.dvc)
        if options.peer:
            measure_peer(home)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
