"""`segtrail repro` as a step of a night: in a session of its own, its lines kept, its failure told in a sentence."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.locks import BUSY_EXIT_CODE
from flows.night_changes import OtherRunError
from flows.night_folder import NIGHT
from flows.servers import OWNER, STOP_TIMEOUT_S, end_group
from pipeline.disk import FULL
from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
LOG = "repro.log"
STAGE = re.compile(r"^[a-z_]+(@[\w.-]+)?$")
FAILED_STAGE = re.compile(r"^segtrail: stage (?P<stage>\S+) failed \((?P<how>.*)\); see above$")
ERROR = "segtrail: error: "
WHERE, FIX = re.compile(r"^ +where: (.*)$"), re.compile(r"^ +fix: +(.*)$")
TOTAL = re.compile(r"^\S.* in all \(.*\)$")
LAST_LINES = 3


@dataclass
class Reading:
    """What the lines of a `segtrail repro` tell.

    Attributes:
        stages: Those that were executed, in order.
        total: The line with the durations.
        failed: Stage that failed, and how; empty when none did.
        error: What, where and fix of the last error; empty without one.
        last: The last lines.
    """

    stages: list[str] = field(default_factory=list)
    total: str = ""
    failed: tuple[str, str] | None = None
    error: list[str] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    _inside: bool = False

    def line(self, text: str) -> None:
        """Takes one line, without its end."""
        if text.startswith(ERROR):
            self.error, self._inside = [text.removeprefix(ERROR), "", ""], True
            return
        if self._inside:
            self._inside = self._take_error(text)
            return
        if found := FAILED_STAGE.match(text):
            self.failed = (found["stage"], found["how"])
        elif STAGE.match(text):
            self.stages.append(text)
        elif TOTAL.match(text):
            self.total = text
        if text.strip() and not found:
            self.last = [*self.last, text.strip()][-LAST_LINES:]

    def _take_error(self, text: str) -> bool:
        """Adds a line to the error; whether the next one belongs to it, too."""
        if found := WHERE.match(text):
            self.error[1] = found[1]
        elif found := FIX.match(text):
            self.error[2] = found[1]
            return False
        else:
            self.error[0] += f"\n{text}"
        return True

    def failure(self, code: int) -> SegtrailError:
        """Why it failed."""
        what, where, fix = self.error or [" / ".join(self.last) or f"exit code {code}", "", ""]
        fix = fix or f"see the log: {LOG}"
        if self.failed is None:
            return SegtrailError(what, where or "segtrail repro", fix)
        stage, how = self.failed
        if how.startswith("ended by"):  # a signal: what was said before explains nothing
            what, fix = how, "the next night continues; killed without a reason: too little memory? (dmesg)"
        return SegtrailError(f"stage {stage} failed: {what}", where or f"stage {stage}", fix)


def run_stages(folder: Path, arguments: Sequence[str] = ()) -> Reading:
    """Runs `segtrail repro`; what it starts ends with this call, whatever happens.

    Lines are read in the calling thread: Prefect's run log takes no others.

    Args:
        folder: Of the night; gets `repro.log`.
        arguments: Passed on, such as a stage.

    Raises:
        OtherRunError: A person's `segtrail repro` is at work.
        SegtrailError: A stage failed; says which and why.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "repro", "--no-wait", *arguments],
        env=_environment(folder.name),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    reading, log = Reading(), _Log(folder / LOG)
    try:
        for line in process.stdout or ():
            text = line.decode("utf-8", errors="replace").rstrip()
            log.write(text)
            reading.line(text)
            if text.strip():
                LOGGER.info("%s", text)
        code = process.wait()
    finally:
        end_group(process, 2 * STOP_TIMEOUT_S)  # it ends DVC first, which takes up to one such time
    if code == BUSY_EXIT_CODE:
        what, _, fix = reading.error or ["the lock is held", "", "wait"]
        raise OtherRunError(f"another run is at work: {what}", "segtrail repro", fix)
    if code:
        raise reading.failure(code)
    return reading


class _Log:
    """The log file; a full disk ends it, not the work."""

    def __init__(self, path: Path) -> None:
        self._path: Path | None = path

    def write(self, text: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(f"{text}\n")
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._path = None
            LOGGER.warning("%s", error)


def _environment(night_id: str) -> dict[str, str]:
    """That of this process, without what makes Prefect take a stage for a part of our own flow run."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT__")}
    return {**kept, NIGHT: night_id, OWNER: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
