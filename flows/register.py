"""Stage `register`: archives every model, lets the gate decide, and makes MLflow agree with the files."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prefect import flow

from flows import tracking
from flows.archive import archive_model, remove_leftovers
from flows.decision import Record, decide, save_decision
from flows.environment import STATE
from flows.model_files import check_present, present_files
from flows.stage import run_stage
from pipeline.config import Params, load_params

LOGGER = logging.getLogger("segtrail")
LOCK = STATE / "register.lock"


@contextmanager
def register_lock() -> Iterator[None]:
    """Lets one process at a time write archive, decision and aliases; others wait."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOGGER.info("another register is at work; waiting for it (%s)", LOCK)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def register_models(params: Params) -> tuple[Record, dict[str, str]]:
    """Archives the models, decides about the champion, then brings MLflow in line; the alias moves last.

    Args:
        params: All params; the models and the sections `register` and `predict` are used.

    Returns:
        The decision, and MLflow's version numbers by bundle sha256 (empty when MLflow is away).
    """
    name = params.register_.model_name
    check_present(params.models)
    with register_lock():
        remove_leftovers()
        predict = params.predict.model_dump(mode="json")
        present = [archive_model(name, present_files(model), predict) for model in params.models]
        decision = decide(present, params.register_)
        save_decision(decision)
        return decision, tracking.reconcile()


def summarise(decision: Record, numbers: Mapping[str, str]) -> list[str]:
    """Lines of the table at the end: one version a line, then the outcome.

    Args:
        decision: See `flows.decision.decide`.
        numbers: MLflow's version numbers by bundle sha256.
    """
    aliases = {decision["challenger"]: "challenger"}
    champion = decision["champion_after"]
    aliases[champion] = "champion, challenger" if champion == decision["challenger"] else "champion"
    rows = [("version", "model", decision["metric"], "95 % interval", "n", "alias")]
    for version in decision["versions"]:
        value, low, high = (_text(version[key]) for key in ("value", "ci_low", "ci_high"))
        sha256 = version["bundle_sha256"]
        number = f"v{numbers[sha256]}" if sha256 in numbers else sha256[:12]
        n = "-" if version["n"] is None else f"{version['n']:.0f}"
        rows.append((number, version["model"], value, f"{low} to {high}", n, aliases.get(sha256, "")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"registered model {decision['name']}"]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    outcome = (
        "promoted" if decision["promoted"] else "kept" if champion == decision["challenger"] else "refused"
    )
    return [*lines, f"challenger {outcome} ({decision['decided']}): {'; '.join(decision['reasons'])}"]


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
