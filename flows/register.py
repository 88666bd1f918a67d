"""Stage `register`: archives every model, lets the gate decide, and makes MLflow agree with the files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from prefect import flow

from flows import tracking
from flows.archive import LOCK, archive_model, remove_leftovers
from flows.audit import Record
from flows.choice import metric_value
from flows.contest import Contest, choose
from flows.decision import catch_up, decide, load_decision, save_decision
from flows.environment import STATE
from flows.gate_scores import find_unscored
from flows.locks import LockBusyError, hold
from flows.model_files import check_present, load_json, present_files
from flows.stage import run_stage
from flows.succession import PERSON, describe
from pipeline.config import Params, load_params
from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
CHECKPOINTS = STATE / "checkpoints"


def register_models(params: Params) -> tuple[Record, dict[str, str]]:
    """Archives the models, decides about the champion, then brings MLflow in line; the alias moves last.

    A champion that has not been scored on the test cases of now is scored on them first.

    Args:
        params: All params; the models and the sections `register` and `predict` are used; to rescore, `evaluate`.

    Returns:
        The decision, and MLflow's version numbers by bundle sha256 (empty when MLflow is away).
    """
    check_present(params.models)
    for model in params.models:  # a misspelt metric stops before anything is written
        metric_value(present_files(model), params.register_.metric)
    tried: set[str] = set()
    while True:
        with hold(LOCK, "register", say=lambda line: LOGGER.info("%s", line)):
            contest = _take_stock(params)
            opponents = contest.opponents
            request = find_unscored(*opponents, params.register_.metric) if opponents else None
            if request is None or request.champion.bundle_sha256 in tried:
                decision = decide(contest, params.register_)
                save_decision(decision)
                for model in params.models:
                    prune_scratch(model)
                return decision, tracking.reconcile()
        # Without the lock: it may take long, and a person may want to roll back meanwhile.
        from flows.rescoring import rescore  # imports torch

        tried.add(request.champion.bundle_sha256)
        rescore(request, params)


def _take_stock(params: Params) -> Contest:
    """Archives the models and finds champion and challenger; the caller holds the lock."""
    name = params.register_.model_name
    remove_leftovers()
    catch_up(name)
    predict = params.predict.model_dump(mode="json")
    present = [archive_model(name, present_files(model), predict) for model in params.models]
    return choose(load_decision(name), present, params.register_)


def prune_scratch(model: str) -> None:
    """Deletes the scratch folder of an archived training, and older ones that nobody will continue.

    Folders of a training at work stay: it holds their lock.

    Args:
        model: Name of the model; it has been archived.
    """
    bundle_sha256 = present_files(model).load_run()["bundle_sha256"]
    folders = [path for path in (CHECKPOINTS / model).glob("*") if path.is_dir()]
    done = [folder for folder in folders if _finished_bundle(folder) == bundle_sha256]
    if not done:
        return
    newest = max(_last_change(folder) for folder in done)
    for folder in folders:
        if folder not in done and _last_change(folder) >= newest:
            continue
        try:
            with hold(folder / "lock", "deleting a finished training", wait=False):
                shutil.rmtree(folder, ignore_errors=True)
        except LockBusyError:
            continue


def _finished_bundle(folder: Path) -> str | None:
    """sha256 of the bundle that a training left in its scratch folder, None while it has not finished."""
    try:
        return str(load_json(folder / "finished" / "run.json", "train").get("bundle_sha256"))
    except SegtrailError:
        return None


def _last_change(folder: Path) -> float:
    # Not the folder's own time: taking the lock makes a file in it.
    times = [path.stat().st_mtime for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return max(times, default=folder.stat().st_mtime)


def summarise(decision: Record, numbers: Mapping[str, str]) -> list[str]:
    """Lines of the table at the end: one version a line, then the outcome.

    Args:
        decision: See `flows.decision.decide`.
        numbers: MLflow's version numbers by bundle sha256.
    """
    aliases = {decision["challenger"]: "challenger"}
    champion = decision["champion_after"]
    aliases[champion] = "champion, challenger" if champion == decision["challenger"] else "champion"
    rows = [("version", "model", "validation", decision["metric"], "95 % interval", "n", "alias")]
    for version in decision["versions"]:
        value, low, high = (_text(version[key]) for key in ("value", "ci_low", "ci_high"))
        validation = _text(version["validation_score"])
        sha256 = version["bundle_sha256"]
        number = f"v{numbers[sha256]}" if sha256 in numbers else sha256[:12]
        n = "-" if version["n"] is None else f"{version['n']:.0f}"
        rows.append(
            (number, version["model"], validation, value, f"{low} to {high}", n, aliases.get(sha256, ""))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"registered model {decision['name']}"]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [_validated(group) for group in decision["validation"] if len(group["scores"]) > 1]
    if decision["by"] == PERSON:
        where = f"v{numbers[champion]}" if champion in numbers else str(champion)[:12]
        return [*lines, f"champion {where} by {describe(decision['hand'])}"]
    outcome = (
        "promoted" if decision["promoted"] else "kept" if champion == decision["challenger"] else "refused"
    )
    return [*lines, f"challenger {outcome} ({decision['decided']}): {'; '.join(decision['reasons'])}"]


def _validated(group: Record) -> str:
    """Who won by one validation metric, and with what scores."""
    names = {line["bundle_sha256"]: line["model"] for line in group["scores"]}
    scores = ", ".join(f"{line['model']} {_text(line['score'])}" for line in group["scores"])
    return f"by {group['metric']} (validation cases): {names.get(group['winner'], 'nobody')} of {scores}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@flow(name="register")
def register_flow() -> None:
    """Archives, decides and reconciles; prints the table of versions."""
    decision, numbers = register_models(load_params())
    for line in summarise(decision, numbers):
        LOGGER.info("%s", line)


if __name__ == "__main__":
    run_stage(register_flow)
