"""Which version is challenger, which is champion, and why: `decision.json` and the audit log.

`decision.json` is the truth about the champion; aliases in MLflow follow it.
"""

from __future__ import annotations

import csv
import json
import math
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.archive import REGISTRY, VERSIONS, Version, list_versions
from flows.environment import STATE
from flows.model_files import ModelFiles, load_json, save_json
from flows.provenance import user_name
from pipeline.cases import load_cases
from pipeline.comparison import paired_gate
from pipeline.config import RegisterParams
from pipeline.errors import SegtrailError, unknown_name
from pipeline.scores import CaseScore, load_scores, parse_metric, rank

DECISION = "decision.json"
AUDIT = STATE / "audit.jsonl"
Record = dict[str, Any]


def load_decision(name: str) -> Record:
    """The last decision about a registered model; empty when there is none."""
    path = VERSIONS / name / DECISION
    return load_json(path, "register") if path.is_file() else {}


def decide(present: Sequence[str], params: RegisterParams) -> Record:
    """Chooses the challenger, asks the gate, and describes the outcome.

    The same files give the same record, so that DVC sees an unchanged output: the time of a decision is kept
    while the decision stays the same.

    Args:
        present: Bundle sha256 of the models trained now, in the order of `params.models`.
        params: Section `register`.

    Raises:
        SegtrailError: The metric is unknown, or the champion's files are missing.
    """
    earlier = load_decision(params.model_name)
    versions = list_versions(params.model_name)
    by_sha256 = {version.bundle_sha256: version for version in versions}
    champion = earlier.get("champion_after")
    if champion is not None and champion not in by_sha256:
        raise SegtrailError(
            f"the champion {champion[:12]} is not in the archive",
            str(VERSIONS / params.model_name),
            f"dvc checkout {REGISTRY}; or delete {VERSIONS / params.model_name / DECISION} to choose anew",
        )
    challenger = _choose(present, by_sha256, params.metric, earlier)
    outcome = _outcome(challenger, champion, by_sha256, params, earlier)
    changed = any(outcome[key] != earlier.get(key) for key in outcome)
    decided = datetime.now(UTC).isoformat(timespec="seconds") if changed else earlier["decided"]
    judged = {line["bundle_sha256"]: line for line in earlier.get("versions", [])}
    lines = [_describe(v, params.metric) | _verdict(v.bundle_sha256, outcome, judged) for v in versions]
    return {**outcome, "decided": decided, "versions": lines}


def metric_value(files: ModelFiles, metric: str) -> float | None:
    """A metric of a scored model, None where it is undefined.

    Raises:
        SegtrailError: There is no such metric, or none that is known for each case (such as one by size).
    """
    metrics: dict[str, float | None] = files.load_metrics()["metrics"]
    parse_metric(metric)
    legal = [name for name in metrics if f"{name}_ci_low" in metrics and name.startswith("test/")]
    if metric not in legal:
        raise unknown_name("metric", metric, legal, "params.yaml: register.metric")
    return metrics[metric]


def _choose(present: Sequence[str], versions: dict[str, Version], metric: str, earlier: Record) -> str | None:
    """The best model that is present; among equals the earlier challenger, the champion, the first."""
    values = {sha256: metric_value(versions[sha256].files, metric) for sha256 in present}
    ranks = {sha256: rank(metric, value) for sha256, value in values.items() if value is not None}
    best = [sha256 for sha256, value in ranks.items() if value == max(ranks.values())]
    for preferred in (earlier.get("challenger"), earlier.get("champion_after")):
        if preferred in best:
            return str(preferred)
    return best[0] if best else None


def _outcome(
    challenger: str | None,
    champion: str | None,
    versions: dict[str, Version],
    params: RegisterParams,
    earlier: Record,
) -> Record:
    base: Record = {
        "name": params.model_name,
        "metric": params.metric,
        "challenger": challenger,
        "champion_before": champion,
        "champion_after": champion,
        "promoted": False,
    }
    if challenger is None:
        return {**base, "reasons": [f"no model has a value of {params.metric}"], "numbers": {}}
    if challenger == champion:
        keys = [*base, "reasons", "numbers"]
        same = ("challenger", "champion_after", "metric")
        if all(earlier.get(key) == base[key] for key in same):
            return {key: earlier[key] for key in keys}  # the decision that made it champion still stands
        return {**base, "reasons": ["the best model is the champion already"], "numbers": {}}
    new, old = versions[challenger], versions[champion] if champion else None
    gate = paired_gate(
        load_scores(new.files.metrics / "cases.csv", params.metric),
        None if old is None else _comparable_scores(old, new, params.metric),
        params,
        _objections(new, old, params.metric),
    )
    after = challenger if gate.promote else champion
    return {
        **base, "champion_after": after, "promoted": gate.promote,
        "reasons": gate.reasons, "numbers": gate.numbers,
    }  # fmt: skip


def _comparable_scores(champion: Version, challenger: Version, metric: str) -> list[CaseScore]:
    """Scores of the champion on the cases whose files are still the ones it was scored on; none without any."""
    if metric not in champion.files.load_metrics()["metrics"]:
        return []
    now = {case.case_id: case.sha256 for case in load_cases(challenger.files.cases)}
    then = {case.case_id: case.sha256 for case in load_cases(champion.files.cases)}
    scores = load_scores(champion.files.metrics / "cases.csv", metric)
    return [s for s in scores if s.case_id in now and now[s.case_id] == then.get(s.case_id)]


def _objections(challenger: Version, champion: Version | None, metric: str) -> list[str]:
    """What stands against a challenger apart from the comparison itself: its verdict is not clean."""
    files = challenger.files
    labelled = {case.case_id for case in load_cases(files.cases) if case.usable and case.label}
    with files.splits.open(newline="", encoding="utf-8") as stream:
        test = {row["case_id"] for row in csv.DictReader(stream) if row["split"] == "test"} & labelled
    scored = {score.case_id for score in load_scores(files.metrics / "cases.csv", metric)}
    found = []
    if missing := test - scored:
        found.append(f"the challenger has not been scored on {len(missing)} of the test cases")
    run = files.load_run()
    score = run.get("best_validation_score")
    if isinstance(score, float) and not math.isfinite(score):
        found.append(f"the challenger's {run.get('validation_metric', 'validation score')} is {score}")
    if champion is not None and metric not in champion.files.load_metrics()["metrics"]:
        found.append(f"the champion was scored without {metric}")
    elif champion is not None and (key := _setting(metric)):
        now, then = (v.files.load_metrics().get("settings", {}).get(key) for v in (challenger, champion))
        if now != then:
            found.append(f"the champion was scored with evaluate.{key} = {then}, the challenger with {now}")
    return found


def _setting(metric: str) -> str:
    """Which param of `evaluate` changes a metric; "" where none does."""
    column = metric.rsplit("/", 1)[-1]
    if column == "surface_dice":
        return "surface_tolerance_mm"
    if "_map_" in column:
        return "max_detections"
    return "max_marks" if column == "cpm" or column.startswith("froc_") else ""


def _describe(version: Version, metric: str) -> Record:
    """Line of a version in `decision.json`."""
    metrics = version.files.load_metrics()["metrics"]
    provenance = version.files.provenance or {}
    return {
        "bundle_sha256": version.bundle_sha256,
        "model": version.model,
        "created": version.created,
        "run_id": version.files.load_run().get("run_id", ""),
        "metric": metric,
        "value": metrics.get(metric),
        "ci_low": metrics.get(f"{metric}_ci_low"),
        "ci_high": metrics.get(f"{metric}_ci_high"),
        "n": metrics.get(f"{metric}_n"),
        **{key: provenance.get(key) for key in ("dataset", "data_digest", "dvc_lock_sha256", "git_commit")},
    }


def _verdict(bundle_sha256: str, outcome: Record, judged: dict[str, Record]) -> Record:
    """What the gate said about a version when it was last the challenger; None when it never was."""
    before = judged.get(bundle_sha256, {})
    kept = {"gate": before.get("gate"), "gate_reasons": before.get("gate_reasons", [])}
    if bundle_sha256 != outcome["challenger"]:
        return kept
    if outcome["promoted"]:
        return {"gate": "promoted", "gate_reasons": outcome["reasons"]}
    if bundle_sha256 == outcome["champion_after"]:
        return kept
    return {"gate": "refused", "gate_reasons": outcome["reasons"]}


def save_decision(decision: Record) -> None:
    """Writes the decision, and one audit line when the log does not hold it yet.

    The log comes first: a run that is killed in between decides again and finds its line there. The decision
    is kept for each name; `data/registry/decision.json` shows the last one.
    """
    name = decision["name"]
    _append_audit(decision)
    (VERSIONS / name).mkdir(parents=True, exist_ok=True)
    for path in (VERSIONS / name / DECISION, REGISTRY / DECISION):
        if not path.is_file() or load_json(path, "register") != decision:
            save_json(decision, path)


def _append_audit(decision: Record) -> None:
    what = {
        key: decision[key]
        for key in ("name", "metric", "challenger", "champion_before", "champion_after", "promoted")
    }
    last = next((line for line in reversed(load_audit()) if line["what"]["name"] == what["name"]), None)
    line = {
        "when": decision["decided"],
        "who": f"{user_name()}@{socket.gethostname()}",
        "by": "gate",
        "what": what,
        "why": decision["reasons"],
        "numbers": decision["numbers"],
    }
    if last is not None and all(last[key] == line[key] for key in ("what", "why", "numbers")):
        return
    AUDIT.parent.mkdir(parents=True, exist_ok=True)
    torn = AUDIT.is_file() and not AUDIT.read_bytes().endswith(b"\n")
    with AUDIT.open("a", encoding="utf-8") as stream:
        stream.write("\n" * torn + json.dumps(line, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def load_audit(path: Path = AUDIT) -> list[Record]:
    """All lines of the audit log, oldest first; a line cut short by a crash is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
