"""`segtrail schedule` and its actions; each imports what it needs and nothing else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flows.data_commands import Commands


def add_schedule_commands(commands: Commands) -> None:
    """Adds `schedule` to the commands of `segtrail`."""
    schedule = commands.add_parser(
        "schedule", help="run a night by the clock", description="Serves the schedule until Ctrl-C."
    )
    schedule.add_argument(
        "--cron", metavar="TEXT", help='such as "0 2 * * *" (02:00 every night); written to params.yaml'
    )
    schedule.add_argument("--timezone", metavar="NAME", help="such as Europe/Vienna; written to params.yaml")
    schedule.add_argument(
        "--work-pool", metavar="NAME", help="leave the nights to the workers of this pool; made if missing"
    )
    schedule.set_defaults(run=_serve)
    actions = schedule.add_subparsers(metavar="ACTION")
    status = actions.add_parser("status", help="what is served, the next nights and the last ones")
    status.add_argument("--json", action="store_true", help="for a program")
    status.set_defaults(run=_status)
    actions.add_parser("pause", help="let no night start by itself").set_defaults(run=_pause)
    actions.add_parser("resume", help="let them start again").set_defaults(run=_resume)
    actions.add_parser("run-now", help="start a night now, on the server").set_defaults(run=_run_now)


def _serve(options: argparse.Namespace, rest: Sequence[str]) -> int:
    if options.work_pool:
        from flows.schedule_pool import deploy_to_pool

        sys.stdout.write(deploy_to_pool(options.work_pool, options.cron, options.timezone) + "\n")
        return 0
    from flows.schedule import serve_schedule

    return serve_schedule(options.cron, options.timezone)


def _status(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.schedule_status import tell_status

    sys.stdout.write(tell_status(options.json) + "\n")
    return 0


def _pause(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.schedule_control import set_pause

    sys.stdout.write(set_pause(True) + "\n")
    return 0


def _resume(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.schedule_control import set_pause

    sys.stdout.write(set_pause(False) + "\n")
    return 0


def _run_now(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.schedule_control import run_now

    sys.stdout.write(run_now() + "\n")
    return 0
