"""Scores an archived champion on test cases that came after it, by the code of the stages `predict` and `evaluate`."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from flows.archive import SHORT, Version, check_version
from flows.case_scoring import CaseScorer, Scored
from flows.champion_scores import measuring_settings
from flows.environment import STATE
from flows.locks import hold
from flows.model_files import DATA, save_json
from flows.predict_settings import settings_as_scored
from flows.rescored import BASIS, TABLE, Basis, Unscored, remove_drafts, rescored_folder
from flows.stage import map_cases
from flows.stage_code import scoring_code
from pipeline.bundle import load_bundle
from pipeline.cases import CaseRecord, load_cases
from pipeline.config import EvaluateParams, Params, PredictParams
from pipeline.detection_evaluation import measure_cases
from pipeline.devices import choose_device
from pipeline.disk import explain_full_disk
from pipeline.errors import SegtrailError
from pipeline.evaluation import case_dice, save_case_metrics
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import prediction_suffix
from pipeline.prediction import STATIONS, Predictor
from pipeline.prediction_files import find_predictions
from pipeline.splits import TEST, load_splits

LOGGER = logging.getLogger("segtrail")
SCRATCH = STATE / "rescoring"
LOCK = STATE / "rescoring.lock"


def rescore(request: Unscored, params: Params) -> None:
    """Predicts and scores the cases; each is stored as soon as it is done, so that a killed run goes on where it was.

    Args:
        request: What is to be done.
        params: `evaluate` and this machine's `predict.memory_gb` are used; the champion predicts as it was scored.

    Raises:
        SegtrailError: A file is missing or damaged, or memory ran out. Cases that are done stay.
    """
    version, challenger = request.champion, request.challenger
    place = f"champion {version.bundle_sha256[:12]} of {version.name}"
    with hold(LOCK, "rescoring", say=lambda line: LOGGER.info("%s", line)):
        remove_drafts()
        shutil.rmtree(SCRATCH, ignore_errors=True)
        SCRATCH.mkdir(parents=True)
        check_version(version)
        LOGGER.info("%s is scored on %d test cases first", place, len(request.case_ids))
        predictor = open_predictor(version, params.predict)
        known = {case.case_id: case for case in load_cases(challenger.files.cases)}
        cases = [known[case_id] for case_id in request.case_ids]
        measured = measuring_settings(challenger)
        evaluate = params.evaluate.model_copy(update=measured)
        work = _make_work(predictor, _make_scorer(challenger, evaluate), version, measured)
        _run(work, cases, f"rescore {version.model}")
        shutil.rmtree(SCRATCH, ignore_errors=True)


def open_predictor(version: Version, now: PredictParams) -> Predictor:
    """Predicts as a version was scored, on this machine's device and in its memory.

    Args:
        version: Of the archive; its files are whole.
        now: The present section `predict`.
    """
    where = f"{version.name}@{version.bundle_sha256[:SHORT]}"
    device = choose_device(os.environ.get("SEGTRAIL_DEVICES", "auto"))
    settings = settings_as_scored(version.predict, now, where)
    return Predictor(load_bundle(version.files.folder), settings, device, {"name": version.name})


def _make_scorer(challenger: Version, params: EvaluateParams) -> CaseScorer:
    """The scorer of the stage `evaluate` when it scored the challenger."""
    sides = load_splits(challenger.files.splits)
    every = load_cases(challenger.files.cases)
    test = [case for case in every if case.usable and case.label and sides.get(case.case_id) == TEST]
    facts = DatasetFacts.load(challenger.files.dataset)
    return CaseScorer(facts, params, test, DATA / "inspected" / "objects.csv")


def _make_work(
    predictor: Predictor, scorer: CaseScorer, version: Version, measured: dict[str, object]
) -> Callable[[CaseRecord], Scored]:
    code = scoring_code()

    def work(case: CaseRecord) -> Scored:
        folder = SCRATCH / case.case_id  # of one case: predictions of a whole test set take much room
        folder.mkdir()
        images = [Path(path) for path in case.images]
        suffixes = {case.case_id: prediction_suffix(images)}
        try:
            with explain_full_disk(folder, "dvc repro register"):
                predictor.predict_files(images, folder, case.case_id, timed=False)
            scored = scorer.score(
                case, find_predictions(folder, suffixes, "dvc repro register")[case.case_id]
            )
        except MemoryError:
            fix = "free memory, or lower predict.memory_gb to what is free"
            raise SegtrailError("memory ran out", f"{case.case_id} ({images[0]})", fix) from None
        _save(version, case.case_id, Basis(case.sha256, measured, code), scored, scorer.params)
        shutil.rmtree(folder)
        return scored

    return work


def _save(version: Version, case_id: str, basis: Basis, scored: Scored, params: EvaluateParams) -> None:
    """Writes the score of a case, whole or not at all; an older one of the case is replaced."""
    folder = rescored_folder(version, case_id)
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    with explain_full_disk(draft, "dvc repro register"):
        draft.mkdir(parents=True)
        save_case_metrics(scored.rows, draft / TABLE, measure_cases(scored.objects, params))
        save_json(asdict(basis), draft / BASIS)
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def _run(work: Callable[[CaseRecord], Scored], cases: list[CaseRecord], label: str) -> None:
    """One progress line a case, with its mean Dice."""
    dice: dict[str, float] = {}

    def noted(case: CaseRecord) -> None:
        dice.update(case_dice(work(case).rows))

    def describe(case: CaseRecord) -> str:
        value = dice.get(case.case_id)
        return f"{case.case_id} Dice {'undefined' if value is None else f'{value:.3f}'}"

    map_cases(noted, cases, label, describe, workers=STATIONS)
