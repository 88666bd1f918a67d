"""Which version is challenger, which is champion, and why: `decision.json` and the audit log.

`decision.json` is the truth about the champion; aliases in MLflow follow it.
"""

from __future__ import annotations

import csv
import logging
import math
import socket
from datetime import UTC, datetime
from pathlib import Path

from flows.archive import DECISION, REGISTRY, VERSIONS, Version
from flows.audit import Record, append_audit, load_audit, load_decisions
from flows.choice import validation_result
from flows.contest import Contest
from flows.gate_scores import pair_scores
from flows.model_files import load_json, save_json
from flows.provenance import user_name
from flows.succession import GATE, PERSON, complete, find_barred, follow_gate
from pipeline.cases import load_cases
from pipeline.comparison import GateDecision, paired_gate
from pipeline.config import RegisterParams
from pipeline.scores import load_scores, rank

LOGGER = logging.getLogger("segtrail")


def load_decision(name: str) -> Record:
    """The last decision about a registered model; empty when there is none."""
    path = VERSIONS / name / DECISION
    return complete(load_json(path, "register"), load_audit()) if path.is_file() else {}


def decide(contest: Contest, params: RegisterParams) -> Record:
    """Asks the gate, and describes the outcome.

    The same files give the same record, so that DVC sees an unchanged output: the time of a decision is kept
    while the decision stays the same.

    Args:
        contest: See `flows.contest.choose`.
        params: Section `register`.
    """
    earlier = contest.earlier
    outcome = _outcome(contest, params)
    changed = any(outcome[key] != earlier.get(key) for key in outcome)
    decided = datetime.now(UTC).isoformat(timespec="seconds") if changed else earlier["decided"]
    judged = {line["bundle_sha256"]: line for line in earlier.get("versions", [])}
    lines = [
        _describe(version, params.metric) | _verdict(sha256, outcome, judged)
        for sha256, version in contest.versions.items()
    ]
    after = follow_gate(earlier, outcome, decided)
    return {**outcome, "decided": decided, "validation": contest.validation, "versions": lines, **after}


def _outcome(contest: Contest, params: RegisterParams) -> Record:
    challenger, champion, earlier = contest.challenger, contest.champion, contest.earlier
    base: Record = {
        "name": params.model_name,
        "metric": params.metric,
        "challenger": challenger,
        "champion_before": champion,
        "champion_after": champion,
        "promoted": False,
        "by": GATE,
    }
    if challenger is None:
        return {**base, "reasons": [f"no model has a value of {params.metric}"], "numbers": {}}
    barred = find_barred(earlier).get(challenger)
    if challenger == champion or (barred and earlier["by"] == PERSON):
        same = ("challenger", "champion_after", "metric")
        if all(earlier.get(key) == base[key] for key in same):
            # The decision that made it champion still stands.
            return {key: earlier[key] for key in (*base, "reasons", "numbers")}
    if challenger == champion:
        return {**base, "reasons": ["the best model is the champion already"], "numbers": {}}
    if barred:
        return {**base, "reasons": [barred], "numbers": {}}
    gate = _ask_gate(contest, contest.versions[challenger], params)
    after = challenger if gate.promote else champion
    return {
        **base, "champion_after": after, "promoted": gate.promote,
        "reasons": gate.reasons, "numbers": gate.numbers,
    }  # fmt: skip


def _ask_gate(contest: Contest, challenger: Version, params: RegisterParams) -> GateDecision:
    """The gate's decision, with what was done to make it possible."""
    metric, objections = params.metric, _objections(challenger, params.metric)
    if contest.opponents is None:
        scores = load_scores(challenger.files.metrics / "cases.csv", metric)
        gate = paired_gate(scores, None, params, objections)
        return GateDecision(gate.promote, [*gate.reasons, *_remarks(challenger, metric)], gate.numbers)
    pairing = pair_scores(*contest.opponents, metric)
    objections = [*pairing.objections, *objections]
    if pairing.objections and not pairing.champion:  # counts and intervals of no pair would only mislead
        return GateDecision(False, [*objections, *pairing.notes], pairing.numbers)
    gate = paired_gate(pairing.challenger, pairing.champion, params, objections)
    return GateDecision(gate.promote, [*gate.reasons, *pairing.notes], {**gate.numbers, **pairing.numbers})


def _remarks(challenger: Version, metric: str) -> list[str]:
    """What a person should know of a model that nothing is compared with: a baseline without learning is better."""
    metrics = challenger.files.load_metrics()["metrics"]
    value, found = metrics.get(metric), []
    for split in sorted({name.partition("/")[0] for name in metrics if name.startswith("baseline_")}):
        baseline = metrics.get(f"{split}/{metric.removeprefix('test/')}")
        if None not in (value, baseline) and rank(metric, value) < rank(metric, baseline):
            found.append(
                f"its {metric} {value:.3f} is worse than that of the {split.replace('_', ' ')}, {baseline:.3f}"
            )
    return found


def _objections(challenger: Version, metric: str) -> list[str]:
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
    return found


def _describe(version: Version, metric: str) -> Record:
    """Line of a version in `decision.json`."""
    metrics = version.files.load_metrics()["metrics"]
    provenance = version.files.provenance or {}
    validation_metric, validation_score = validation_result(version.files)
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
        "validation_metric": validation_metric,
        "validation_score": validation_score,
        **{key: provenance.get(key) for key in ("dataset", "data_digest", "dvc_lock_sha256", "git_commit")},
    }


def _verdict(bundle_sha256: str, outcome: Record, judged: dict[str, Record]) -> Record:
    """What the gate said about a version when it was last the challenger (None: it never was), and a person last."""
    before = judged.get(bundle_sha256, {})
    hand = {"hand": before["hand"]} if before.get("hand") else {}
    kept = {"gate": before.get("gate"), "gate_reasons": before.get("gate_reasons", []), **hand}
    if bundle_sha256 != outcome["challenger"] or outcome["by"] == PERSON:
        return kept
    if outcome["promoted"]:
        return {"gate": "promoted", "gate_reasons": outcome["reasons"], **hand}
    if bundle_sha256 == outcome["champion_after"]:
        return kept
    return {"gate": "refused", "gate_reasons": outcome["reasons"], **hand}


def save_decision(decision: Record, shown: bool = True) -> None:
    """Writes the decision, then one audit line when the log does not hold it yet.

    The decision comes first: it is the one file whose exchange moves the champion, and it holds all that the audit
    line says. A run that is killed in between leaves the line to the next one (`catch_up`). The decision is kept for
    each name.

    Args:
        decision: See `decide`.
        shown: It is about the models at hand, so `data/registry/decision.json` shows it, too.
    """
    name = decision["name"]
    (VERSIONS / name).mkdir(parents=True, exist_ok=True)
    _save_changed(decision, VERSIONS / name / DECISION)
    if shown:
        _save_changed(decision, REGISTRY / DECISION)
    if not is_audited(decision):
        append_audit(_audit_line(decision))


def _save_changed(decision: Record, path: Path) -> None:
    if not path.is_file() or load_json(path, "register") != decision:
        save_json(decision, path, durable=True)


def catch_up(name: str) -> bool:
    """Adds the present decision to the audit log when it is missing there; before a new one is made.

    That is so after a kill, after `dvc checkout` of another state, in a clone, and when somebody edited the file.

    Returns:
        Whether it was missing.
    """
    decision = load_decision(name)
    if not decision or is_audited(decision):
        return False
    append_audit({**_audit_line(decision), "late": datetime.now(UTC).isoformat(timespec="seconds")})
    champion = str(decision["champion_after"])[:12]
    LOGGER.warning(
        "the audit log did not hold the decision of %s about %s (killed, checked out or edited?): added. "
        "The champion is %s: %s",
        decision["decided"], name, champion, "; ".join(decision["reasons"]),
    )  # fmt: skip
    return True


def is_audited(decision: Record) -> bool:
    """Whether the last line of the audit log about this name is this decision."""
    wanted = _audit_line(decision)
    last: Record = next(reversed(load_decisions(decision["name"])), {})
    return all(last.get(key) == wanted[key] for key in ("what", "by", "why", "numbers"))


def _audit_line(decision: Record) -> Record:
    keys = ("name", "metric", "challenger", "champion_before", "champion_after", "promoted")
    by_hand = decision["by"] == PERSON
    return {
        "when": decision.get("decided"),
        "who": decision["hand"]["who"] if by_hand else f"{user_name()}@{socket.gethostname()}",
        "by": decision["by"],
        "what": {key: decision.get(key) for key in keys}
        | ({"command": decision["hand"]["command"]} if by_hand else {}),
        "why": decision.get("reasons", []),
        "numbers": decision.get("numbers", {}),
    }
