"""What a killed DVC leaves in its own lock file stops neither `segtrail repro` nor a night."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
from small_project import SmallProject, wait_until

from flows import dvc_lock


@pytest.mark.parametrize("text", ["", '{"read": {"out'])
def test_a_file_that_dvc_was_killed_in_writing_stops_nothing(small: SmallProject, text: str) -> None:
    rwlock = small.folder / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(exist_ok=True)
    rwlock.write_text(text)
    plain = [sys.executable, "-m", "dvc", "repro"]
    refused = subprocess.run(plain, cwd=small.folder, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "RWLock-file" in refused.stderr
    mended = small.run("repro")
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.startswith("segtrail: .dvc/tmp/rwlock was cut short when DVC was killed: mended")
    assert small.read("out/second") == "one"
    assert "rwlock" not in small.run("repro").stdout


def test_a_killed_command_that_dvc_takes_for_one_at_work_stops_nothing(small: SmallProject) -> None:
    """A zombie, and a process that has taken the PID over; DVC itself passes over PIDs that do not exist only."""
    assert small.run("repro").returncode == 0
    small.write_input("two")
    rwlock = small.folder / ".dvc" / "tmp" / "rwlock"
    with subprocess.Popen(["true"]) as zombie, subprocess.Popen(["sleep", "600"]) as alive:
        wait_until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
        first, second = str(small.folder / "out" / "first"), str(small.folder / "out" / "second")
        dead, working = ({"pid": process.pid, "cmd": "dvc repro"} for process in (zombie, alive))
        text = json.dumps({"write": {first: dead}, "read": {second: [working]}})
        rwlock.write_text(text)
        plain = [sys.executable, "-m", "dvc", "repro"]
        refused = subprocess.run(plain, cwd=small.folder, capture_output=True, text=True, check=False)
        assert "is busy" in refused.stderr
        rwlock.write_text(text)
        assert dvc_lock.mend(rwlock) == dvc_lock.DEAD
        assert json.loads(rwlock.read_text()) == {"write": {}, "read": {second: [working]}}
        assert dvc_lock.mend(rwlock) == ""
        os.utime(rwlock, (time.time() - 3600,) * 2)  # written before the process with this PID began
        mended = small.run("repro")
        assert mended.returncode == 0, mended.stderr
        assert f"{dvc_lock.DEAD}: mended" in mended.stdout
        alive.kill()
    assert small.read("out/second") == "two"
