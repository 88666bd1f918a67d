"""The table at the end of `segtrail repro`, from the files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Params, load_params
from pipeline.progress import format_seconds

DECISION = Path("data/registry/decision.json")
REPORT = Path("data/report/index.html")
HEADER = ("model", "metric", "value", "95 % interval", "n", "baseline", "bundle", "alias")


def summarise(seconds: Mapping[str, float], total_s: float) -> str:
    """Text of the summary; empty columns where a stage has not run yet.

    Args:
        seconds: Duration of each executed stage.
        total_s: Duration of everything.
    """
    params = load_params()
    decision = _load(DECISION)
    rows = [row for model in params.models if (row := _model_row(model, params, decision))]
    lines = [""]
    if rows:
        lines += [*_table([HEADER, *rows]), ""]
    lines += [f"registered model {decision['name']}: {_verdict(decision)}"] if decision else []
    executed = ", ".join(f"{stage} {format_seconds(s)}" for stage, s in seconds.items())
    lines.append(f"{format_seconds(total_s)} in all ({executed or 'no stage executed'})")
    if REPORT.is_file():
        lines.append(f"report:  {REPORT.resolve().as_uri()}")
    lines.append("browse:  make ui  (MLflow on http://127.0.0.1:5000, Prefect on http://127.0.0.1:4200)")
    return "\n".join(lines) + "\n"


def _model_row(model: str, params: Params, decision: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table; empty when the model has not been evaluated."""
    metrics = _load(Path("data/metrics") / model / "metrics.json").get("metrics")
    if not metrics:
        return ()
    name = params.register_.metric
    measure = name.partition("/")[2]
    sha256 = str(_load(Path("data/models") / model / "run.json").get("bundle_sha256", ""))
    interval = f"{_text(metrics.get(f'{name}_ci_low'))} to {_text(metrics.get(f'{name}_ci_high'))}"
    n = metrics.get(f"{name}_n")
    return (
        *(model, name, _text(metrics.get(name)), interval, "-" if n is None else f"{n:.0f}"),
        *(_text(metrics.get(f"baseline_{params.evaluate.baseline}/{measure}")), sha256[:12] or "-"),
        ", ".join(_aliases(sha256, decision)) or "-",
    )


def _aliases(sha256: str, decision: Mapping[str, Any]) -> list[str]:
    keys = {"champion": "champion_after", "challenger": "challenger"}
    return [alias for alias, key in keys.items() if sha256 and decision.get(key) == sha256]


def _verdict(decision: Mapping[str, Any]) -> str:
    champion, challenger = decision["champion_after"], decision["challenger"]
    reasons = "; ".join(decision["reasons"])
    if champion is None:
        return f"no champion ({reasons})"
    if champion == challenger:
        return f"champion {champion[:12]} since {decision.get('decided', 'now')[:16]} ({reasons})"
    return f"champion {champion[:12]} stays, challenger {str(challenger)[:12]} refused ({reasons})"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _load(path: Path) -> dict[str, Any]:
    """A JSON record, empty while its stage has not run."""
    if not path.is_file():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
