"""What the stage `train` trains: one job a model, with one a fold below it where it is cross-validated."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.environment import STATE
from flows.stage_code import code_digest
from pipeline.errors import SegtrailError, collect
from pipeline.folds import DRAW_FILE, assign_folds, load_draw
from pipeline.plan import load_plan
from pipeline.slices import require_detection
from pipeline.splits import TEST, load_rows, load_splits
from pipeline.store import MANIFEST, content_key
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams, TrainSections
from pipeline.training_job import TrainingJob

PLAN = Path("data/plan/plan.json")
STORE = Path("data/preprocessed")
SPLITS = Path("data/splits/splits.csv")
SEEDS = 2**32


def check_planned(models: Iterable[str], sections: TrainSections) -> None:
    """Makes sure that the plan has what each model needs, before the first one has spent its budget.

    Args:
        models: All models that are to be trained.
        sections: Section `train`.

    Raises:
        SegtrailError: There is nothing in the plan for some of them; it names them all.
    """
    plan = load_plan(PLAN)
    errors = []
    for model in models:
        params = sections.of(model)
        try:
            if isinstance(params, SemanticTrainParams):
                plan.configured(params.network, params.configuration, model)
            else:
                require_detection(plan)
        except SegtrailError as error:
            errors.append(error)
    if errors:
        raise collect(errors)


def build_job(
    model: str, params: SemanticTrainParams | InstanceTrainParams, provenance: dict[str, Any]
) -> TrainingJob:
    """Describes the training; its scratch folder is named by everything that decides the result.

    So a killed training is continued only while data, plan, split, params, code and packages are the same.
    """
    sides = load_splits(SPLITS)
    folds = params.folds if isinstance(params, SemanticTrainParams) else 1
    entries = json.loads((STORE / MANIFEST).read_text(encoding="utf-8"))
    key = content_key(
        params.model_dump_json(),
        PLAN.read_text(encoding="utf-8"),
        SPLITS.read_text(encoding="utf-8"),
        json.dumps({case: entry["key"] for case, entry in sorted(entries.items())}),
        json.dumps(provenance["packages"], sort_keys=True),
        code_digest("train"),
        *([repr(load_draw(SPLITS.parent / DRAW_FILE))] if folds > 1 else []),
    )
    loaders = os.environ.get("SEGTRAIL_LOADERS")
    scratch = STATE / "checkpoints" / model / key[:16]
    labelled = {case_id: side for case_id, side in sides.items() if case_id in entries}
    job = TrainingJob(
        model=model,
        params=params,
        plan=PLAN,
        store=STORE,
        training_cases=tuple(sorted(c for c, side in labelled.items() if side == "train")),
        validation_cases=tuple(sorted(c for c, side in labelled.items() if side == "validation")),
        scratch=scratch,
        output=scratch / "finished",
        provenance=provenance,
        devices=os.environ.get("SEGTRAIL_DEVICES", "auto"),
        workers=int(loaders) if loaders else None,
    )
    if folds == 1:
        return job
    every = tuple(sorted(case_id for case_id, side in labelled.items() if side != TEST))
    members = tuple(scratch / f"fold_{fold}" / "finished" for fold in range(folds))
    change = {"training_cases": every, "validation_cases": every, "folds": folds, "members": members}
    return job.model_copy(update=change)


def build_folds(job: TrainingJob) -> list[TrainingJob]:
    """The trainings whose results a job joins; none where it trains itself.

    Each has a seed of its own: networks that begin alike err alike.

    Raises:
        SegtrailError: A fold has no case.
    """
    if not job.members:
        return []
    patients = {row.case_id: row.patient_id for row in load_rows(SPLITS) if row.case_id in job.training_cases}
    where = f"params.yaml: train.{job.model}.folds"
    folds = assign_folds(patients, load_draw(SPLITS.parent / DRAW_FILE), job.folds, where)
    return [
        job.model_copy(
            update={
                "params": job.params.model_copy(update={"seed": (job.params.seed + number) % SEEDS}),
                "training_cases": fold.training_cases,
                "validation_cases": fold.validation_cases,
                "scratch": output.parent,
                "output": output,
                "fold": number,
                "members": (),
            }
        )
        for number, (fold, output) in enumerate(zip(folds, job.members, strict=True))
    ]
