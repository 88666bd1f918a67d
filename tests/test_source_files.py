"""The texts of files: short, and without a path of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
from import_closure import PROJECT, sources, tree_of

LONGEST_FILE, LONGEST_FUNCTION = 300, 60


@pytest.mark.parametrize("path", sources("pipeline", "flows", "benchmarks"), ids=lambda path: path.stem)
def test_files_and_functions_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {name: length for name, length in long.items() if length > LONGEST_FUNCTION} == {}


def test_no_path_of_one_machine() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    machine = re.compile(r"(?<![\w.:/}])/(root|home|Users|work|opt|mnt|tmp)/\w")
    found = []
    for name in tracked:
        path = PROJECT / name
        if path.suffix in {".py", ".yaml", ".toml", ".md", ".cfg", ".lock", ".html"} and path.is_file():
            text = path.read_text(encoding="utf-8")
            found += [f"{name}: {m.group()}" for m in machine.finditer(text) if path != Path(__file__)]
    assert found == []
