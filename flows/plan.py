"""Stage `plan`: the fingerprints of the non-test cases become `data/plan/plan.json`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from flows.stage import run_stage
from flows.stage_code import code_digest
from pipeline.config import PlanParams, load_params
from pipeline.errors import SegtrailError
from pipeline.fingerprint import Fingerprint
from pipeline.io.dataset import DatasetFacts
from pipeline.network_memory import measure_step
from pipeline.plan import PREPROCESSING, Plan, load_plan
from pipeline.plan_basis import PlanBasis
from pipeline.plan_growth import Move, compare, hold, measure_basis, schemes
from pipeline.planning import build_plan
from pipeline.splits import load_splits
from pipeline.store import LOWRES, content_key

LOGGER = logging.getLogger("segtrail")
INSPECTED = Path("data/inspected")
OUTPUT = Path("data/plan")


@flow(name="plan")
def plan_flow() -> None:
    """Writes the plan and prints each value with its reason; a plan that still fits the set stays as it is."""
    sides = load_splits(Path("data/splits/splits.csv"))
    facts = DatasetFacts.load(INSPECTED / "dataset.json")
    params = load_params().plan
    wanted = schemes(facts.channels, params)
    fingerprints = [
        _load(case_id, "ct" in wanted) for case_id, side in sorted(sides.items()) if side != "test"
    ]
    rules = content_key(
        code_digest("plan"), params.model_dump_json(exclude={"tolerance"}), json.dumps(asdict(facts))
    )
    measured = measure_basis(fingerprints, wanted, rules)
    before = _load_previous(facts)
    if before is None or before.basis is None:
        plan, lines = _build(fingerprints, facts, params, measured), []
    elif before.basis.rules == rules and not _far(before.basis, measured, params):
        plan, lines = before, [describe_kept(before.basis, measured, params.tolerance)]
    else:
        basis = hold(before.basis, measured, params.tolerance)
        plan = _build(fingerprints, facts, params, basis)
        if near := compare(basis, measured):
            held = f"within plan.tolerance = {params.tolerance:g} of the set: {'; '.join(map(str, near))}"
            plan = plan.model_copy(update={"reasons": {**plan.reasons, "growth": held}})
        lines = describe_changes(before, plan, _far(before.basis, measured, params), len(sides))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    plan.save(OUTPUT / "plan.json")
    for line in [*describe(plan), *lines]:
        LOGGER.info("%s", line)


def _load(case_id: str, with_samples: bool) -> Fingerprint:
    fingerprint = Fingerprint.load(INSPECTED / "fingerprints" / f"{case_id}.json")
    if with_samples:
        return fingerprint
    intensity = tuple(channel.model_copy(update={"samples": ()}) for channel in fingerprint.intensity)
    return fingerprint.model_copy(update={"intensity": intensity})


def _load_previous(facts: DatasetFacts) -> Plan | None:
    """The plan that is there, when it is of the same data set: DVC leaves it in its place (`persist`)."""
    path = OUTPUT / "plan.json"
    if not path.exists():
        return None
    try:
        plan = load_plan(path)
    except SegtrailError as error:
        LOGGER.warning("warning: the plan is made anew: %s", error.what)
        return None
    return plan if (plan.dataset, plan.channels) == (facts.name, tuple(facts.channels)) else None


def _build(
    fingerprints: Sequence[Fingerprint], facts: DatasetFacts, params: PlanParams, basis: PlanBasis
) -> Plan:
    measure = partial(measure_step, device=os.environ.get("SEGTRAIL_DEVICES", "auto"))
    return build_plan(fingerprints, facts, params, measure if params.memory == "measure" else None, basis)


def _far(basis: PlanBasis, measured: PlanBasis, params: PlanParams) -> list[Move]:
    return [move for move in compare(basis, measured) if move.share > params.tolerance]


def describe_kept(basis: PlanBasis, measured: PlanBasis, tolerance: float) -> str:
    """Why a plan stays as it is."""
    moves = compare(basis, measured)
    farthest = f"farthest from those: {'; '.join(map(str, moves[:3]))}" if moves else "no value has moved"
    return (
        f"plan kept: made from {basis.cases} cases, there are {measured.cases}; {farthest}; "
        f"limit plan.tolerance = {tolerance:.0%}"
    )


def describe_changes(before: Plan, after: Plan, moves: Sequence[Move], cases: int) -> list[str]:
    """Which values of a plan changed, from what to what, why, and what that costs.

    Args:
        before: The plan that was there.
        after: The plan that takes its place.
        moves: What of the set moved further than the tolerance.
        cases: How many there are to preprocess.
    """
    old, new = _values(before), _values(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    causes = list(map(str, moves))
    if not moves or before.basis is None or after.basis is None or before.basis.rules != after.basis.rules:
        causes.append("params.yaml, dataset.json or code")
    why = f"because of {'; '.join(causes)}"
    lines = [
        f"plan changed: {name} {old.get(name, 'none')} -> {new.get(name, 'none')}, {why}" for name in names
    ] or [f"plan made anew, with no other value, {why}"]
    coarse = [
        plan.alternatives[LOWRES].spacing_mm if LOWRES in plan.alternatives else ()
        for plan in (before, after)
    ]
    if any(getattr(before, name) != getattr(after, name) for name in PREPROCESSING):
        cost = f"{cases} cases are preprocessed again"
    elif coarse[0] != coarse[1] and coarse[1]:
        cost = f"{cases} cases are preprocessed again on the grid of {LOWRES}"
    else:
        cost = "no case is preprocessed again"
    return [*lines, f"plan changed: this costs: {cost}"]


def _values(plan: Plan) -> dict[str, str]:
    """Every value of a plan as text, by name."""
    left_out = {"reasons", "basis", "n_cases", "alternatives", "normalization", "detection"}
    values = {name: _show(getattr(plan, name)) for name in Plan.model_fields if name not in left_out}
    for channel, how in zip(plan.channels, plan.normalization, strict=True):
        numbers = f"{how.low:g} to {how.high:g}, mean {how.mean:.4g}, deviation {how.std:.4g}"
        values[f"normalization {channel}"] = how.scheme + (f" {numbers}" if how.limits else "")
        values[f"nonzero_mask {channel}"] = str(how.nonzero_mask)
    for name in plan.alternatives:
        values[name] = _value(plan, name)
    if plan.detection is not None:
        values |= {f"detection {name}": _show(value) for name, value in plan.detection}
    return values


def describe(plan: Plan) -> list[str]:
    """One line a value: its name, itself, and why."""
    return [
        f"{name}{f' = {value}' if (value := _value(plan, name)) else ''}: {reason}"
        for name, reason in plan.reasons.items()
    ]


def _value(plan: Plan, name: str) -> str:
    """The value that a reason is about, for people; "" when the reason says it all."""
    if name.startswith("normalization "):
        channel = name.removeprefix("normalization ")
        return plan.normalization[plan.channels.index(channel)].scheme
    if name == "features":
        return ", ".join(str(width) for width in plan.features)
    if (other := plan.alternatives.get(name)) is not None:
        blocks = f", blocks {', '.join(map(str, other.blocks))}" if other.blocks else ""
        return (
            f"{_show(other.spacing_mm)} mm, image {_show(other.shape)}, patch {_show(other.patch_size)}, batch "
            f"{other.batch_size}, features {', '.join(map(str, other.features))}{blocks}"
        )
    if name == "regions":
        return ", ".join(region.name for region in plan.regions)
    found = getattr(plan, name, None)
    if found is None and plan.detection is not None:
        found = getattr(plan.detection, name.removeprefix("detection_"), None)
    return "" if found is None else _show(found)


def _show(value: Any) -> str:
    """Tuples of numbers as 40 x 56 x 40, tuples of those with commas."""
    if not isinstance(value, tuple):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if value and isinstance(value[0], tuple):
        return ", ".join(_show(part).replace(" ", "") for part in value)
    if not all(isinstance(part, (int, float)) for part in value):
        return ", ".join(map(str, value))
    return " x ".join(f"{part:g}" for part in value)


if __name__ == "__main__":
    run_stage(plan_flow)
