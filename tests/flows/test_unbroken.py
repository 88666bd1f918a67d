"""A night outlives whoever reads its output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PRINTS = """
import sys
from flows.unbroken import unbroken_output
sys.stdin.readline()  # the reader has gone
with unbroken_output():
    print("x" * 100_000, flush=True)
    print("y" * 100_000, file=sys.stderr, flush=True)
    sys.stdout.write("end")
open("done", "w").close()
"""


@pytest.mark.parametrize(
    ("block", "ends_well"), [("unbroken_output()", True), ("__import__('contextlib').nullcontext()", False)]
)
def test_what_nobody_reads_is_no_error(tmp_path: Path, block: str, ends_well: bool) -> None:
    code = PRINTS.replace("with unbroken_output()", f"with {block}")
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    process.wait(60)
    assert (tmp_path / "done").exists() is ends_well
