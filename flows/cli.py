"""`segtrail`: repro, data add, predict, ui, doctor."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import SegtrailError

DEVICES = "auto (a GPU if there is one), cpu, cpu:2 (two processes), or numbers of GPUs such as 0,1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; each command imports what it needs and nothing else.

    Returns:
        Exit code: 0, 1 on an error, 75 when `repro --no-wait` found the lock held, 130 after Ctrl-C, else
        that of DVC.
    """
    parser = _build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "repro":
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
        "--minutes", type=float, metavar="M", help="train each model so long; written to params.yaml"
    )
    repro.add_argument("--no-wait", action="store_true", help="leave at once when another one is running")
    repro.set_defaults(run=_repro)

    data = commands.add_parser("data", help="data sets").add_subparsers(required=True, metavar="ACTION")
    add = data.add_parser("add", help="put a raw data set under DVC and set params.yaml")
    add.add_argument("raw", nargs="?", type=Path, metavar="RAW", help="its folder; left out: fetch it")
    add.add_argument("--preset", required=True, metavar="NAME", help="a file of presets/, without .yaml")
    add.set_defaults(run=_data_add)

    predict = commands.add_parser("predict", help="segment images")
    predict.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="images or folders")
    predict.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for results")
    predict.add_argument(
        "--model",
        metavar="MODEL",
        help="NAME@champion, NAME@VERSION or a bundle's folder (default: the champion)",
    )
    predict.add_argument("--devices", default=os.environ.get("SEGTRAIL_DEVICES", "auto"), help=DEVICES)
    predict.set_defaults(run=_predict)

    ui = commands.add_parser("ui", help="browse runs and models (MLflow, Prefect)")
    ui.add_argument("--mlflow-port", type=int, default=5000, help="first port to try (default: 5000)")
    ui.add_argument("--prefect-port", type=int, default=4200, help="first port to try (default: 4200)")
    ui.set_defaults(run=_ui)

    doctor = commands.add_parser("doctor", help="what is wrong here, and how to mend it")
    doctor.add_argument(
        "--fix", action="store_true", help="end orphaned processes, close runs nobody works on"
    )
    doctor.set_defaults(run=_doctor)
    return parser


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


def _data_add(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.data import add_data
    from flows.locks import hold
    from flows.repro import LOCK
    from flows.stage import LOGGER, show_progress

    show_progress()
    with hold(LOCK, "segtrail data add", say=LOGGER.info):
        add_data(options.raw, options.preset)
    return 0


def _predict(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.predict import predict_inputs
    from flows.stage import show_progress
    from pipeline.config import load_params

    show_progress()
    model = options.model or f"{load_params().register_.model_name}@champion"
    return predict_inputs(options.inputs, options.output, model, options.devices)


def _ui(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.ui import run_ui

    return run_ui(options.mlflow_port, options.prefect_port)


def _doctor(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.doctor import run_doctor

    return run_doctor(options.fix)


if __name__ == "__main__":
    sys.exit(main())
