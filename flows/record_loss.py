"""Says when Prefect's client gives up a part of a stage's record.

Its worker that sends events of task runs dies, with all that still waits, when the server's websocket closes while it
opens, as a server without time for it does. Prefect tells a logger that `flows.environment` keeps off the terminal.
"""

from __future__ import annotations

import contextlib
import logging
import sys

INTERNAL = "prefect._internal"
# The module of the workers that send events and log lines; errors of others there are no loss.
WORKERS = "services"


class LossTeller(logging.Handler):
    """Writes one line for all losses of a process, straight to stderr: they come when the logs are closed already."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.told or record.module != WORKERS:
            return
        self.told = True
        text = f"Prefect's page of this stage may lack task runs ({record.getMessage()[:200]})"
        # An error here would end the worker, with all that it still has.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"segtrail: warning: {text}; the loss is in that record only\n")


def tell_losses() -> None:
    """Adds the handler, once a process; Prefect's own logging must have been set up before."""
    logger = logging.getLogger(INTERNAL)
    if not any(isinstance(handler, LossTeller) for handler in logger.handlers):
        logger.addHandler(LossTeller())
