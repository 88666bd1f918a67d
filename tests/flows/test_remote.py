"""Real DVC remotes: a folder, one that fills up, one that vanishes, a server that is not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from project_copy import ROOT

from flows import cli, remote
from flows.night_work import push_error
from flows.remote import PushResult, pull_dataset, push_all
from flows.remote_trouble import explain
from pipeline.errors import SegtrailError

FILES = 12


def dvc(*arguments: str, folder: Path | None = None) -> None:
    subprocess.run(
        [sys.executable, "-m", "dvc", *arguments, "-q"], cwd=folder, check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a data set of 12 files of 100,000 bytes; every step is a real command."""
    folder = tmp_path_factory.mktemp("template") / "project"
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    dvc("init", folder=folder)
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    shutil.copy(ROOT / "params.yaml", folder)
    raw = folder / "data/raw/set"
    raw.mkdir(parents=True)
    for number in range(FILES):
        (raw / f"{number}.bin").write_bytes(hashlib.sha256(bytes([number])).digest() * 3125)
    dvc("add", "data/raw/set", folder=folder)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(template, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


def add_remote(url: str, name: str = "away") -> None:
    dvc("remote", "add", "-f", "-d", name, url)


def whole_files(folder: Path) -> int:
    """Files of a remote; each holds what its name promises."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp")]
    for path in found:
        name = f"{path.parent.name}{path.name}".removesuffix(".dir")
        assert hashlib.md5(path.read_bytes()).hexdigest() == name
    return len(found)


@pytest.mark.slow
def test_pushed_and_pulled_by_somebody_else(project: Path, tmp_path: Path) -> None:
    add_remote(str(tmp_path / "store"))
    assert push_all() == PushResult("away", 1, True, "")
    assert whole_files(tmp_path / "store") == FILES + 1
    assert list(json.loads(Path(".segtrail/pushed.json").read_text())) == [str(tmp_path / "store")]
    assert cli.main(["data", "push", "--attempts", "1"]) == 0  # nothing left to do
    shutil.rmtree(".dvc/cache")
    shutil.rmtree("data/raw/set")
    assert pull_dataset("set", "away")
    assert len(list(Path("data/raw/set").iterdir())) == FILES
    # What was changed here and DVC does not know is never overwritten.
    Path("data/raw/set/0.bin").unlink()
    Path("data/raw/set/0.bin").write_text("mine")
    with pytest.raises(SegtrailError, match="were changed and DVC has no copy of them") as caught:
        pull_dataset("set", first_wait_s=0)
    assert "dvc add" in caught.value.fix
    assert Path("data/raw/set/0.bin").read_text() == "mine"
    with pytest.raises(SegtrailError, match="the data set has no record"):
        pull_dataset("other")


def test_a_version_that_nobody_has_pushed(project: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    add_remote(str(tmp_path / "store"))
    shutil.rmtree(".dvc/cache")
    shutil.rmtree("data/raw/set")
    with pytest.raises(SegtrailError, match="does not hold all files of this version") as caught:
        pull_dataset("set", first_wait_s=0)
    assert "segtrail data push" in caught.value.fix


@pytest.mark.slow
def test_remotes_that_are_not_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is one error with what to do; only what waiting may help is tried again."""
    none = push_all()
    assert push_error(none.remote, none.error).fix == "dvc remote add -d NAME FOLDER_OR_ADDRESS"
    assert "there is no DVC remote" in none.error
    dvc("remote", "add", "first", "../first")
    assert "none of the DVC remotes is the default one" in push_all().error
    result = push_all("frist")
    assert (result.pushed, result.attempts) == (False, 0)
    assert "use one of: first" in result.error
    with socket.socket() as unused:  # a port on which nobody listens
        unused.bind(("127.0.0.1", 0))
        add_remote(f"http://127.0.0.1:{unused.getsockname()[1]}/store", "server")
        result = push_all(attempts=2, first_wait_s=0.01)
        assert (result.remote, result.attempts, result.pushed) == ("server", 2, False)
        assert "the remote cannot be reached" in result.error
        assert "(2 tries)" in result.error
        assert "and 11 more like it" in result.error
        assert len(result.error.splitlines()) == 3
        assert cli.main(["data", "push", "--attempts", "1"]) == 1
    assert "the remote cannot be reached" in capsys.readouterr().err
    Path("file").touch()
    add_remote(str(Path("file").absolute() / "store"), "file")
    assert "the folder of the remote is gone or cannot be made" in push_all(attempts=1).error
    add_remote("s3://bucket/store", "cloud")
    result = push_all(attempts=3)
    if "dvc-s3" in result.error:
        assert result.attempts == 1
        assert "lacks the package" in result.error
    with pytest.raises(SegtrailError, match="0 attempts"):
        push_all(attempts=0)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small disk needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_and_then_has_space(project: Path, tmp_path: Path) -> None:
    """Waiting does not help a full disk; afterwards the push goes on, and every file is whole."""
    with small_disk(tmp_path / "disk", "700k"):
        add_remote(str(tmp_path / "disk/store"))
        result = push_all(attempts=3, first_wait_s=60)
        assert (result.attempts, result.pushed) == (1, False)
        assert "the disk is full" in result.error
        assert 0 < whole_files(tmp_path / "disk/store") < FILES
        subprocess.run(["mount", "-o", "remount,size=10m", str(tmp_path / "disk")], check=True)
        assert push_all().pushed
        assert whole_files(tmp_path / "disk/store") == FILES + 1


@pytest.mark.slow
def test_a_remote_that_dies_in_the_middle_and_comes_back(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the place of a folder makes the push fail part of the way; it is gone by the second try."""
    store = tmp_path / "store"
    add_remote(str(store))
    (store / "files").mkdir(parents=True)
    (store / "files/md5").touch()
    waits: list[float] = []

    def come_back(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            (store / "files/md5").unlink()

    monkeypatch.setattr(remote.time, "sleep", come_back)
    assert push_all(attempts=4) == PushResult("away", 3, True, "")
    assert waits == [10.0, 30.0]
    assert whole_files(store) == FILES + 1
    waits.clear()
    shutil.rmtree(store)  # the drive is not mounted: DVC would make the folder, on the wrong disk
    result = push_all(attempts=2)
    assert (result.attempts, result.pushed, waits) == (2, False, [10.0])
    assert "is its drive mounted?" in result.error
    assert not store.exists()


@pytest.mark.slow
def test_a_push_that_is_killed_goes_on(project: Path, tmp_path: Path) -> None:
    add_remote(str(tmp_path / "store"))
    code = "from flows.remote import push_all; print(push_all())"
    for count in (1, 5):
        push = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True
        )
        while push.poll() is None and len(list((tmp_path / "store").rglob("*"))) < 4 * count:
            threading.Event().wait(0.001)
        if push.poll() is None:
            os.killpg(push.pid, 9)
        push.wait()
    assert push_all(first_wait_s=1).pushed
    assert whole_files(tmp_path / "store") == FILES + 1


@pytest.mark.parametrize(
    ("said", "what", "again"),
    [
        ("ERROR: unexpected error - Forbidden: An error occurred (403)", "no right", False),
        ("ERROR: failed to push - [Errno 13] Permission denied: 'share/x'", "no right", False),
        ("ERROR: Unable to locate credentials", "no right", False),
        ("ERROR: bucket: NoSuchBucket", "bucket does not exist", False),
        ('ERROR: Could not connect to the endpoint URL: "http://127.0.0.1:9/"', "cannot be reached", True),
        ("ERROR: failed to transfer 'a' - [Errno 5] Input/output error", "went away in the middle", True),
        ("ERROR: failed to transfer 'a' - [Errno 122] Disk quota exceeded", "disk is full", False),
        (
            "ERROR: Unable to acquire lock. Most likely another DVC process is running",
            "another DVC command",
            True,
        ),
        ("ERROR: something else", "DVC failed; DVC says: something else", True),
        ("", "DVC failed; DVC says: nothing", True),
    ],
)
def test_what_dvc_says_is_told_in_other_words(said: str, what: str, again: bool) -> None:
    trouble = explain(said, "s3://bucket", "push")
    assert what in trouble.what
    assert trouble.again is again
    assert trouble.fix


def test_passwords_are_not_told(project: Path) -> None:
    add_remote("https://me:secret@127.0.0.1/store")
    assert remote.find_remote("").url == "https://127.0.0.1/store"
    trouble = explain("ERROR: Cannot connect to https://me:secret@host/x", "https://host", "push")
    assert "Cannot connect to https://host/x" in trouble.what
