"""`segtrail repro`: one `dvc repro` at a time, recorded, readable, and with a summary at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from flows import dvc_lock
from flows.environment import STATE
from flows.locks import hold
from flows.params_edit import edit_params
from flows.servers import OWNER, end_group, end_with, find_owners, find_server, interrupt_on, is_recording
from flows.staging import replace_bytes
from flows.summary import summarise
from pipeline.config import load_params
from pipeline.errors import SegtrailError

LOCK = STATE / "repro.lock"
INTERRUPTED = 130

# What DVC says to somebody who types its commands by hand.
CHATTER = re.compile(
    r"^(> python -m flows\.|To track the changes with git, run:|\tgit add |To enable auto staging, run:"
    r"|\tdvc config core\.autostage|Use `dvc push` to send|Verifying data sources in stage:"
    r"|(Generating|Updating) lock file |WARNING: Process '.*RWLock-file)"
)
STARTS = re.compile(r"^Running stage '(?P<stage>[^']+)':$")
SKIPS = re.compile(r"^(Stage )?'(?P<stage>[^']+)' didn't change, skipping$")
RESTORES = re.compile(r"^Stage '(?P<stage>[^']+)' is cached - skipping run, checking out outputs$")
FAILS = re.compile(
    r"^ERROR: failed to reproduce '(?P<stage>[^']+)': failed to run: .*, exited with (?P<code>-?\d+)$"
)
ENDS = re.compile(r"^(Generating|Updating) lock file |^Use `dvc push`")


class Console:
    """Turns DVC's output into ours: stage output passes unchanged, chatter does not.

    Args:
        write: Receives each line, with its newline.

    Attributes:
        seconds: Duration of each stage that was executed.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.seconds: dict[str, float] = {}
        self._stage = ""
        self._started = 0.0
        self._blank = True

    def line(self, text: str) -> None:
        """Takes one line of DVC or of a stage."""
        bare = text.rstrip("\n")
        if found := STARTS.match(bare):
            self.end_stage()
            self._stage, self._started = found["stage"], time.monotonic()
            self._say(f"{found['stage']}\n")
        elif found := SKIPS.match(bare):
            self._say(f"{found['stage']}: unchanged\n")
        elif found := RESTORES.match(bare):
            self._say(f"{found['stage']}: restored from the cache of earlier runs\n")
        elif found := FAILS.match(bare):
            self._say(
                f"\nsegtrail: stage {found['stage']} failed ({_ending(int(found['code']))}); see above\n"
            )
        elif CHATTER.match(bare):
            if ENDS.match(bare):
                self.end_stage()
        elif bare or not self._blank:
            self._say(text)

    def end_stage(self) -> None:
        """Notes how long the stage has taken."""
        if self._stage:
            self.seconds[self._stage] = time.monotonic() - self._started
            self._stage = ""

    def _say(self, text: str) -> None:
        self._blank = not text.strip()
        self.write(text)


def _ending(code: int) -> str:
    if code >= 0 and code - 128 not in set(signal.Signals):
        return f"exit code {code}"
    return f"ended by {signal.Signals(-code if code < 0 else code - 128).name}"


def run_repro(
    arguments: Sequence[str], devices: str = "auto", wait: bool = True, minutes: float | None = None
) -> int:
    """Brings the project up to date.

    Args:
        arguments: Passed on to `dvc repro`: stages, `--force`, `--single-item` and so on.
        devices: "auto", "cpu", or indices of GPUs such as "0,1".
        wait: Whether to wait while another one runs in this project.
        minutes: Budget of each model's training, written to `params.yaml` first.

    Returns:
        DVC's exit code.

    Raises:
        SegtrailError: This is no project, or (with `wait` False) another run holds the lock.
    """
    started = time.monotonic()
    _check_project()
    load_params()  # a misspelt key must stop the run before DVC takes any output away
    command = " ".join(["segtrail repro", *arguments])
    with hold(LOCK, command, wait, lambda line: _write(f"segtrail: {line}\n")) as descriptor:
        if minutes is not None:
            _set_minutes(minutes)
        if trouble := dvc_lock.mend():
            _write(f"segtrail: {trouble}: mended\n")
        above = [pid for pid in find_owners() if pid != os.getpid()]
        if above:  # a night: what it started must not outlive it
            end_with(above)
        os.environ[OWNER] = " ".join(map(str, [os.getpid(), *above]))
        server = find_server() if is_recording() else None  # starts while DVC starts
        console = Console(_write)
        try:
            code = _run_dvc(arguments, devices, descriptor, console)
            console.end_stage()
            if code == 0:
                _write(summarise(console.seconds, time.monotonic() - started))
        finally:
            if server is not None:
                server.stop()
    return code


def _set_minutes(minutes: float) -> None:
    """Writes the training budget of the models in use into `params.yaml`: what was run stays on record."""
    params = Path("params.yaml")
    budgets = {model: {"max_minutes": minutes} for model in load_params().models}
    edit = edit_params([{"train": budgets}], params, "--minutes")
    replace_bytes(params, edit.text.encode())
    for change in edit.changes:
        _write(f"segtrail: params.yaml: {change}\n")


def _check_project() -> None:
    """Makes DVC usable without Git, and says clearly what is missing.

    Raises:
        SegtrailError: The working directory is not the top folder of a project.
    """
    missing = [name for name in ("params.yaml", "dvc.yaml", ".dvc/config") if not Path(name).is_file()]
    if missing:
        raise SegtrailError(
            f"this is not the top folder of a Segtrail project: {', '.join(missing)} missing",
            str(Path.cwd()),
            "change to the project's folder; a fresh one: git clone",
        )
    has_git = any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents))
    local = Path(".dvc/config.local")
    marked = local.is_file() and "no_scm" in local.read_text(encoding="utf-8")
    if not has_git and not marked:
        _dvc_config("core.no_scm", "true")
        _write(
            "segtrail: no Git here (a downloaded archive?): DVC works without it; runs carry no commit and\n"
            "  `dvc exp` is not available. `git init && git add . && git commit -m start` changes that.\n"
        )
    elif has_git and marked:
        _dvc_config("--unset", "core.no_scm")


def _dvc_config(*arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dvc", "config", "--local", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise SegtrailError(result.stderr.strip(), ".dvc/config.local", "mend or delete that file")


def _run_dvc(arguments: Sequence[str], devices: str, lock: int, console: Console) -> int:
    """Runs `dvc repro` in a session of its own, which ends with this function whatever happens.

    DVC inherits the lock: should this process be killed, the lock is held until DVC has ended too.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *arguments],
        env={**os.environ, "PATH": path, "SEGTRAIL_DEVICES": devices, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[lock],
        start_new_session=True,
    )
    reader = threading.Thread(target=_read, args=(process.stdout, console), daemon=True)
    reader.start()
    interrupt_on(signal.SIGTERM, signal.SIGHUP)
    try:
        return process.wait()
    except KeyboardInterrupt:
        _write("\nsegtrail: interrupted; the next `make repro` continues where this one stopped\n")
        return INTERRUPTED
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        end_group(process)
        reader.join(timeout=5)


def _read(pipe: IO[bytes] | None, console: Console) -> None:
    for line in pipe or ():
        try:
            console.line(line.decode("utf-8", errors="replace"))
        except OSError:  # nobody reads any more (`make repro | head`); DVC must not block on a full pipe
            console.write = _discard


def _discard(text: str) -> None:
    """Takes the place of a terminal that is gone."""


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
