"""What a killed DVC leaves in its own lock file stops neither `segtrail repro` nor a night."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_project import SmallProject, wait_until

from flows import dvc_lock


@pytest.mark.parametrize(
    "text",
    ["null", "[]", '{"read": null}', '{"write": {"out": {}}}', '{"write": {"out": {"pid": "x", "cmd": ""}}}'],
)
def test_a_file_of_another_shape_is_as_good_as_a_damaged_one(tmp_path: Path, text: str) -> None:
    rwlock = tmp_path / "rwlock"
    rwlock.write_text(text)
    assert dvc_lock.mend(rwlock) == dvc_lock.CUT
    assert not rwlock.exists()


def test_who_may_be_at_work_stays_in_the_file(tmp_path: Path) -> None:
    """A PID that does not exist is passed over by DVC; a DVC command is at work whatever the clocks say."""
    rwlock = tmp_path / "rwlock"
    with subprocess.Popen(["true"]) as gone:
        pass
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "dvc"]) as alive:
        entries = {str(p.pid): {"pid": p.pid, "cmd": "dvc repro"} for p in (gone, alive)}
        rwlock.write_text(json.dumps({"write": entries}))
        os.utime(rwlock, (time.time() - 3600,) * 2)
        assert dvc_lock.mend(rwlock) == ""
        assert json.loads(rwlock.read_text()) == {"write": entries}
        alive.kill()


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
