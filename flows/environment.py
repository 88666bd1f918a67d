"""Settings of Prefect, MLflow, DVC and OpenMP, fixed before any of them is imported.

Everything a run writes stays below `.segtrail/` of the project, the working directory. A variable that the
user has set wins. Only the standard library is imported here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

STATE = Path(".segtrail")


def configure() -> None:
    """Sets the defaults in `os.environ`; call before Prefect, MLflow or torch is imported."""
    state = state_folder()
    if Path("params.yaml").is_file():
        state.mkdir(exist_ok=True)  # Prefect cannot make its home when the folder above it is missing
    defaults = {
        "PREFECT_HOME": str(state / "prefect"),
        "TORCH_HOME": str(state / "torch"),  # ImageNet weights, when params ask for them
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # The run log goes to the Prefect UI; the terminal shows our own progress lines.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "segtrail",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        # A lost server holds up a finished stage for 1 min instead of 4.
        "PREFECT_CLIENT_MAX_RETRIES": "3",
        "MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
        # Spinning OpenMP threads make a shared machine 10 to 40 times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "agg",
    }
    if secret := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        defaults["PREFECT_API_AUTH_STRING"] = secret  # the project's own servers ask for it, too
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def state_folder() -> Path:
    """Absolute path of `.segtrail`; in a temporary copy that `dvc exp run` works in, that of its project.

    Runs that an experiment records would otherwise vanish with the copy.
    """
    here = Path.cwd()
    for folder in here.parents:
        if folder.name == "exps" and folder.parent.name == "tmp" and folder.parent.parent.name == ".dvc":
            return folder.parent.parent.parent / STATE
    return here / STATE


def use_project_interpreter() -> None:
    """Restarts a module with `.venv/bin/python` when the interpreter at hand lacks the packages.

    `dvc repro` runs stages with the `python` of the caller's PATH, which is not the project's when the
    environment has not been activated.
    """
    project_python = Path(os.environ.get("SEGTRAIL_PYTHON", ".venv/bin/python"))
    if importlib.util.find_spec("prefect") is not None or not project_python.exists():
        return
    os.execv(project_python, [str(project_python), *sys.orig_argv[1:]])
