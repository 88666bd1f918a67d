"""What a preset reaches: a copy of the project, `segtrail data add`, `segtrail repro`, and all models in one table.

    .venv/bin/python benchmarks/preset_quality.py PRESET [RAW] [--set train.maskrcnn.max_minutes=30]... [--keep FOLDER]

RAW is the raw data set; the phantom needs none. `--set` changes a line of params.yaml after the preset. The
table gives each model's numbers on the same test cases, with 95 % intervals, and the minutes of each stage.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml as plain_yaml
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (
    "dice", "mask_map_10_50", "mask_map_50", "mask_map_75", "mask_map_50_95", "mask_mar_100", "box_map_50",
    "ap_dsb_50", "ap_dsb", "panoptic_quality", "cpm",
)  # fmt: skip


def copy_project(target: Path) -> None:
    """Copies what git tracks, or would."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)


def segtrail(project: Path, *arguments: str) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "DVC_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    command = [sys.executable, "-u", "-m", "flows.cli", *arguments]
    subprocess.run(command, cwd=project, env={**kept, "PATH": path}, check=True)


def change_params(project: Path, changes: list[str]) -> None:
    yaml, path = YAML(), project / "params.yaml"
    tree = yaml.load(path.read_text(encoding="utf-8"))
    for change in changes:
        keys, _, value = change.partition("=")
        *sections, last = keys.split(".")
        section = tree
        for key in sections:
            section = section[key]
        section[last] = plain_yaml.safe_load(value)
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(tree, stream)


def table(project: Path) -> list[str]:
    models = sorted(p.parent.name for p in (project / "data/metrics").glob("*/metrics.json"))
    records: dict[str, Any] = {
        m: json.loads((project / f"data/metrics/{m}/metrics.json").read_text(encoding="utf-8"))
        for m in models
    }
    lines = [f"| metric (test, n = {records[models[0]]['n_cases']}) | " + " | ".join(models) + " |"]
    lines.append("|---" * (len(models) + 1) + "|")
    for name in SHOWN:
        cells = []
        for model in models:
            found = records[model]["metrics"]
            value, low, high = (found.get(f"test/{name}{end}") for end in ("", "_ci_low", "_ci_high"))
            interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
            cells.append("" if value is None else f"{value:.3f}{interval}")
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def describe_machine() -> str:
    """Date, processor and cores."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("raw", nargs="?", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--keep", type=Path, help="folder for the copy; by default it is temporary")
    options = parser.parse_args()
    project = options.keep or Path(tempfile.mkdtemp(prefix="segtrail-preset-"))
    project.mkdir(parents=True, exist_ok=True)
    copy_project(project)
    began = time.monotonic()
    raw = [str(options.raw.resolve())] if options.raw else []
    segtrail(project, "data", "add", *raw, "--preset", options.preset)
    change_params(project, options.set)
    segtrail(project, "repro")
    minutes = (time.monotonic() - began) / 60
    print(f"\n{options.preset}{' '.join(['', *options.set])}: {minutes:.1f} min from raw data to report")
    print("\n".join(table(project)))
    print(describe_machine())
    if options.keep is None:
        shutil.rmtree(project)


if __name__ == "__main__":
    main()
