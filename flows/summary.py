"""The table at the end of `segtrail repro`, from the files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Params, load_params
from pipeline.progress import format_seconds

DECISION = Path("data/registry/decision.json")
REPORT = Path("data/report/index.html")
Numbers = Mapping[str, float | None]
CHOSEN_BY = " *"


def summarise(seconds: Mapping[str, float], total_s: float) -> str:
    """Text of the summary; empty columns where a stage has not run yet.

    Args:
        seconds: Duration of each executed stage.
        total_s: Duration of everything.
    """
    params = load_params()
    decision = _load(DECISION)
    metrics = {
        model: _load(Path("data/metrics") / model / "metrics.json").get("metrics") for model in params.models
    }
    evaluated = {model: numbers for model, numbers in metrics.items() if numbers}
    lines = [""]
    if evaluated:
        compared = any(len(group["scores"]) > 1 for group in decision.get("validation", []))
        legend = (
            "chooses the model" + ": among those validated by one metric validation, then the test" * compared
        )
        lines += [*_table(_rows(evaluated, params, decision)), f"{CHOSEN_BY.strip()} {legend}", ""]
    lines += [f"registered model {decision['name']}: {_verdict(decision)}"] if decision else []
    executed = ", ".join(f"{stage} {format_seconds(s)}" for stage, s in seconds.items())
    lines.append(f"{format_seconds(total_s)} in all ({executed or 'no stage executed'})")
    if REPORT.is_file():
        lines.append(f"report:  {REPORT.resolve().as_uri()}")
    lines.append("browse:  make ui  (MLflow on http://127.0.0.1:5000, Prefect on http://127.0.0.1:4200)")
    return "\n".join(lines) + "\n"


def _rows(
    evaluated: Mapping[str, Numbers], params: Params, decision: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    """One line a metric, one column a model; then bundles and aliases."""
    chosen_by, baseline = params.register_.metric, f"baseline_{params.evaluate.baseline}/dice"
    volumes = any("test/cpm" in numbers for numbers in evaluated.values())
    objects = ["test/mask_map_10_50", "test/cpm"] if volumes else ["test/mask_map_50"]
    names = list(dict.fromkeys(["test/dice", *objects, chosen_by]))
    rows = [("", *evaluated)]
    for name in names:
        title = name + (CHOSEN_BY if name == chosen_by else "")
        rows.append((title, *(_cell(numbers, name) for numbers in evaluated.values())))
    if any(baseline in numbers for numbers in evaluated.values()):
        rows.append((baseline, *(_cell(numbers, baseline) for numbers in evaluated.values())))
    bundles = [
        _load(Path("data/models") / model / "run.json").get("bundle_sha256", "") for model in evaluated
    ]
    rows += [_validation(group, bundles) for group in decision.get("validation", [])]
    rows.append(("bundle", *(sha256[:12] or "-" for sha256 in bundles)))
    rows.append(("alias", *(", ".join(_aliases(sha256, decision)) or "-" for sha256 in bundles)))
    return rows


def _validation(group: Mapping[str, Any], bundles: Sequence[str]) -> tuple[str, ...]:
    """Scores of the models that were validated by one metric; of several, the winner is named."""
    scores = {line["bundle_sha256"]: line["score"] for line in group["scores"]}
    shown = {sha256: "-" if score is None else f"{score:.4f}" for sha256, score in scores.items()}
    if len(scores) > 1 and group["winner"] in shown:
        shown[group["winner"]] += " competes"
    return (str(group["metric"]) + CHOSEN_BY * (len(scores) > 1), *(shown.get(s, "-") for s in bundles))


def _cell(numbers: Numbers, name: str) -> str:
    """Such as "0.8123 [0.7500, 0.8700] n=8"."""
    value, low, high, n = (numbers.get(f"{name}{end}") for end in ("", "_ci_low", "_ci_high", "_n"))
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    return f"{value:.4f}{interval}" + ("" if n is None else f" n={n:.0f}")


def _aliases(sha256: str, decision: Mapping[str, Any]) -> list[str]:
    keys = {"champion": "champion_after", "challenger": "challenger"}
    return [alias for alias, key in keys.items() if sha256 and decision.get(key) == sha256]


def _verdict(decision: Mapping[str, Any]) -> str:
    champion, challenger = decision["champion_after"], decision["challenger"]
    reasons = "; ".join(decision["reasons"])
    if champion is None:
        return f"no champion ({reasons})"
    if decision.get("by") == "person":
        return f"champion {champion[:12]} since {decision['decided'][:16]} ({reasons})"
    if champion == challenger:
        return f"champion {champion[:12]} since {decision.get('decided', 'now')[:16]} ({reasons})"
    return f"champion {champion[:12]} stays, challenger {str(challenger)[:12]} refused ({reasons})"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _load(path: Path) -> dict[str, Any]:
    """A JSON record, empty while its stage has not run."""
    if not path.is_file():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
