"""What the files of the project import, and so the code that each stage of `dvc.yaml` depends on.

`python -P tests/import_closure.py` prints the code dependencies of every stage, ready to be pasted into `dvc.yaml`.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import layout_names

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = PROJECT / "pipeline/io/sources.py"
CHOSEN_LAYOUT = "pipeline/io/layouts/${inspect.layout}.py"
# Modules of `flows` that run, record or guard a stage, and do not change what it computes: a change in them reruns
# no stage. Everything else in `flows` that a stage imports is its code.
RECORDING = {
    "audit",  # the trail of decisions
    "ancestors",  # which versions a version started from: what is done with them is in `warm_start`, `seen_cases`
    "champion",  # which version is in use: what is done with it is in `warm_start`
    "environment",  # settings of Prefect, MLflow, DVC and OpenMP
    "locks",  # who holds a lock file
    "night_folder",  # which night a stage runs for
    "prefect_server",  # where Prefect's record of a run is kept
    "provenance",  # what is written beside a model about its origin
    "servers",  # the same server, found and started
    "stage",  # the Prefect run around a stage: messages, exit code, batches
    "stage_code",  # the digest of these very dependencies
    "tracking",  # MLflow's view of the files, like the next eight
    "tracking_content",
    "tracking_database",
    "tracking_folds",
    "tracking_parts",
    "tracking_registry",
    "tracking_run",
    "tracking_served",
    "tracking_store",
}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PROJECT / folder).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_names(path: Path) -> set[str]:
    """Full names of everything a file imports, also inside functions; `from a import b` gives a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imported_packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported_names(path)}


def module_file(name: str) -> Path | None:
    path = PROJECT / (name.replace(".", "/") + ".py")
    return path if path.is_file() else None


def code_dependencies(stage: str) -> set[str]:
    """The flow file of a stage and every module of `pipeline` and `flows` it reaches through them.

    A file of another kind in `pipeline` counts when a reached module names it.
    Layouts are found by their name: whoever lists a data set reaches all of them, and `dvc.yaml` names the chosen one.
    Left out: the modules of `flows` that only record, with what they import, and the `__init__.py` of packages
    (`tests/test_architecture.py` keeps them empty).
    """
    flow = PROJECT / "flows" / f"{stage}.py"
    found, waiting = {flow}, [flow]
    while waiting:
        path = waiting.pop()
        texts = {node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)}
        found |= {data for data in data_files() if data.name in texts}
        reached = {code_file(name) for name in imported_names(path)}
        if path == SOURCES:
            reached |= set(layouts())
        for module in reached - found - {None}:
            found.add(module)
            waiting.append(module)
    chosen = {CHOSEN_LAYOUT} if SOURCES in found else set()
    return chosen | {path.relative_to(PROJECT).as_posix() for path in found - set(layouts())}


def layouts() -> list[Path]:
    return [PROJECT / f"pipeline/io/layouts/{name}.py" for name in layout_names()]


def code_file(name: str) -> Path | None:
    """File of a module that changes what a stage computes."""
    package, _, rest = name.partition(".")
    counts = package == "pipeline" or (package == "flows" and rest.partition(".")[0] not in RECORDING)
    return module_file(name) if counts else None


def data_files() -> list[Path]:
    """Files of `pipeline` that are no Python."""
    return [path for path in (PROJECT / "pipeline").rglob("*.*") if path.suffix not in {".py", ".pyc"}]


def load_yaml(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROJECT / name).read_text(encoding="utf-8"))
    return loaded


def stages() -> dict[str, dict[str, Any]]:
    """Stage name to definition; that of a `foreach` stage is its `do`."""
    return {name: entry.get("do", entry) for name, entry in load_yaml("dvc.yaml")["stages"].items()}


if __name__ == "__main__":
    for name in stages():
        sys.stdout.write(f"{name}:\n    deps:\n")
        sys.stdout.writelines(f"      - {path}\n" for path in sorted(code_dependencies(name)))
