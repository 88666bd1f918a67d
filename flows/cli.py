"""`segtrail`: repro, data, predict, promote, rollback, history, lineage, drift, night, schedule, notify, ui, doctor."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.data_commands import DEVICES, add_data_commands
from flows.notify_commands import add_notify_commands
from flows.schedule_commands import add_schedule_commands
from pipeline.errors import SegtrailError


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; each command imports what it needs and nothing else.

    Returns:
        Exit code: 0, 1 on an error, 75 when `repro --no-wait` found the lock held, 130 after Ctrl-C, else
        that of DVC.
    """
    parser = _build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "repro" and not getattr(options, "passes_on", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        _check_folder()
        return int(options.run(options, rest))
    except SegtrailError as error:
        from flows.locks import BUSY_EXIT_CODE, LockBusyError

        sys.stdout.flush()
        sys.stderr.write(f"segtrail: error: {error}\n")
        return BUSY_EXIT_CODE if isinstance(error, LockBusyError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("\nsegtrail: interrupted\n")
        return 130


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segtrail", description="From raw medical images to a registered segmentation model."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    repro = commands.add_parser(
        "repro", help="bring everything up to date (dvc repro)", allow_abbrev=False,
        epilog="Everything else is passed on to `dvc repro`: stages, --force, --single-item and so on.",
    )  # fmt: skip
    repro.add_argument("--devices", default=os.environ.get("SEGTRAIL_DEVICES", "auto"), help=DEVICES)
    repro.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="train each model, or each of its folds, so long; written to params.yaml",
    )
    repro.add_argument("--no-wait", action="store_true", help="leave at once when another one is running")
    repro.set_defaults(run=_repro)

    add_data_commands(commands)

    _add_predict(commands)
    _add_registry(commands)
    add_notify_commands(commands)
    add_schedule_commands(commands)
    night = commands.add_parser("night", help="run one night of the nightly loop now, without the schedule")
    night.set_defaults(run=_night)

    ui = commands.add_parser("ui", help="browse runs and models (MLflow, Prefect)")
    ui.add_argument("--mlflow-port", type=int, default=5000, help="first port to try (default: 5000)")
    ui.add_argument("--prefect-port", type=int, default=4200, help="first port to try (default: 4200)")
    ui.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    ui.add_argument("--allowed-hosts", default="", metavar="NAMES", help="names others call this machine by")
    ui.set_defaults(run=_ui)

    doctor = commands.add_parser("doctor", help="what is wrong here, and how to mend it")
    doctor.add_argument(
        "--fix", action="store_true", help="end orphaned processes, close runs nobody works on"
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    predict = commands.add_parser("predict", help="segment images")
    predict.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="images or folders")
    predict.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for results")
    predict.add_argument(
        "--model",
        metavar="MODEL",
        help="NAME@champion, NAME@VERSION or a bundle's folder (default: the champion)",
    )
    predict.add_argument("--devices", default=os.environ.get("SEGTRAIL_DEVICES", "auto"), help=DEVICES)
    predict.add_argument(
        "--dicom-seg", action="store_true", help="write a DICOM segmentation too (of DICOM series alone)"
    )
    predict.set_defaults(run=_predict)


def _add_registry(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reason = {"required": True, "metavar": "TEXT", "help": "why; it stands in the audit log and in MLflow"}
    promote = commands.add_parser("promote", help="make a version champion by hand")
    promote.add_argument("version", metavar="NAME@VERSION", help="number in MLflow, or a bundle's sha256")
    promote.add_argument("--reason", **reason)  # type: ignore[arg-type]
    promote.set_defaults(run=_promote)
    rollback = commands.add_parser("rollback", help="make the champion before champion again")
    rollback.add_argument("name", nargs="?", metavar="NAME", help="default: register.model_name")
    rollback.add_argument("--reason", **reason)  # type: ignore[arg-type]
    rollback.set_defaults(run=_rollback)
    history = commands.add_parser("history", help="who made what champion, when and why")
    history.add_argument("name", nargs="?", metavar="NAME", help="default: register.model_name")
    history.set_defaults(run=_history)
    lineage = commands.add_parser("lineage", help="what a version was made of")
    lineage.add_argument("version", nargs="?", metavar="NAME@VERSION", help="default: the champion")
    lineage.add_argument("--json", action="store_true", help="for a program")
    lineage.set_defaults(run=_lineage)
    drift = commands.add_parser("drift", help="do new cases differ from those the champion knows?")
    drift.add_argument(
        "-o", "--output", type=Path, default=Path(".segtrail/drift"), metavar="FOLDER",
        help="for drift.json and drift.png (default: %(default)s)",
    )  # fmt: skip
    drift.set_defaults(run=_drift)


def _check_folder() -> None:
    """All paths are relative to the project's top folder, which is the working directory.

    Raises:
        SegtrailError: This is another folder.
    """
    if not Path("params.yaml").is_file():
        raise SegtrailError(
            "there is no params.yaml in this folder", str(Path.cwd()), "change to the project's top folder"
        )


def _repro(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.repro import run_repro

    return run_repro(rest, options.devices, wait=not options.no_wait, minutes=options.minutes)


def _predict(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.predict import predict_inputs
    from flows.stage import show_progress
    from pipeline.config import load_params

    show_progress()
    model = options.model or f"{load_params().register_.model_name}@champion"
    return predict_inputs(options.inputs, options.output, model, options.devices, options.dicom_seg)


def _promote(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.hand import promote_version
    from flows.stage import show_progress

    show_progress()
    promote_version(options.version, options.reason)
    return 0


def _rollback(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.hand import roll_back_champion
    from flows.stage import show_progress

    show_progress()
    roll_back_champion(options.name, options.reason)
    return 0


def _history(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.hand import tell_history

    sys.stdout.write("\n".join(tell_history(options.name)) + "\n")
    return 0


def _lineage(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.lineage import tell_lineage

    sys.stdout.write(tell_lineage(options.version, options.json) + "\n")
    return 0


def _night(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.nightly import run_by_hand

    return run_by_hand()


def _drift(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.drift import tell_drift
    from flows.stage import show_progress

    show_progress()
    sys.stdout.write("\n".join(tell_drift(options.output)) + "\n")
    return 0


def _ui(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.ui import run_ui

    return run_ui(options.mlflow_port, options.prefect_port, options.host, options.allowed_hosts)


def _doctor(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.doctor import run_doctor

    return run_doctor(options.fix)


if __name__ == "__main__":
    sys.exit(main())
