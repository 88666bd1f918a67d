"""Whether a challenger may replace the champion: paired differences on the same frozen test cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.config import RegisterParams
from pipeline.intervals import Estimate, draw_patients, estimate
from pipeline.scores import CaseScore, is_detection, is_ranked, lower_is_better, parse_metric, rank

SAMPLES = 4000
SEED = 1


@dataclass(frozen=True)
class GateDecision:
    """What the gate says.

    Attributes:
        promote: Whether the challenger becomes the champion.
        reasons: Why, in sentences; every reason that stands against a refused one.
        numbers: What was measured, by name.
    """

    promote: bool
    reasons: list[str]
    numbers: dict[str, float] = field(default_factory=dict)


def paired_gate(
    challenger: Sequence[CaseScore],
    champion: Sequence[CaseScore] | None,
    params: RegisterParams,
    objections: Sequence[str] = (),
) -> GateDecision:
    """Decides on promotion.

    The improvement is champion to challenger, case by case, positive when the challenger is better. Its mean
    and 95 % interval are those of `pipeline.intervals`: cases within classes, then classes; whole patients
    are drawn. The interval is widened for their small number, so that of two equally good models one is promoted over
    the other in 2.5 % of test sets (`benchmarks/gate_calibration.py`). Its lower end must lie above `params.margin`,
    and that of no class (or region, see `load_scores`) below `-params.class_margin`. See `_improvement` for cases in
    which a value is undefined.

    Args:
        challenger: Scores of every test case and class.
        champion: The same of the champion; None when there is none, which needs no comparison.
        params: Section `register`.
        objections: What else stands against the challenger.
    """
    label, _ = parse_metric(params.metric)
    if champion is None:
        return _first_champion(challenger, label, params, objections)
    pairs = _pair(challenger, champion)
    refusals = [*objections, *_coverage_refusals(challenger, pairs, params.metric)]
    overall, by_label = _estimate_improvement(pairs, label, params.metric)
    numbers = _numbers(pairs, label, overall, by_label)
    refusals += _statistical_refusals(overall, by_label, params)
    if refusals:
        return GateDecision(False, refusals, numbers)
    reason = (
        f"{params.metric} improves by {overall.mean:.4f} over {overall.n} paired cases; "
        f"the lower bound {overall.low:.4f} lies above the margin {params.margin:g}"
    )
    return GateDecision(True, [reason], numbers)


def _first_champion(
    challenger: Sequence[CaseScore], label: str, params: RegisterParams, objections: Sequence[str]
) -> GateDecision:
    defined = {s.case_id for s in challenger if label in ("", s.label) and not math.isnan(s.value)}
    refusals = list(objections)
    if len(defined) < params.min_cases:
        refusals.append(_too_few(len(defined), params))
    reasons = refusals or ["there was no champion"]
    return GateDecision(not refusals, reasons, {"n_cases": float(len(defined))})


def _too_few(cases: int, params: RegisterParams) -> str:
    return f"{cases} test cases with a value, register.min_cases asks for {params.min_cases}"


def _pair(
    challenger: Iterable[CaseScore], champion: Iterable[CaseScore]
) -> list[tuple[CaseScore, CaseScore]]:
    old = {(score.case_id, score.label): score for score in champion}
    found = ((score, old.get((score.case_id, score.label))) for score in challenger)
    return [(new, before) for new, before in found if before is not None]


def _coverage_refusals(
    challenger: Sequence[CaseScore], pairs: Sequence[tuple[CaseScore, CaseScore]], metric: str
) -> list[str]:
    partners = {(new.case_id, new.label) for new, _ in pairs}
    unscored = {score.case_id for score in challenger if (score.case_id, score.label) not in partners}
    # Objects: no value means that nothing was to be found.
    lost = {
        new.case_id
        for new, old in pairs
        if not is_detection(metric)
        and math.isnan(new.value)
        and not math.isnan(old.value)
        and _improvement(metric, new, old) is None
    }
    refusals = []
    if unscored:
        refusals.append(f"the champion has not been scored on {len(unscored)} of the test cases")
    if lost:
        refusals.append(
            f"the challenger has no value in {len(lost)} test cases in which the champion has one"
        )
    return refusals


def _improvement(metric: str, challenger: CaseScore, champion: CaseScore) -> float | None:
    """How much better the challenger is in one case and class; None when that cannot be said.

    Both undefined: None. A class that is absent from reference and prediction has no value, yet nothing
    could be better: against a model that does see the class there, it counts as perfect (overlap 1, error
    0). Of a case without an object to be found a metric that ranks objects by score says nothing, whatever
    was found: None. Otherwise an undefined value cannot be compared.
    """
    new, old = _value_or_perfect(metric, challenger), _value_or_perfect(metric, champion)
    both_undefined = math.isnan(challenger.value) and math.isnan(champion.value)
    if both_undefined or math.isnan(new) or math.isnan(old):
        return None
    return rank(metric, new) - rank(metric, old)


def _value_or_perfect(metric: str, score: CaseScore) -> float:
    if is_detection(metric):
        absent = not is_ranked(metric)  # then undefined means: no object on either side
    else:
        absent = score.reference_voxels == 0 and score.prediction_voxels == 0
    if math.isnan(score.value) and absent:
        return 0.0 if lower_is_better(metric) else 1.0
    return score.value


def _estimate_improvement(
    pairs: Sequence[tuple[CaseScore, CaseScore]], label: str, metric: str
) -> tuple[Estimate, dict[str, Estimate]]:
    """Improvement in the chosen label (or mean over classes), and in every class."""
    labels = list(dict.fromkeys(new.label for new, _ in pairs))
    cases = {new.case_id: new.patient_id for new, _ in pairs}
    patients = {patient: i for i, patient in enumerate(sorted(set(cases.values())))}
    place = {case_id: i for i, case_id in enumerate(cases)}
    values = np.full((len(cases), len(labels)), np.nan)
    for new, old in pairs:
        difference = _improvement(metric, new, old)
        if difference is not None:
            values[place[new.case_id], labels.index(new.label)] = difference
    owner = np.array([patients[patient] for patient in cases.values()], dtype=np.intp)
    overall, each = estimate(values, owner, draw_patients(len(patients), SAMPLES, SEED), corrected=True)
    by_label = dict(zip(labels, each, strict=True))
    return (by_label.get(label, Estimate(None, None, None, 0)) if label else overall), by_label


def _statistical_refusals(
    overall: Estimate, by_label: dict[str, Estimate], params: RegisterParams
) -> list[str]:
    refusals = []
    if overall.n < params.min_cases:
        refusals.append(_too_few(overall.n, params))
    if overall.low is None:
        refusals.append("fewer than two patients can be compared")
    elif not overall.low > params.margin:
        refusals.append(
            f"the improvement in {params.metric} is {overall.mean:.4f} with lower bound {overall.low:.4f}, "
            f"which does not lie above the margin {params.margin:g}"
        )
    for name, one in by_label.items():
        # A class that only one patient has gives no interval; then its own loss counts.
        worst = one.low if one.low is not None else one.mean
        if worst is not None and worst < -params.class_margin:
            refusals.append(
                f"{name} may lose {-worst:.4f} (mean {one.mean:+.4f}), "
                f"more than register.class_margin {params.class_margin:g}"
            )
    return refusals


def _numbers(
    pairs: Sequence[tuple[CaseScore, CaseScore]],
    label: str,
    overall: Estimate,
    by_label: dict[str, Estimate],
) -> dict[str, float]:
    chosen = [new for new, _ in pairs if label in ("", new.label)]
    numbers = {
        "n_cases": float(overall.n),
        "n_patients": float(len({score.patient_id for score in chosen})),
    }
    for name, one in (("improvement", overall), *((f"{n}/improvement", e) for n, e in by_label.items())):
        ends = {name: one.mean, f"{name}_ci_low": one.low, f"{name}_ci_high": one.high}
        numbers |= {key: value for key, value in ends.items() if value is not None}
    return numbers
