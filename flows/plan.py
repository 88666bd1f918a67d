"""Stage `plan`: the fingerprints of the non-test cases become `data/plan/plan.json`."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from flows.stage import run_stage
from pipeline.config import load_params
from pipeline.fingerprint import Fingerprint
from pipeline.io.dataset import DatasetFacts
from pipeline.network_memory import measure_step
from pipeline.plan import Plan
from pipeline.planning import build_plan
from pipeline.splits import load_splits

LOGGER = logging.getLogger("segtrail")
INSPECTED = Path("data/inspected")
OUTPUT = Path("data/plan")


@flow(name="plan")
def plan_flow() -> None:
    """Writes the plan and prints each value with its reason."""
    sides = load_splits(Path("data/splits/splits.csv"))
    fingerprints = [
        Fingerprint.load(INSPECTED / "fingerprints" / f"{case_id}.json")
        for case_id, side in sorted(sides.items())
        if side != "test"
    ]
    facts = DatasetFacts.load(INSPECTED / "dataset.json")
    params = load_params().plan
    measure = partial(measure_step, device=os.environ.get("SEGTRAIL_DEVICES", "auto"))
    plan = build_plan(fingerprints, facts, params, measure if params.memory == "measure" else None)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    plan.save(OUTPUT / "plan.json")
    for line in describe(plan):
        LOGGER.info("%s", line)


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
    if name == "lowres":
        low = plan.lowres
        return (
            f"{_show(low.spacing_mm)} mm, image {_show(low.shape)}, patch {_show(low.patch_size)}"
            if low
            else "none"
        )
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
    return " x ".join(f"{part:g}" for part in value)


if __name__ == "__main__":
    run_stage(plan_flow)
