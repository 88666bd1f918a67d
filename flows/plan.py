"""Stage `plan`: the fingerprints of the non-test cases become `data/plan/plan.json`."""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import flow

from flows.stage import run_stage
from pipeline.config import load_params
from pipeline.fingerprint import Fingerprint
from pipeline.io.dataset import DatasetFacts
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
    plan = build_plan(fingerprints, facts, load_params().plan)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    plan.save(OUTPUT / "plan.json")
    for name, reason in plan.reasons.items():
        value = getattr(plan, name, getattr(plan.detection, name.removeprefix("detection_"), ""))
        LOGGER.info("%s%s: %s", name, f" {value}" if value != "" else "", reason)


if __name__ == "__main__":
    run_stage(plan_flow)
