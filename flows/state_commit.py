"""Commits the state of a night on a branch of its own; working tree, index and HEAD of the user stay as they are."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
NOBODY = {"NAME": "Segtrail", "EMAIL": "segtrail@localhost"}  # where Git knows no user
NOTHING = "0" * 40


def commit_state(branch: str, message: str, project: Path = Path()) -> str:
    """Commits `dvc.lock` and `data/raw/*.dvc` as they are on disk; everything else is as the code that is checked out.

    The commit follows the last one of the branch, and HEAD where that is not in it yet. A temporary index is used,
    so a kill leaves neither a lock nor half a commit: the branch moves last, in one step.

    Args:
        branch: Made if it is missing; none that is checked out.
        message: Of the commit.
        project: Top folder of the project.

    Returns:
        The new commit's sha1; "" when there was nothing to commit. Nothing is pushed.

    Raises:
        SegtrailError: No Git, no commit yet, a branch that is checked out or not a legal name, Git refuses.
    """
    _check(branch, project)
    head, reference = _git(["rev-parse", "HEAD"], project), f"refs/heads/{branch}"
    tip = _git(["rev-parse", "--verify", "--quiet", reference], project, accept=(0, 1))
    if not tip:
        base, parents = head, [head]
    elif _is_in(head, tip, project):
        base, parents = tip, [tip]
    else:  # code has moved on: the state belongs to the code of now
        base, parents = head, [tip, head]
    tree = _write_tree(base, project)
    before = _git(["rev-parse", f"{tip or head}^{{tree}}"], project)
    if tree == before:
        LOGGER.info("nothing to commit on %s: dvc.lock and data/raw/*.dvc are as in its last commit", branch)
        return ""
    command = ["commit-tree", tree, *(text for parent in parents for text in ("-p", parent)), "-m", message]
    commit = _git(command, project, _identity(project))
    _git(["update-ref", "-m", message, reference, commit, tip or NOTHING], project)
    return commit


def _check(branch: str, project: Path) -> None:
    where = f"nightly.branch: {branch}"
    if not _is_ok(["rev-parse", "--git-dir"], project):
        raise SegtrailError(
            "the project is not under Git", where, 'git init and commit, or set nightly.branch to ""'
        )
    if not _is_ok(["rev-parse", "--verify", "--quiet", "HEAD"], project):
        raise SegtrailError("Git has no commit yet", where, "git add -A && git commit")
    if branch.startswith("-") or not _is_ok(["check-ref-format", f"refs/heads/{branch}"], project):
        raise SegtrailError("this is no legal name of a branch", where, "use letters, digits, - and /")
    worktrees = _git(["worktree", "list", "--porcelain"], project).splitlines()
    if f"branch refs/heads/{branch}" in worktrees:
        what = "the branch is checked out: a commit from outside would make your files look changed"
        raise SegtrailError(what, where, "name another branch, such as nightly, or check another one out")


def _write_tree(base: str, project: Path) -> str:
    """The tree of a commit with the state files of the working folder in it."""
    top, prefix = (
        Path(_git(["rev-parse", "--show-toplevel"], project)),
        _git(["rev-parse", "--show-prefix"], project),
    )
    with tempfile.TemporaryDirectory(prefix="segtrail-index-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(["read-tree", base], project, index)
        listed = _git(["ls-files", "--full-name", "-z", "--", "dvc.lock", "data/raw/*.dvc"], project, index)
        there = {f"{prefix}{path.relative_to(project).as_posix()}": path for path in _state_files(project)}
        for name in sorted(set(filter(None, listed.split("\0"))) - there.keys()):
            _git(["update-index", "--force-remove", "--", name], top, index)
        for name, path in there.items():
            sha1 = _git(["hash-object", "-w", "--", path.relative_to(project).as_posix()], project)
            _git(["update-index", "--add", "--cacheinfo", f"100644,{sha1},{name}"], top, index)
        return _git(["write-tree"], project, index)


def _state_files(project: Path) -> list[Path]:
    found = [project / "dvc.lock", *sorted((project / "data" / "raw").glob("*.dvc"))]
    return [path for path in found if path.is_file()]


def _identity(project: Path) -> dict[str, str]:
    if _is_ok(["var", "GIT_COMMITTER_IDENT"], project) and _is_ok(["var", "GIT_AUTHOR_IDENT"], project):
        return {}
    return {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in NOBODY.items()}


def _is_in(commit: str, tip: str, project: Path) -> bool:
    return _is_ok(["merge-base", "--is-ancestor", commit, tip], project)


def _is_ok(arguments: Sequence[str], project: Path) -> bool:
    return _run(arguments, project, {}).returncode == 0


def _git(
    arguments: Sequence[str],
    project: Path,
    variables: dict[str, str] | None = None,
    accept: Sequence[int] = (0,),
) -> str:
    done = _run(arguments, project, variables or {})
    if done.returncode not in accept:
        said = done.stderr.strip() or done.stdout.strip()
        what = f"git {arguments[0]} failed: {said}"
        raise SegtrailError(what, str(project.absolute()), "mend what Git says, then repeat")
    return done.stdout.strip()


def _run(
    arguments: Sequence[str], project: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=project, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise SegtrailError(
            "git is not installed", "PATH", 'install it, or set nightly.branch to ""'
        ) from error
