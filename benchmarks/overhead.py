"""Orchestration seconds of a full repro, by stage: what is neither a stage's work nor the imports it needs.

    .venv/bin/python benchmarks/overhead.py [--plain] [--cases 14]

A copy of the project runs on a small phantom, once from nothing and once unchanged. A stage's process and its
work are timed inside it; the imports that the work needs are timed in processes of their own. `--plain` runs
`dvc repro` instead of `segtrail repro` (no server is kept running).
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]


def copy_project(target: Path, cases: int) -> None:
    """Copies the tracked files and makes the phantom and the training small."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    yaml = YAML()
    params = yaml.load((target / "params.yaml").read_text(encoding="utf-8"))
    params["phantom"].update(cases=cases, shape=[64, 56, 48])
    params["plan"].update(max_patch_voxels=16384, base_features=4)
    params["train"]["unet"].update(max_epochs=2, max_minutes=60.0, steps_per_epoch=4, validate_every_epochs=2)
    params["register"].update(min_cases=2)
    with (target / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)


def run_repro(project: Path, plain: bool) -> tuple[float, dict[str, float]]:
    """Runs everything; returns total seconds and wall seconds of each stage."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "SEGTRAIL_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    environment = {**kept, "PATH": path, "SEGTRAIL_TIMINGS": str(project / "timings.jsonl")}
    command = ["dvc", "repro"] if plain else ["flows.cli", "repro"]
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", *command], cwd=project, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(output)
    return time.time() - began, dict(stage_ends(project))


def stage_ends(project: Path) -> Iterator[tuple[str, float]]:
    """Seconds from the process's birth to the end of its work, by stage."""
    for line in (project / "timings.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        yield record["stage"], record["ended"] - record["started"]


def work_seconds(project: Path) -> dict[str, float]:
    """Seconds of a stage's own work."""
    lines = (project / "timings.jsonl").read_text(encoding="utf-8").splitlines()
    return {r["stage"]: r["ended"] - r["began"] for r in map(json.loads, lines)}


def import_seconds(stage: str) -> float:
    """Median of three: a fresh interpreter that imports what the stage's flow needs of `pipeline`."""
    tree = ast.parse((ROOT / "flows" / f"{stage}.py").read_text(encoding="utf-8"))
    modules = sorted(
        {
            n.module
            for n in tree.body
            if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("pipeline")
        }
    )
    code = "; ".join(f"import {module}" for module in modules)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--cases", type=int, default=14)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch) / "project"
        project.mkdir()
        copy_project(project, options.cases)
        total, walls = run_repro(project, options.plain)
        works = work_seconds(project)
        (project / "timings.jsonl").unlink()
        again, _ = run_repro(project, options.plain)
    print(f"{'stage':<12}{'process s':>10}{'work s':>8}{'imports s':>11}{'orchestration s':>17}")
    overheads = []
    for stage, wall in walls.items():
        imports = import_seconds(stage)
        overheads.append(wall - works[stage] - imports)
        print(f"{stage:<12}{wall:>10.1f}{works[stage]:>8.1f}{imports:>11.1f}{overheads[-1]:>17.1f}")
    outside = total - sum(walls.values())
    print(f"all stages: {sum(overheads):.1f} s, {statistics.mean(overheads):.1f} s a stage")
    print(
        f"outside the stages' processes (DVC, hashing, server start, exits): {outside:.1f} s of {total:.1f} s"
    )
    print(f"per stage, that included: {(sum(overheads) + outside) / len(walls):.1f} s")
    print(f"an unchanged second run: {again:.1f} s")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
