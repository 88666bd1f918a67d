"""What a training leaves in its output folder, and how the folds of a cross-validation become one model.

- `bundle.json`, `model.safetensors`, `history.csv`: the model and its curves
- `validation.csv`: closing Dice by case and class
- `low_history.csv`: of the first network of a cascade
- `folds/<k>/history.csv`, `result.json`: of each fold, where there are several
- `predictions/<case>.safetensors`: closing predictions; they stay in the scratch folder
- `result.json`: the numbers of the training; written last
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.bundle import BundleMetadata, load_bundle, save_bundle
from pipeline.closing_validation import (
    TABLE,
    ClassScore,
    closing_mirrors,
    load_prediction,
    load_table,
    mean_defined,
    save_table,
    stored_cases,
    summarise_scores,
    validate_cases,
    with_previous,
)
from pipeline.devices import choose_device
from pipeline.history import mean_history, read_history, save_history
from pipeline.models.cascade import Cascade
from pipeline.models.ensemble import join_weights
from pipeline.models.networks import build_network
from pipeline.plan import Plan, load_plan
from pipeline.postprocessing_rules import Rule
from pipeline.rule_learning import learn_rules
from pipeline.store import load_case
from pipeline.train_params import SemanticTrainParams
from pipeline.training import HISTORY
from pipeline.training_job import TrainingJob
from pipeline.training_parts import LOW, TrainedNetworks

LOGGER = logging.getLogger("segtrail")
RESULT = "result.json"
PREDICTIONS = "predictions"
LOW_HISTORY = f"{LOW}_{HISTORY}"
FOLDS = "folds"
# A score of all cases is not compared with one of the validation side.
CROSS_VALIDATED = "cross_{}"


def save_training(job: TrainingJob, trained: TrainedNetworks, started: float) -> None:
    """Writes the bundle of one network and its record; a U-Net is validated with its chosen weights first.

    Args:
        job: The training.
        trained: What came out of it.
        started: When it began, in seconds since 1970.
    """
    _clear(job.output)
    result = trained.result
    closing: dict[str, Any] = {"validation_score": result.validation_score}
    rules: list[Rule] = []
    if isinstance(job.params, SemanticTrainParams):
        rows = _validate(job, trained, job.params)
        save_table(rows, job.output / TABLE)
        closing = _summarise(rows, trained.plan)
        if not job.is_fold:
            rules = _learn_rules(job, [job.output], rows)
    sha256 = save_bundle(
        job.output,
        result.weights,
        model=job.model,
        network=trained.network,
        network_arguments=result.network_arguments,
        plan=trained.plan,
        low_plan=trained.low_plan,
        params=job.params.model_dump(mode="json"),
        provenance=job.provenance,
        validation_metric=trained.monitor,
        postprocessing=rules,
        **closing,
    )
    shutil.copyfile(job.scratch / HISTORY, job.output / HISTORY)
    if trained.low_plan is not None:
        shutil.copyfile(job.scratch / LOW / HISTORY, job.output / LOW_HISTORY)
    record = {
        "bundle_sha256": sha256,
        "best_epoch": result.best_epoch,
        "validation_metric": trained.monitor,
        "best_validation_score": result.validation_score,
        **closing,
        "seconds": round(result.seconds, 1),
        "resumed": result.resumed,
        "devices": result.devices,
        "started": started,
    }
    if job.is_fold:
        sides = {"training_cases": len(job.training_cases), "validation_cases": len(job.validation_cases)}
        record |= {"fold": job.fold, "seed": job.params.seed, **sides, "finished": time.time()}
    _save_record(record, job.output)


def _clear(output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)


def _save_record(record: dict[str, Any], output: Path) -> None:
    """Writes `result.json`, whole or not at all: it says that the work is done."""
    partial = output / f"{RESULT}.tmp"
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(output / RESULT)


def _validate(job: TrainingJob, trained: TrainedNetworks, params: SemanticTrainParams) -> list[ClassScore]:
    """The closing validation of one network, or of a cascade."""
    device = choose_device(job.devices)
    network = build_network(trained.network, **trained.result.network_arguments)
    network.load_state_dict(trained.result.weights)
    network.to(device).eval()
    mirror_axes = closing_mirrors(params.augmentation.flip_axes)
    cases = stored_cases(job.store, job.validation_cases, job.network_store)
    if isinstance(network, Cascade) and trained.low_plan is not None:
        cases = with_previous(cases, network.low, trained.low_plan, job.low_store, mirror_axes, device)
        network = network.full
    return validate_cases(
        network,
        trained.plan,
        cases,
        len(job.validation_cases),
        mirror_axes,
        device,
        job.output / PREDICTIONS,
        job.fold,
    )


def _summarise(rows: Sequence[ClassScore], plan: Plan) -> dict[str, Any]:
    """The fields of the bundle that the closing validation gives."""
    names = list(plan.scored)
    scores = summarise_scores(rows, names)
    classes = ", ".join(f"{name} {_text(scores[f'{name}/dice'])}" for name in names)
    LOGGER.info(
        "closing validation of %d cases: Dice %s (%s)",
        len({row.case_id for row in rows}),
        _text(scores["dice"]),
        classes,
    )
    return {"validation_score": scores["dice"], "validation_scores": scores}


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _learn_rules(job: TrainingJob, outputs: Sequence[Path], rows: Sequence[ClassScore]) -> list[Rule]:
    """Learns post-processing from the closing predictions; none with regions, and none with an ignore value.

    Rules take components of a class away. Where classes lie inside one another that would cut a hole into the
    regions around; where only parts are labelled nobody knows whether a component is right.

    Args:
        job: Gives the store of the references, and the plan of its grid.
        outputs: Output folder of each fold.
        rows: The table of all cases.
    """
    plan = load_plan(job.plan)
    if plan.regions or plan.ignore_value is not None:
        return []
    folders = {row.case_id: outputs[row.fold] / PREDICTIONS for row in rows}

    def pairs() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        for case_id, folder in sorted(folders.items()):
            yield load_prediction(folder, case_id), load_case(job.store, case_id).label

    return learn_rules(pairs, plan.label_names, plan.spacing_mm)


def join_folds(job: TrainingJob) -> None:
    """Joins the finished folds of a cross-validation: one bundle, the mean of the curves, all scores.

    Args:
        job: Its `members` are the outputs of the folds.
    """
    _clear(job.output)
    plan = load_plan(job.plan)
    bundles = [load_bundle(folder) for folder in job.members]
    rows = [row for folder in job.members for row in load_table(folder / TABLE)]
    save_table(rows, job.output / TABLE)
    closing = _summarise(rows, plan)
    first: BundleMetadata = bundles[0].metadata
    sha256 = save_bundle(
        job.output,
        join_weights(bundle.weights for bundle in bundles),
        model=job.model,
        network=first.network,
        network_arguments=first.network_arguments,
        plan=first.plan,
        low_plan=first.low_plan,
        params=job.params.model_dump(mode="json"),
        provenance=job.provenance,
        validation_metric=CROSS_VALIDATED.format(first.validation_metric),
        postprocessing=_learn_rules(job, job.members, rows),
        members=len(bundles),
        **closing,
    )
    curves = [HISTORY] if first.low_plan is None else [HISTORY, LOW_HISTORY]
    for name in curves:
        mean = mean_history([read_history(folder / name) for folder in job.members])
        save_history(mean, job.output / name)
    records = []
    for number, folder in enumerate(job.members):
        target = job.output / FOLDS / str(number)
        target.mkdir(parents=True)
        for name in (*curves, RESULT):
            shutil.copyfile(folder / name, target / name)
        records.append(json.loads((folder / RESULT).read_text(encoding="utf-8")))
    _save_record(_joint_record(records, sha256, closing), job.output)


def _joint_record(records: Sequence[dict[str, Any]], sha256: str, closing: dict[str, Any]) -> dict[str, Any]:
    """`result.json` of all folds together; each has a best epoch of its own, so there is none."""
    best = [r["best_validation_score"] for r in records if r["best_validation_score"] is not None]
    return {
        "bundle_sha256": sha256,
        "folds": len(records),
        "best_epoch": None,
        "validation_metric": records[0]["validation_metric"],
        "best_validation_score": mean_defined(best) if best else None,
        **closing,
        "seconds": round(sum(r["seconds"] for r in records), 1),
        "resumed": sum(r["resumed"] for r in records),
        "devices": records[0]["devices"],
        "started": min(r["started"] for r in records),
    }
