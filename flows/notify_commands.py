"""`segtrail notify`: a test message, or the message about a night once more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

Commands = argparse._SubParsersAction


def add_notify_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser of `segtrail`."""
    notify = commands.add_parser("notify", help="send the message about a night, or a test")
    what = notify.add_mutually_exclusive_group()
    what.add_argument("night", nargs="?", metavar="NIGHT", help="id of a night (default: the last one)")
    what.add_argument("--test", action="store_true", help="a test message through every channel that is set")
    notify.set_defaults(run=_notify)


def _notify(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from flows.notify import send_again, send_test

    records = send_test() if options.test else send_again(options.night)
    for record in records:
        outcome = "sent" if record["sent"] else f"NOT SENT: {record['error']}"
        sys.stdout.write(f"{record['channel']:<32} {outcome}\n")
    return 0 if all(record["sent"] for record in records) else 1
