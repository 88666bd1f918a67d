"""What a training starts from: random weights, or those of the champion (`train.<model>.start`).

It is asked once a training. The answer lies in its scratch folder, together with a copy of the champion, so a killed
training goes on from the same parent when the champion has moved; and it goes into the bundle's provenance, from where
`run.json`, MLflow, the report and `segtrail lineage` have it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from flows.ancestors import Ancestor, to_ancestor, walk_ancestors
from flows.champion import find_champion, why_no_champion
from flows.train_jobs import SPLITS, build_folds
from pipeline.bundle import METADATA, WEIGHTS, BundleMetadata
from pipeline.plan import load_plan
from pipeline.seen_patients import SeenPatients, collect_judges, find_leaks, load_seen
from pipeline.training_job import TrainingJob
from pipeline.warm_start import find_misfits, find_shifts

LOGGER = logging.getLogger("segtrail")
START, RECORD = "start", "start.json"
SHORT = 12  # characters of a sha256 that a person reads


def choose_start(job: TrainingJob, name: str) -> TrainingJob:
    """Gives a training its parent, the champion, where params ask for it and it fits.

    Args:
        job: The training of a model, folds and all.
        name: Registered model whose champion is meant.

    Returns:
        The same training; with `start: champion`, what it starts from is in its provenance: `started_from` in words,
        and `parents`, the sha256 of the champion's bundle.

    Raises:
        SegtrailError: The champion's files are missing or damaged.
    """
    if job.params.start == "scratch":
        return job
    folder = job.scratch / START
    if not (folder / RECORD).is_file():
        _decide(job, name, folder)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    LOGGER.info("train %s: started from %s", job.model, record["started_from"])
    change = {"provenance": {**job.provenance, **record}, "parent": folder if record["parents"] else None}
    return job.model_copy(update=change)


def _decide(job: TrainingJob, name: str, folder: Path) -> None:
    """Writes the folder, whole or not at all: the decision, and the bundle that the training starts from."""
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    parents: list[str] = []
    version = find_champion(name)
    champion = to_ancestor(version) if version else None
    if champion is None:
        text = f"scratch ({why_no_champion()})"
    elif reasons := _objections(job, champion):
        text = f"scratch ({_title(champion)} does not fit: {'; '.join(reasons)})"
        LOGGER.warning("train %s: start: champion is asked for, but it starts from %s", job.model, text)
    else:
        text, parents = _describe(job, champion), [champion.bundle_sha256]
        for file in (METADATA, WEIGHTS):
            shutil.copyfile(champion.folder / file, partial / file)
    record = json.dumps({"started_from": text, "parents": parents}, ensure_ascii=False)
    (partial / RECORD).write_text(record + "\n", encoding="utf-8")
    partial.replace(folder)


def _title(champion: Ancestor) -> str:
    return f"the champion {champion.bundle_sha256[:SHORT]} ({champion.model})"


def _describe(job: TrainingJob, champion: Ancestor) -> str:
    shifts = find_shifts(_load_metadata(champion), load_plan(job.plan), job.params)
    return f"{_title(champion)}{'; other than there: ' * bool(shifts)}{'; '.join(shifts)}"


def _load_metadata(ancestor: Ancestor) -> BundleMetadata:
    return BundleMetadata.model_validate_json((ancestor.folder / METADATA).read_text(encoding="utf-8"))


def _objections(job: TrainingJob, champion: Ancestor) -> list[str]:
    """Why a training cannot start from the champion."""
    try:
        parent = _load_metadata(champion)
    except ValidationError as error:
        return [f"its {METADATA} is of another version of Segtrail ({error.error_count()} unknown values)"]
    misfits = find_misfits(parent, load_plan(job.plan), job.params)
    return misfits or _find_leaks(job, champion, parent.members)


def _find_leaks(job: TrainingJob, champion: Ancestor, members: int) -> list[str]:
    """Whether cases that will validate or test have taught the champion, or one that it started from itself."""
    seen: list[SeenPatients] = []
    for sha256, ancestor in walk_ancestors((champion.bundle_sha256,)):
        if ancestor is None:
            return [f"{sha256[:SHORT]}, which it started from, is not in the archive: its cases are unknown"]
        seen.append(load_seen(ancestor.splits, ancestor.folder, members))
    return find_leaks(collect_judges(SPLITS, _validation_cases(job)), seen)


def _validation_cases(job: TrainingJob) -> Sequence[Sequence[str]]:
    return [fold.validation_cases for fold in build_folds(job)] or [job.validation_cases]
