"""Training as a process of its own: `python -m pipeline.train_worker JOB.json`.

It knows no Prefect, MLflow or DVC, so that it runs on a bare GPU machine, and so that Lightning may start it
once a device. Only the standard library and pydantic are imported before the work begins.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from pipeline.disk import explain_full_disk
from pipeline.errors import SegtrailError
from pipeline.plan import load_plan
from pipeline.training_job import TrainingJob
from pipeline.training_process import end_with_parent, hold_lock

LOGGER = logging.getLogger("segtrail")


def run_job(job: TrainingJob) -> None:
    """Trains a network, or joins those of all folds, into the output folder: see `pipeline.training_output`.

    Raises:
        SegtrailError: Another process trains in the same scratch folder, or a value cannot work.
    """
    import torch

    from pipeline.allocation import keep_freed_memory
    from pipeline.devices import parse_devices
    from pipeline.training_output import join_folds, save_training
    from pipeline.training_parts import train_networks

    if job.members:
        join_folds(job)
        return
    _check_sides(job)
    # On a GPU this flag replaces torchvision's region pooling by a slow one that needs a compiler.
    on_cpu = parse_devices(job.devices)["accelerator"] == "cpu"
    torch.use_deterministic_algorithms(on_cpu, warn_only=True)
    if on_cpu:
        keep_freed_memory()
    started = _first_start(job.scratch)
    trained = train_networks(job, load_plan(job.plan))
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        save_training(job, trained, started)


def _check_sides(job: TrainingJob) -> None:
    for side, cases in (("train", job.training_cases), ("validation", job.validation_cases)):
        if not cases:
            raise SegtrailError(
                f"no labelled case on the side {side}",
                "data/splits/splits.csv",
                "add labelled cases, or change split.salt or the fractions in params.yaml",
            )


def _first_start(scratch: Path) -> float:
    """When the training began, before any interruption; seconds since 1970."""
    scratch.mkdir(parents=True, exist_ok=True)
    note = scratch / "started"
    if not note.exists():
        note.write_text(str(time.time()), encoding="utf-8")
    return float(note.read_text(encoding="utf-8"))


def main() -> int:
    """Entry point; prints progress lines and one clear error."""
    logging.basicConfig(format="  %(message)s", stream=sys.stdout, level=logging.WARNING)
    LOGGER.setLevel(logging.INFO)
    job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    end_with_parent()
    try:
        rank_zero = int(os.environ.get("LOCAL_RANK", "0")) == 0
        lock = hold_lock(job.locked) if rank_zero else None
        with explain_full_disk(job.scratch, "segtrail repro: the training goes on from its last checkpoint"):
            run_job(job)
    except SegtrailError as error:
        sys.stderr.write(f"\nsegtrail: error: {error}\n")
        return 1
    if lock is not None:
        lock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
