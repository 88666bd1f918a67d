"""A traffic light for a reviewer: a few checks, each with its rule, its finding and a colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.balance import FEWEST_VALIDATION, describe_small_validation
from pipeline.cases import FIXED, QUARANTINED, WARN
from pipeline.report_inputs import ModelInputs, ReportInputs
from pipeline.report_metrics import metric_format, split_name
from pipeline.report_results import baseline_split, baseline_title, evidence
from pipeline.report_tables import SIDES, foreground, split_rows
from pipeline.scores import is_detection, rank

GREEN, AMBER, RED, NEUTRAL = "green", "amber", "red", "neutral"
TITLES = {GREEN: "No objections", AMBER: "Usable, with remarks", RED: "Not to be used"}
FEWEST_CASES = 5  # a percentile bootstrap over fewer shows too narrow an interval


@dataclass(frozen=True)
class Check:
    """One line of the verdict.

    Attributes:
        name: What was looked at.
        light: "green", "amber", "red", or "neutral" when there is nothing to judge.
        text: What was found.
        rule: When it is which colour.
    """

    name: str
    light: str
    text: str
    rule: str


def overall(checks: Sequence[Check]) -> str:
    """The worst light; neutral ones do not count."""
    lights = {check.light for check in checks}
    return RED if RED in lights else AMBER if AMBER in lights else GREEN


def judge(inputs: ReportInputs, best: ModelInputs, metric: str) -> tuple[Check, ...]:
    """Checks the registry, the baseline, the evidence, the data and the split.

    Args:
        inputs: All files of the run.
        best: The best model by `metric`.
        metric: Flat name such as `test/dice`.
    """
    return (
        _registry(inputs),
        _baseline(best, metric),
        _evidence(best, metric),
        _data(inputs),
        _split(inputs),
    )


def _registry(inputs: ReportInputs) -> Check:
    rule = (
        "Green: the challenger was promoted over a champion, or is the champion already. Amber: it is the "
        "first champion, it was refused, a person chose the champion, or the decision is about another training. "
        "Red: there is no champion."
    )
    decision = inputs.decision
    reasons = "; ".join(str(r) for r in decision.get("reasons", [])) or "no reason given"
    challenger, champion = decision.get("challenger"), decision.get("champion_after")
    if not champion:
        return Check("Registry", RED, f"There is no champion: {reasons}.", rule)
    if challenger not in {model.run.get("bundle_sha256") for model in inputs.models}:
        text = "The decision is about a bundle that is not among these models: dvc repro register."
        return Check("Registry", AMBER, text, rule)
    if decision.get("by") == "person":
        return Check("Registry", AMBER, f"A person chose the champion: {reasons}.", rule)
    if challenger != champion:
        return Check("Registry", AMBER, f"The challenger was refused: {reasons}.", rule)
    if decision.get("promoted") and not decision.get("champion_before"):
        text = (
            "The first champion: there was none to compare it with, so only its own interval speaks for it."
        )
        return Check("Registry", AMBER, text, rule)
    if decision.get("promoted"):
        return Check("Registry", GREEN, f"The challenger was promoted to champion: {reasons}.", rule)
    return Check("Registry", GREEN, "The best model is the champion already.", rule)


def _baseline(best: ModelInputs, metric: str) -> Check:
    rule = (
        "Green: the 95 % intervals of model and baseline do not overlap. Amber: they do. "
        "Red: the baseline is as good. By Dice where the metric is about objects."
    )
    split = baseline_split(best.metrics)
    if not split:
        return Check("Baseline", NEUTRAL, "No baseline was measured.", rule)
    _, label, name = split_name(metric)
    if is_detection(name):  # a baseline has no scores, and so no detection metrics
        metric, name = "/".join(part for part in ("test", label, "dice") if part), "dice"
    key = "/".join(part for part in (split, label, name) if part)
    title, shown = baseline_title(split), metric_format(name)
    value, other = best.metrics.get(metric), best.metrics.get(key)
    if value is None or other is None:
        return Check("Baseline", NEUTRAL, f"{title}: not comparable, a value is not defined.", rule)
    text = f"{shown.title} {shown.text(value)} against {shown.text(other)} of {title}"
    if rank(name, value) <= rank(name, other):
        return Check("Baseline", RED, f"{text}: not better.", rule)
    ends = [best.metrics.get(k + end) for k in (metric, key) for end in ("_ci_low", "_ci_high")]
    numbers = [end for end in ends if end is not None]
    apart = len(numbers) == 4 and (max(numbers[:2]) < min(numbers[2:]) or max(numbers[2:]) < min(numbers[:2]))
    light, note = (GREEN, "the intervals are apart") if apart else (AMBER, "the intervals overlap")
    return Check("Baseline", light, f"{text}: {note}.", rule)


def _evidence(best: ModelInputs, metric: str) -> Check:
    rule = f"Green: defined in {FEWEST_CASES} test cases or more. Amber: in fewer. Red: in none."
    count, patients = evidence(best, metric)
    if best.metrics.get(metric) is None or count == 0:
        return Check("Evidence", RED, f"{metric} is not defined in any test case.", rule)
    text = f"Defined in {count} of {best.n_cases} test cases, {patients} patients"
    return Check("Evidence", AMBER if count < FEWEST_CASES else GREEN, f"{text}.", rule)


def _data(inputs: ReportInputs) -> Check:
    rule = (
        "Green: every case could be used. Amber: cases were quarantined. Warnings do not change the colour."
    )
    total = len(inputs.cases)
    bad = sum(case.verdict == QUARANTINED for case in inputs.cases)
    warned = sum(case.verdict == WARN for case in inputs.cases)
    text = f"{bad} of {total} cases quarantined" if bad else f"All {total} cases could be used"
    fixed = sum(case.verdict == FIXED for case in inputs.cases)
    if warned:
        text += f"; {warned} with a warning"
    if fixed:
        text += f"; {fixed} fixed"
    return Check("Data", AMBER if bad else GREEN, f"{text}.", rule)


def _split(inputs: ReportInputs) -> Check:
    rule = (
        "Green: no patient on two sides, each class on each side. Amber: a class is absent, or fewer than "
        f"{FEWEST_VALIDATION} labelled patients validate a model without folds. Red: a leak."
    )
    sides: dict[str, set[str]] = {}
    for case in inputs.cases:
        if case.case_id in inputs.sides:
            sides.setdefault(case.patient_id, set()).add(inputs.sides[case.case_id])
    leaks = sorted(patient for patient, found in sides.items() if len(found) > 1)
    if leaks:
        return Check("Split", RED, f"Patients on more than one side: {', '.join(leaks)}.", rule)
    names = list(foreground(inputs))
    absent = [
        f"{name} in {row['side']}"
        for row in split_rows(inputs)
        if row["side"] in SIDES
        for name, count in zip(names, row["classes"], strict=True)
        if count == 0
    ]
    remarks = [f"no case with {', '.join(absent)}"] if absent else []
    validated = any(int(model.run.get("folds") or 1) == 1 for model in inputs.models)
    if validated and (few := describe_small_validation(inputs.sides, inputs.cases)):
        remarks.append(few)
    if remarks:
        text = ". ".join(remark[0].upper() + remark[1:] for remark in remarks)
        return Check("Split", AMBER, f"{text}.", rule)
    return Check("Split", GREEN, "No patient stands on two sides; each class is on each side.", rule)
