"""`segtrail data`: add, take-in, draft, accept, scan, push; each command imports what it needs and nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from pipeline.errors import SegtrailError

DEVICES = "auto (a GPU if there is one), cpu, cpu:2 (two processes), or numbers of GPUs such as 0,1"
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_data_commands(commands: Commands) -> None:
    """Adds `data` and its actions to the commands of `segtrail`."""
    data = commands.add_parser("data", help="data sets").add_subparsers(required=True, metavar="ACTION")
    add = data.add_parser("add", help="put a raw data set under DVC and set params.yaml")
    add.add_argument("raw", nargs="?", type=Path, metavar="RAW", help="its folder; left out: fetch it")
    add.add_argument("--preset", required=True, metavar="NAME", help="a file of presets/, without .yaml")
    add.add_argument(
        "--also", action="append", default=[], type=Path, metavar="FILE",
        help="put this file into the data set too, such as cases.csv or dataset.json; may be repeated",
    )  # fmt: skip
    add.add_argument(
        "--keep-identity", action="store_true", help="take the files as they are, names of patients included"
    )
    add.set_defaults(run=_data_add)

    take_in = data.add_parser("take-in", help="take whole lots of new cases from the incoming folder")
    take_in.add_argument("--incoming", type=Path, metavar="FOLDER", help="default: nightly.incoming")
    take_in.add_argument(
        "--settle", type=float, metavar="S", help="seconds of rest of a lot (default: nightly.settle_seconds)"
    )
    take_in.set_defaults(run=_data_take_in)

    scan = data.add_parser("scan", help="look for names, ids and birth dates of patients in the project")
    scan.set_defaults(run=_data_scan)
    push = data.add_parser("push", help="dvc push, after the same look", allow_abbrev=False)
    push.add_argument("-r", "--remote", default="", metavar="NAME", help="of the DVC remote (default: DVC's)")
    push.add_argument(
        "--attempts",
        type=int,
        default=3,
        metavar="N",
        help="tries where the remote does not answer (default: 3)",
    )
    push.set_defaults(run=_data_push, passes_on=True)
    _add_annotation(data)


def _add_annotation(data: Commands) -> None:
    draft = data.add_parser("draft", help="label maps of a model, for a person to correct")
    draft.add_argument(
        "inputs", nargs="*", metavar="CASE_OR_IMAGE", help="left out: the cases without a label"
    )
    draft.add_argument("-o", "--output", required=True, type=Path, metavar="DRAFTS", help="folder for them")
    draft.add_argument("--model", metavar="MODEL", help="as of predict (default: the champion)")
    draft.add_argument("--devices", default=os.environ.get("SEGTRAIL_DEVICES", "auto"), help=DEVICES)
    draft.set_defaults(run=_data_draft)
    accept = data.add_parser("accept", help="corrected drafts become labels, a new version under DVC")
    accept.add_argument("drafts", type=Path, metavar="DRAFTS", help="folder of the corrected drafts")
    accept.add_argument("--by", default="", metavar="NAME", help="who accepts them (default: the user)")
    accept.add_argument("--unchanged", action="store_true", help="take drafts that nobody changed too")
    accept.set_defaults(run=_data_accept)


def _data_add(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.data import add_data, check_arguments
    from flows.locks import hold
    from flows.repro import LOCK
    from flows.stage import LOGGER, show_progress

    show_progress()
    check_arguments(options.raw, options.preset, also=options.also)
    with hold(LOCK, "segtrail data add", say=LOGGER.info):
        add_data(options.raw, options.preset, also=options.also, keep_identity=options.keep_identity)
    return 0


def _data_take_in(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.incoming import take_in
    from flows.locks import hold
    from flows.repro import LOCK
    from flows.stage import LOGGER, show_progress
    from pipeline.config import load_params

    show_progress()
    params = load_params()
    incoming = options.incoming or Path(params.nightly.incoming)
    if not (options.incoming or params.nightly.incoming):
        fix = "give --incoming FOLDER, or set nightly.incoming"
        raise SegtrailError("no incoming folder is named", "params.yaml: nightly.incoming", fix)
    settle_s = params.nightly.settle_seconds if options.settle is None else options.settle
    with hold(LOCK, "segtrail data take-in", say=LOGGER.info):
        take_in(params.inspect.dataset, incoming, settle_s)
    return 0


def _data_scan(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.privacy import scan_project
    from flows.stage import show_progress

    show_progress()
    scan_project()
    return 0


def _data_push(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.remote import push_all
    from flows.stage import show_progress

    show_progress()
    result = push_all(options.remote, options.attempts, rest)
    if not result.pushed:
        sys.stderr.write(f"segtrail: error: {result.error}\n")
    return 0 if result.pushed else 1


def _data_draft(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.drafts import draft_cases
    from flows.stage import show_progress
    from pipeline.config import load_params

    show_progress()
    model = options.model or f"{load_params().register_.model_name}@champion"
    return draft_cases(options.inputs, options.output, model, options.devices)


def _data_accept(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.acceptance import accept_drafts
    from flows.locks import hold
    from flows.repro import LOCK
    from flows.stage import LOGGER, show_progress

    show_progress()
    with hold(LOCK, "segtrail data accept", say=LOGGER.info):
        accept_drafts(options.drafts, options.by, options.unchanged)
    return 0
