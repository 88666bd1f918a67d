"""Retraining from the champion against retraining from scratch, within the same short minutes, on a set that has grown.

    .venv/bin/python benchmarks/warm_start.py RAW [--cases 100] [--more 20] [--champion-minutes 5] [--minutes 1 2]

RAW is `Task04_Hippocampus`. A champion is trained on the first cases and registered. Then more cases arrive, and for
each budget both starts are trained with the same seed and schedule, validated and tested on the same cases. Nothing
of that is registered, so the champion stays the parent of all. `--set` changes a line of params.yaml for all of them,
`--warm KEY=VALUE` a key of the warm section alone, such as `--warm learning_rate=0.0007`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from preset_quality import change_params, copy_project, describe_machine, segtrail

STARTS = {"unet": "scratch", "unet_warm": "champion"}


def add_cases(raw: Path, project: Path, count: int, changes: Sequence[str]) -> None:
    """The first cases of the set, in the order of their names, as a user adds them; params are the preset's."""
    target = project / "raw"
    facts = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    listed = sorted(facts["training"], key=lambda entry: str(entry["image"]))[:count]
    for entry in listed:
        for place in (entry["image"], entry["label"]):
            path = target / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                shutil.copy(raw / place, path)
    text = json.dumps({**facts, "training": listed, "numTraining": len(listed), "test": []})
    (target / "dataset.json").write_text(text, encoding="utf-8")
    segtrail(project, "data", "add", "raw", "--preset", "hippocampus")
    change_params(project, list(changes))


def add_warm_section(project: Path, changes: Sequence[str]) -> None:
    """Beside `unet` the same section with `start: champion`."""
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    section = {**params["train"]["unet"], "start": "champion"}
    change_params(project, [f"train.unet_warm={json.dumps(section)}", f"models={json.dumps(list(STARTS))}"])
    change_params(project, [f"train.unet_warm.{change}" for change in changes])


def compare(project: Path, minutes: float) -> list[str]:
    """Rows of the table for one budget."""
    change_params(project, [f"train.{model}.max_minutes={minutes}" for model in STARTS])
    for model in STARTS:
        segtrail(project, "repro", f"evaluate@{model}")
    return [_row(project, model, f"{minutes:g}") for model in STARTS]


def _row(project: Path, model: str, minutes: str) -> str:
    trained = project / "data/models" / model
    run, bundle = _load(trained / "run.json"), _load(trained / "bundle.json")
    metrics = _load(project / "data/metrics" / model / "metrics.json")["metrics"]
    low, high, n = (metrics[f"test/dice_{end}"] for end in ("ci_low", "ci_high", "n"))
    cells = [
        minutes, run["started_from"], str(run["best_epoch"]), f"{bundle['validation_score']:.4f}",
        f"{metrics['test/dice']:.4f} [{low:.4f}, {high:.4f}]", f"{n:.0f}",
    ]  # fmt: skip
    row = "| " + " | ".join(cells) + " |"
    print(row, flush=True)
    return row


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def train_champion(raw: Path, project: Path, options: argparse.Namespace) -> str:
    """A project with a registered champion; the row of its numbers."""
    copy_project(project)
    add_cases(raw, project, options.cases, options.set)
    change_params(project, [f"train.unet.max_minutes={options.champion_minutes}"])
    segtrail(project, "repro")
    champion = _load(project / "data/registry/decision.json")["champion_after"]
    if champion is None:
        raise SystemExit("the gate promoted nothing: give the champion more minutes or cases")
    return _row(project, "unet", f"{options.champion_minutes:g} (champion, {options.cases} cases)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--more", type=int, default=20)
    parser.add_argument("--champion-minutes", type=float, default=5.0)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--warm", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warm-start-") as scratch:
        project, raw = Path(scratch), options.raw.resolve()
        rows = [train_champion(raw, project, options)]
        add_cases(raw, project, options.cases + options.more, options.set)
        add_warm_section(project, options.warm)
        for minutes in options.minutes:
            rows += compare(project, minutes)
    print(f"\n{options.cases} cases, then {options.more} more")
    print("| minutes | started from | best epoch | validation Dice | test Dice [95 %] | n |")
    print("|---" * 6 + "|")
    print("\n".join(rows))
    print(describe_machine())


if __name__ == "__main__":
    main()
