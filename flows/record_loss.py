"""Says when Prefect gives up a part of a stage's record.

Its worker that sends events of task runs dies, with all that still waits, when the server's websocket closes while it
opens, as a server without time for it does. Prefect writes that to a log of its own that nobody reads.
"""

from __future__ import annotations

import logging
import sys

INTERNAL = "prefect._internal"


class LossTeller(logging.Handler):
    """Writes one line for all losses of a process, straight to stderr: they come when the logs are closed already."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.told:
            return
        self.told = True
        message = (
            f"Prefect's page of this stage may lack task runs or log lines ({record.getMessage()[:200]})"
        )
        sys.stderr.write(f"segtrail: warning: {message}; the stage's outputs are not touched by that\n")


def tell_losses() -> None:
    """Adds the handler, once a process; Prefect's own logging must have been set up before."""
    logger = logging.getLogger(INTERNAL)
    if not any(isinstance(handler, LossTeller) for handler in logger.handlers):
        logger.addHandler(LossTeller())
