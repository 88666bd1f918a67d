"""What a kill, a second process and a full disk leave behind: whole files, nothing computed twice, one clear error."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from growing_project import GrowingProject, counted, end_stage, folder_hash, start_stage
from small_project import wait_until

import flows.inspect
import flows.plan
import flows.preprocess
from pipeline.errors import SegtrailError

JOURNAL = Path("data/preprocessed/_journal.jsonl")
# Ends the process in a certain call of a function.
KILLED = """
import os, signal
import {module} as module
original, left = module.{name}, {calls}
def die_in_the_middle(*arguments):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    {rest} original(*arguments)
module.{name} = die_in_the_middle
"""


@pytest.fixture
def grown(
    project: Path, shared_data: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> GrowingProject:
    """A project of 40 cases, ready to be inspected."""
    for module in (flows.inspect, flows.plan, flows.preprocess):
        monkeypatch.setattr(module, "code_digest", lambda stage: "code")
    return GrowingProject(shared_data, 40)


def inspect(messages: list[str]) -> int:
    messages.clear()
    flows.inspect.inspect_flow.fn()
    return counted(messages, "inspect")[0]


def preprocess(messages: list[str]) -> int:
    messages.clear()
    flows.preprocess.preprocess_flow.fn()
    return counted(messages, "preprocess")[0]


@pytest.mark.slow
def test_a_killed_inspection_goes_on(grown: GrowingProject, messages: list[str]) -> None:
    patch = KILLED.format(module="pipeline.inspection_memo", name="inspect_case", calls=13, rest="return")
    code, lines = end_stage(start_stage("inspect", patch, SEGTRAIL_WORKERS="1"))
    assert code == -signal.SIGKILL, lines
    assert not Path("data/inspected").exists()
    assert inspect(messages) == 40 - 12
    after = folder_hash("data/inspected")
    shutil.rmtree(".segtrail")
    assert inspect(messages) == 40
    assert folder_hash("data/inspected") == after


@pytest.mark.slow
def test_a_file_that_a_kill_cut_off_is_never_taken_for_whole(
    grown: GrowingProject, messages: list[str]
) -> None:
    """Five arrays a case: the kill comes in the third of the fourth case, with two of them in the file."""
    grown.run(messages)
    shutil.rmtree("data/preprocessed")
    patch = KILLED.format(module="pipeline.store", name="_blocks", calls=3 * 5 + 3, rest="yield from")
    code, lines = end_stage(start_stage("preprocess", patch, SEGTRAIL_WORKERS="1"))
    assert code == -signal.SIGKILL, lines
    assert len(list(Path("data/preprocessed").glob("*.safetensors"))) == 3
    assert len(list(Path("data/preprocessed").glob(".*.tmp"))) == 1
    assert preprocess(messages) == 40 - 3
    after = folder_hash("data/preprocessed")
    assert not list(Path("data/preprocessed").glob(".*"))
    shutil.rmtree("data/preprocessed")
    assert preprocess(messages) == 40
    assert folder_hash("data/preprocessed") == after


@pytest.mark.slow
def test_a_stage_that_is_killed_over_its_workers_computes_what_was_missing(
    grown: GrowingProject, messages: list[str]
) -> None:
    grown.run(messages)
    shutil.rmtree("data/preprocessed")
    patch = "flows.preprocess.PROCESS_VOXELS = 0"
    process = start_stage("preprocess", patch, SEGTRAIL_WORKERS="2")
    wait_until(lambda: JOURNAL.exists() and JOURNAL.read_text().count("\n\n") >= 5)
    process.kill()
    end_stage(process)
    noted = [json.loads(line) for line in JOURNAL.read_text().splitlines() if line]
    assert preprocess(messages) == 40 - len(noted)
    assert len(list(Path("data/preprocessed").glob("*.safetensors"))) == 40
    assert not JOURNAL.exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["inspect", "preprocess"])
def test_two_processes_at_once_share_the_work(grown: GrowingProject, messages: list[str], stage: str) -> None:
    grown.run(messages)
    folder = {"inspect": "data/inspected", "preprocess": "data/preprocessed"}[stage]
    alone = folder_hash(folder)
    shutil.rmtree(folder)
    shutil.rmtree(".segtrail")
    processes = [start_stage(stage) for _ in range(2)]
    ends = [end_stage(process) for process in processes]
    assert [code for code, _ in ends] == [0, 0], ends
    assert sorted(counted(lines, stage)[0] for _, lines in ends) == [0, 40]
    assert folder_hash(folder) == alone


@pytest.fixture
def small_disk(
    grown: GrowingProject, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """`data/` without the raw files, and `.segtrail`, on a file system of their own; only root can mount one."""
    disk = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode()}")
    raw = project / "data" / "raw"
    raw.rename(project / "raw")
    (project / "data").rmdir()
    for name in ("data", ".segtrail"):
        (disk / name).mkdir()
        (project / name).symlink_to(disk / name)
    raw.symlink_to(project / "raw")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_error_and_what_was_done_is_kept(
    grown: GrowingProject, messages: list[str], small_disk: Path
) -> None:
    resize(small_disk, "400k")
    code, lines = end_stage(start_stage("inspect"))
    assert code == 1
    assert "SegtrailError: the disk is full" in "\n".join(lines)
    with pytest.raises(SegtrailError, match=r"disk is full[\s\S]*where: [\s\S]*fix:   make space") as error:
        inspect(messages)
    assert "dvc repro inspect: what was inspected is kept" in error.value.fix
    assert not Path("data/inspected").exists()
    resize(small_disk, "64m")
    assert 0 < inspect(messages) < 40
    grown.run(messages)
    shutil.rmtree("data/preprocessed")
    used = sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file())
    resize(small_disk, f"{used // 1024 + 900}k")
    with pytest.raises(SegtrailError, match="disk is full") as error:
        preprocess(messages)
    assert "dvc repro preprocess: what was preprocessed is kept" in error.value.fix
    resize(small_disk, "64m")
    assert 0 < preprocess(messages) < 40
    after = folder_hash("data/inspected", "data/preprocessed")
    grown.run_from_nothing(messages)
    assert folder_hash("data/inspected", "data/preprocessed") == after
