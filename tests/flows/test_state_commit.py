"""The state of a night is committed beside the user's work, which stays as it is to the byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from project_copy import ROOT

from flows.state_commit import commit_state
from pipeline.errors import SegtrailError


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(params=["", "deep/project"])
def repository(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose user is in the middle of something; the project may lie in a folder of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    top = tmp_path / "repository"
    project = top / request.param
    (project / "data/raw").mkdir(parents=True)
    monkeypatch.chdir(project)
    (project / "dvc.lock").write_text("first\n")
    (project / "data/raw/old.dvc").write_text("old\n")
    (project / "code.py").write_text("code\n")
    git("init", "-q", "-b", "main", str(top))
    git("config", "user.useConfigOnly", "true")
    git("add", "-A")
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm", "Start")
    (project / "code.py").write_text("half finished\n")
    (project / "staged.py").write_text("staged\n")
    git("add", "staged.py")
    (project / "new.py").write_text("untracked\n")
    return top


def user_state(top: Path) -> tuple[str, ...]:
    index = (top / ".git/index").read_bytes().hex()
    return index, git("rev-parse", "HEAD"), git("symbolic-ref", "HEAD"), git("status", "--porcelain", "-uall")


def test_state_files_alone_are_committed_and_nothing_of_the_user_is_touched(repository: Path) -> None:
    Path("dvc.lock").write_text("second\n")
    Path("data/raw/new.dvc").write_text("new\n")
    Path("data/raw/old.dvc").unlink()
    before = user_state(repository)
    first = commit_state("nightly", "Night 1")
    assert user_state(repository) == before
    assert git("rev-parse", "nightly") == first
    assert git("show", "--name-status", "--format=%an <%ae>|%s", "--no-renames", first).split("\n\n")[0] == (
        "Segtrail <segtrail@localhost>|Night 1"
    )
    changed = git("diff", "--name-status", "--relative", "HEAD", "nightly", "--no-renames").split()
    assert changed == ["A", "data/raw/new.dvc", "D", "data/raw/old.dvc", "M", "dvc.lock"]
    assert git("show", "nightly:./dvc.lock") == "second"
    assert git("show", "nightly:./code.py") == "code"
    assert commit_state("nightly", "Night 2") == ""  # nothing has changed
    assert git("rev-parse", "nightly") == first
    Path("dvc.lock").write_text("third\n")
    third = commit_state("nightly", "Night 3")
    assert git("rev-parse", f"{third}^") == first
    # Code moves on: the next state belongs to it, and follows both.
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qam", "Finished")
    Path("dvc.lock").write_text("fourth\n")
    fourth = commit_state("nightly", "Night 4")
    assert git("rev-parse", f"{fourth}^1", f"{fourth}^2").split() == [third, git("rev-parse", "HEAD")]
    assert git("show", "nightly:./code.py") == "half finished"
    assert git("show", "nightly:./dvc.lock") == "fourth"
    assert git("fsck", "--strict") == ""


def test_nothing_to_commit_makes_no_branch(repository: Path) -> None:
    assert commit_state("nightly", "Night") == ""
    assert git("branch", "--format=%(refname:short)") == "main"


def test_a_branch_that_cannot_be_used(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("dvc.lock").write_text("second\n")
    with pytest.raises(SegtrailError, match="the branch is checked out") as caught:
        commit_state("main", "Night")
    assert caught.value.where == "nightly.branch: main"
    git("worktree", "add", "-q", "-b", "beside", str(tmp_path / "beside"))
    with pytest.raises(SegtrailError, match="the branch is checked out"):
        commit_state("beside", "Night")
    for name in ("two words", "-f", "a..b"):
        with pytest.raises(SegtrailError, match="no legal name"):
            commit_state(name, "Night")
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path / "bare")
    with pytest.raises(SegtrailError, match="not under Git"):
        commit_state("nightly", "Night")
    git("init", "-q")
    with pytest.raises(SegtrailError, match="no commit yet"):
        commit_state("nightly", "Night")


KILLED = """
import os, signal, sys
import flows.state_commit as module

original, left = module._run, int(sys.argv[1])
def die(*arguments):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
module._run = die
print(module.commit_state("nightly", "Night"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("repository", [""], indirect=True)
def test_killed_before_any_command_of_git(repository: Path) -> None:
    """No lock is left, the branch is there or not, and the next call commits."""
    Path("dvc.lock").write_text("second\n")
    before, number, code = user_state(repository), 0, -9
    while code == -9:
        number += 1
        code = subprocess.run(
            [sys.executable, "-c", KILLED, str(number)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
        ).returncode  # fmt: skip
        assert user_state(repository) == before
        assert not list((repository / ".git").rglob("*.lock"))
        assert ("nightly" in git("branch", "--format=%(refname:short)")) == (code == 0)
    assert number > 10
    assert git("show", "nightly:dvc.lock") == "second"
