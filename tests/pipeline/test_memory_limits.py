"""Limits of containers and batch jobs, written by hand and set for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.memory_limits import free_bytes, limit_bytes

MIB = 1 << 20


def write_group(folder: Path, limit: int | str, used: int = 0, inactive: int = 0, version: int = 2) -> None:
    names = ("memory.max", "memory.current", "memory.stat")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    key = "inactive_file" if version == 2 else "total_inactive_file"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (limit, used, f"anon 5\n{key} {inactive}\n"), strict=True):
        (folder / name).write_text(f"{text}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/night\n")
    return tmp_path / "proc"


def test_the_smallest_limit_above_a_process_counts(tmp_path: Path, proc: Path) -> None:
    groups = tmp_path / "groups"
    write_group(groups / "jobs/night", "max")
    write_group(groups / "jobs", 3 * MIB, used=2 * MIB, inactive=MIB // 2)
    assert limit_bytes(groups, proc) == 3 * MIB
    assert free_bytes(groups, proc) == 3 * MIB // 2  # 3 - 2 used + 0.5 of files
    write_group(groups / "jobs/night", 2 * MIB, used=2 * MIB)
    assert limit_bytes(groups, proc) == 2 * MIB
    assert free_bytes(groups, proc) == 0


def test_version_1_as_a_container_sees_it(tmp_path: Path, proc: Path) -> None:
    """Inside a container the group of the host is named, but its own lies at the top of the mount."""
    (proc / "self/cgroup").write_text("5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    groups = tmp_path / "groups"
    write_group(groups / "memory", 5 * MIB, used=MIB, version=1)
    assert limit_bytes(groups, proc) == 5 * MIB
    assert free_bytes(groups, proc) == 4000 * 1024  # less than the 4 MiB that the group leaves
    write_group(groups / "memory", 9223372036854771712, version=1)  # how version 1 says "no limit"
    assert limit_bytes(groups, proc) == psutil.virtual_memory().total


def test_without_groups_the_machine_counts(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert limit_bytes(nothing, nothing) == psutil.virtual_memory().total
    assert 0 < free_bytes(nothing, nothing) <= psutil.virtual_memory().total
    assert free_bytes() <= limit_bytes() <= psutil.virtual_memory().total


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of this machine with a limit of 300 MiB."""
    version_1 = Path("/sys/fs/cgroup/memory")
    top = version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")
    folder = top / f"segtrail-test-{os.getpid()}"
    try:
        folder.mkdir()
        name = "memory.limit_in_bytes" if top == version_1 else "memory.max"
        (folder / name).write_text(str(300 * MIB))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    folder.rmdir()


def test_a_real_group_is_seen(group: Path) -> None:
    code = (
        f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "from pipeline.memory_limits import free_bytes, limit_bytes; print(limit_bytes(), free_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    limit, free = map(int, done.stdout.split())
    assert limit == 300 * MIB
    assert 0 < free < limit
