"""Training as a process of its own: `python -m pipeline.train_worker JOB.json`.

It knows no Prefect, MLflow or DVC, so that it runs on a bare GPU machine, and so that Lightning may start it
once a device. Only the standard library and pydantic are imported before the work begins.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict

from pipeline.config import InstanceTrainParams, SemanticTrainParams
from pipeline.errors import SegtrailError
from pipeline.plan import load_plan

LOGGER = logging.getLogger("segtrail")
WATCH_S = 0.5
PARENT = "SEGTRAIL_TRAIN_PARENT"


class TrainingJob(BaseModel):
    """Everything a training needs, as one JSON file.

    Attributes:
        model: Name of the model and of its network.
        params: `train.<model>`.
        plan: Path of `plan.json`.
        store: Folder of preprocessed cases.
        training_cases, validation_cases: Case ids.
        scratch: Folder of checkpoints; kept until the training has finished.
        output: Folder that receives the bundle and `history.csv`.
        provenance: Goes into the bundle as it is.
        devices: "auto", "cpu", "cpu:2", "0", "0,1".
        workers: Loader processes.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    params: SemanticTrainParams | InstanceTrainParams
    plan: Path
    store: Path
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    scratch: Path
    output: Path
    provenance: dict[str, Any]
    devices: str = "auto"
    workers: int = 0


def run_job(job: TrainingJob) -> None:
    """Trains, then writes the bundle, `history.csv` and `result.json` into the output folder.

    Raises:
        SegtrailError: Another process trains in the same scratch folder, or a value cannot work.
    """
    import pytorch_lightning as pl
    import torch

    from pipeline.allocation import keep_freed_memory
    from pipeline.bundle import save_bundle
    from pipeline.devices import parse_devices
    from pipeline.training import HISTORY, fit
    from pipeline.training_setup import build_training

    _check_sides(job)
    plan = load_plan(job.plan)
    pl.seed_everything(job.params.seed, verbose=False)
    # On a GPU this flag replaces torchvision's region pooling by a slow one that needs a compiler.
    on_cpu = parse_devices(job.devices)["accelerator"] == "cpu"
    torch.use_deterministic_algorithms(on_cpu, warn_only=True)
    if on_cpu:
        keep_freed_memory()
    module, data = build_training(
        job.model, plan, job.params, job.store, job.training_cases, job.validation_cases, job.workers
    )
    started = _first_start(job.scratch)
    result = fit(module, data, job.params, job.scratch, job.devices)
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        return
    shutil.rmtree(job.output, ignore_errors=True)
    job.output.mkdir(parents=True)
    sha256 = save_bundle(
        job.output,
        result.weights,
        model=job.model,
        network=job.model,
        network_arguments=result.network_arguments,
        plan=plan,
        params=job.params.model_dump(mode="json"),
        provenance=job.provenance,
        validation_metric=module.monitor,
        validation_score=result.validation_score,
    )
    (job.output / HISTORY).write_bytes((job.scratch / HISTORY).read_bytes())
    record = {
        "bundle_sha256": sha256,
        "best_epoch": result.best_epoch,
        "validation_metric": module.monitor,
        "best_validation_score": result.validation_score,
        "seconds": round(result.seconds, 1),
        "resumed": result.resumed,
        "devices": result.devices,
        "started": started,
    }
    (job.output / "result.json").write_text(json.dumps(record), encoding="utf-8")


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


def end_with_parent() -> None:
    """Kills this process within a second of its parent's end, so that no training runs on unseen.

    The parent names itself in the environment: it may have ended before this line is reached. Processes that
    Lightning starts for further devices watch the first one.
    """
    named = os.environ.pop(PARENT, "")
    parent = int(named) if named else os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def hold_lock(scratch: Path, patience_s: float = 5.0) -> Any:
    """Takes the lock of a scratch folder for the life of the process.

    Args:
        scratch: The folder; created.
        patience_s: Seconds to wait for a holder that is about to end.

    Raises:
        SegtrailError: Another process holds it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "lock"
    stream = path.open("a+")
    deadline = time.monotonic() + patience_s
    while not _try_lock(stream) and time.monotonic() < deadline:
        time.sleep(WATCH_S)
    if not _try_lock(stream):
        stream.seek(0)
        raise SegtrailError(
            f"another process (pid {stream.read().strip() or 'unknown'}) is training this model",
            str(path),
            "wait until it has finished, or end it",
        )
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


def _try_lock(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> int:
    """Entry point; prints progress lines and one clear error."""
    logging.basicConfig(format="  %(message)s", stream=sys.stdout, level=logging.WARNING)
    LOGGER.setLevel(logging.INFO)
    job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    end_with_parent()
    try:
        rank_zero = int(os.environ.get("LOCAL_RANK", "0")) == 0
        lock = hold_lock(job.scratch) if rank_zero else None
        run_job(job)
    except SegtrailError as error:
        sys.stderr.write(f"\nsegtrail: error: {error}\n")
        return 1
    if lock is not None:
        lock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
