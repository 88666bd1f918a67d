"""Data and models to and from the DVC remote, tried again where that may help, with errors a person can act on."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.environment import STATE
from flows.privacy import require_pushable
from flows.remote_trouble import Trouble, explain, hide_password
from flows.staging import recover
from pipeline.disk import write_whole
from pipeline.errors import SegtrailError, unknown_name

LOGGER = logging.getLogger("segtrail")
ATTEMPTS = 3
FIRST_WAIT_S = 10.0  # before the second try; each further one waits three times as long
LONGEST_WAIT_S = 600.0
PUSHED = STATE / "pushed.json"
# `dvc push` itself takes no commits but all of them. A commit may know other remotes than there are now.
PUSH_COMMIT = """
import sys
from dvc.repo import Repo
now = {key: Repo().config[key] for key in ("core", "remote")}
Repo(config=now).push(remote=sys.argv[1], revs=[sys.argv[2]], workspace=False)
"""


@dataclass(frozen=True)
class PushResult:
    """How a push ended.

    Attributes:
        remote: Name of the remote.
        attempts: Tries it took.
        pushed: Whether everything is there.
        error: What was wrong, where, and how to mend it; "" when pushed.
        left: Why an earlier commit is not there, or not whole, a line each; nobody tries again.
    """

    remote: str
    attempts: int
    pushed: bool
    error: str
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Remote:
    """A DVC remote.

    Attributes:
        name: Of it.
        url: Address without a password, or folder.
    """

    name: str
    url: str

    @property
    def folder(self) -> Path | None:
        """Where the remote is a folder, that one."""
        return None if "://" in self.url else Path(self.url)


def push_all(
    remote: str = "",
    attempts: int = ATTEMPTS,
    arguments: Sequence[str] = (),
    project: Path = Path(),
    first_wait_s: float = FIRST_WAIT_S,
    commits: Sequence[str] = (),
) -> PushResult:
    """Pushes data and models of the version that is checked out, after a look for names of patients.

    A push that died goes on where it stopped: what the remote has whole is not sent again.

    Args:
        remote: Name of the DVC remote; "" = the default one.
        attempts: Most tries; there is a further one only where waiting may help.
        arguments: Passed on to `dvc push`.
        project: Top folder of the project.
        first_wait_s: Seconds before the second try; each further one waits three times as long, at most 600 s.
        commits: Earlier versions that are pushed afterwards. The look for names has passed them before.

    Raises:
        SegtrailError: Something names a patient, versions shall be pushed that nobody looks at, `attempts` is below
            1. Trouble with the remote is no exception but `error`: the night goes on with its report.
    """
    if attempts < 1:
        raise SegtrailError(f"{attempts} attempts", "--attempts", "give 1 or more")
    require_pushable(arguments, project)
    try:
        place = find_remote(remote, project)
    except SegtrailError as error:
        return PushResult(remote, 0, False, str(error))
    command = ["push", "-r", place.name, *arguments]
    trouble, count = _repeat(lambda: _push_once(command, place, project), attempts, first_wait_s)
    if trouble is not None:
        tries = f" ({count} tries)" if count > 1 else ""
        what = f"nothing is lost, but the push failed{tries}: {trouble.what}"
        failure = SegtrailError(what, _where(place), trouble.fix)
        return PushResult(place.name, count, False, str(failure))
    _remember(place, project)
    left = [line for commit in commits if (line := _push_commit(commit, place, project))]
    return PushResult(place.name, count, True, "", tuple(left))


def pull_dataset(
    dataset: str,
    remote: str = "",
    project: Path = Path(),
    attempts: int = ATTEMPTS,
    first_wait_s: float = FIRST_WAIT_S,
) -> str:
    """Brings `data/raw/<dataset>` to the version of its `.dvc` file, which somebody else may have changed in Git.

    Args:
        dataset: Name of the data set.
        remote: Name of the DVC remote; "" = the default one.
        project: Top folder of the project.
        attempts: Most tries, as of `push_all`.
        first_wait_s: As of `push_all`.

    Returns:
        What DVC did, in one line.

    Raises:
        SegtrailError: There is no such record or remote, the remote cannot be reached or lacks files, or the data
            here were changed and are not under DVC: they are never overwritten.
    """
    record = project / "data" / "raw" / f"{dataset}.dvc"
    recover(record.with_suffix(""))
    if not record.is_file():
        fix = "git pull, or add the data set once with segtrail data add; or set nightly.pull to false"
        raise SegtrailError(
            "the data set has no record to pull by", record.relative_to(project).as_posix(), fix
        )
    place = find_remote(remote, project)
    said: list[str] = []

    def once() -> Trouble | None:
        done = _dvc(["pull", "-r", place.name, record.relative_to(project).as_posix()], project)
        said[:] = [line for line in done.stdout.splitlines() if line.strip()]
        return explain(done.stderr or done.stdout, place.url, "pull") if done.returncode else None

    trouble, count = _repeat(once, attempts, first_wait_s)
    if trouble is not None:
        tries = f" ({count} tries)" if count > 1 else ""
        raise SegtrailError(
            f"{record.name} cannot be pulled{tries}: {trouble.what}", _where(place), trouble.fix
        )
    return said[-1] if said else "everything is up to date"


def find_remote(name: str, project: Path = Path()) -> Remote:
    """Looks a DVC remote up.

    Args:
        name: Its name; "" = the default one.
        project: Top folder of the project.

    Raises:
        SegtrailError: There is none, none of this name, or no default.
    """
    done = _dvc(["config", "--list"], project)
    if done.returncode:
        what = f"DVC cannot read its configuration: {done.stderr.strip()}"
        raise SegtrailError(what, ".dvc/config", "mend that file")
    values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    found = {
        match[1]: url for key, url in values.items() if (match := re.fullmatch(r"remote\.(.+)\.url", key))
    }
    remotes = {key: Remote(key, hide_password(url)) for key, url in found.items()}
    default = values.get("core.remote", "")
    if not remotes:
        raise SegtrailError(
            "there is no DVC remote", ".dvc/config", "dvc remote add -d NAME FOLDER_OR_ADDRESS"
        )
    if not name and not default:
        fix = (
            f"dvc remote default NAME, or name one of {', '.join(sorted(remotes))} (nightly.remote, --remote)"
        )
        raise SegtrailError("none of the DVC remotes is the default one", ".dvc/config", fix)
    if (name or default) not in remotes:
        raise unknown_name(
            "DVC remote", name or default, remotes, "nightly.remote, --remote; dvc remote list"
        )
    return remotes[name or default]


def _push_commit(commit: str, place: Remote, project: Path) -> str:
    """Pushes what an earlier commit names; why it is not there, or not whole, in one line: "" when it is.

    It may have been thrown away, hold a broken `dvc.yaml`, or miss files in the cache; a remote with cloud versioning
    takes only what is checked out. None of that must keep the versions after it away.
    """
    done = _python(["-c", PUSH_COMMIT, place.name, commit], project)
    if not done.returncode and "WARNING" not in done.stderr:
        return ""
    lines = [line for line in hide_password(done.stderr).splitlines() if line.strip()]
    return (
        f"commit {commit[:12]} is not whole in {place.name}: {lines[-1] if lines else 'DVC does not say why'}"
    )


def _push_once(command: list[str], place: Remote, project: Path) -> Trouble | None:
    if place.folder is not None and place.url in _load_pushed(project) and not place.folder.is_dir():
        what = "the folder of the remote is gone, though data were pushed to it before: is its drive mounted?"
        fix = (
            "mount the drive, then segtrail data push; if the remote shall begin anew there, make the folder"
        )
        return Trouble(what, fix, again=True)
    done = _dvc(command, project)
    sys.stdout.write(done.stdout)
    return explain(done.stderr or done.stdout, place.url, "push") if done.returncode else None


def _repeat(
    once: Callable[[], Trouble | None], attempts: int, first_wait_s: float
) -> tuple[Trouble | None, int]:
    """Tries until it works, until trying again cannot help, or until the tries are used up."""
    wait_s = first_wait_s
    for number in range(1, attempts + 1):
        trouble = once()
        if trouble is None or not trouble.again or number == attempts:
            return trouble, number
        LOGGER.warning(
            "try %d of %d failed, the next one in %.0f s: %s", number, attempts, wait_s, trouble.what
        )
        time.sleep(wait_s)
        wait_s = min(wait_s * 3, LONGEST_WAIT_S)
    return None, 0


def _dvc(arguments: Sequence[str], project: Path) -> subprocess.CompletedProcess[str]:
    """Runs DVC; what it says about progress is no use in a record and is left out."""
    return _python(["-m", "dvc", *arguments], project)


def _python(arguments: Sequence[str], project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def _where(place: Remote) -> str:
    return f"DVC remote {place.name} ({place.url})"


def _load_pushed(project: Path) -> dict[str, str]:
    """When something was last pushed to a remote, by its address."""
    try:
        found = json.loads((project / PUSHED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(place: Remote, project: Path) -> None:
    known = _load_pushed(project) | {place.url: datetime.now(UTC).isoformat(timespec="seconds")}
    (project / PUSHED).parent.mkdir(exist_ok=True)
    write_whole(project / PUSHED, json.dumps(known, indent=2) + "\n")
