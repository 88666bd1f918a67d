"""The rules of DESIGN.md that a machine can check.

`python -P tests/test_architecture.py` prints the code dependencies of every stage, ready to be pasted into `dvc.yaml`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import layout_names

PROJECT = Path(__file__).resolve().parents[1]
READERS = {"nibabel", "SimpleITK", "pydicom", "PIL", "h5py"}
OUTSIDE = {"flows", "prefect", "mlflow", "dvc"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
SOURCES = PROJECT / "pipeline/io/sources.py"
CHOSEN_LAYOUT = "pipeline/io/layouts/${inspect.layout}.py"
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
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
    Left out: the modules of `flows` that only record, with what they import, and the `__init__.py` of packages (a
    test below keeps them empty).
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


def paths_of(entries: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def stage_files() -> set[str]:
    """Names of the flows that run as stages."""
    return {path.stem for path in sources("flows") if path.stem != "stage" and _runs_as_stage(path)}


def _runs_as_stage(path: Path) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run_stage"
        for statement in tree_of(path).body
        if isinstance(statement, ast.If)
        for node in ast.walk(statement)
    )


def dvc_graph() -> set[tuple[str, str]]:
    """Edges (earlier stage, later stage) by the paths of outputs and dependencies."""
    params = load_yaml("params.yaml")
    model = params["models"][0]
    values = {
        "${inspect.dataset}": params["inspect"]["dataset"],
        "${item.model}": model,
        "${item}": params["inspect"]["dataset"],
    }

    def resolved(entries: list[Any]) -> list[Path]:
        texts = paths_of(entries)
        for key, value in values.items():
            texts = [text.replace(key, value) for text in texts]
        return [Path(text) for text in texts]

    outputs = {name: resolved(stage["outs"]) for name, stage in stages().items()}
    return {
        (earlier, later)
        for later, stage in stages().items()
        for needed in resolved(stage.get("deps", []))
        for earlier, made in outputs.items()
        if earlier != later and any(out.is_relative_to(needed) or needed.is_relative_to(out) for out in made)
    }


def readme_graph() -> set[tuple[str, str]]:
    """Edges between stages of the mermaid diagrams in README.md."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    if not blocks:
        pytest.fail("README.md has no ```mermaid block")
    edges: set[tuple[str, str]] = set()
    for line in "\n".join(blocks).splitlines():
        bare = re.sub(r"\[[^\]]*\]+|\([^)]*\)+|\{[^}]*\}+|\|[^|]*\|", "", line)
        groups = [[name.strip() for name in part.split("&")] for part in re.split(r"-->|==>|-\.->", bare)]
        for left, right in pairwise(groups):
            edges |= {(a, b) for a in left for b in right}
    return {(a, b) for a, b in edges if a in stages() and b in stages()}


@pytest.mark.parametrize("stage", sorted(stages()))
def test_code_dependencies_of_a_stage_are_its_import_closure(stage: str) -> None:
    entries = paths_of(stages()[stage].get("deps", []))
    listed = {path for path in entries if path.startswith(("flows/", "pipeline/"))}
    wanted = code_dependencies(stage)
    pasted = "\n".join(f"      - {path}" for path in sorted(wanted))
    assert listed == wanted, f"dvc.yaml: deps of {stage} should hold these files:\n{pasted}"


def test_modules_that_only_record_are_there_and_code_behind_a_flow_counts() -> None:
    assert {name for name in RECORDING if module_file(f"flows.{name}") is None} == set()
    drawn = {"flows/evaluation_output.py", "pipeline/detection_curves.py", "pipeline/object_overlays.py"}
    assert drawn <= code_dependencies("evaluate")
    assert "flows/decision.py" in code_dependencies("register")
    assert "flows/stage.py" not in code_dependencies("evaluate")


def test_stages_are_flow_files_and_params_sections() -> None:
    sections = set(load_yaml("params.yaml")) - {"models", "nightly"}
    assert set(stages()) == stage_files() == sections


@pytest.mark.parametrize("stage", sorted(stages()))
def test_a_stage_lists_exactly_its_own_params_section(stage: str) -> None:
    wanted = ["train.${item.model}"] if stage == "train" else [stage]
    assert stages()[stage]["params"] == wanted


@pytest.mark.parametrize("stage", sorted(stages()))
def test_a_stage_calls_its_own_flow_and_writes_its_own_folder(stage: str) -> None:
    definition = stages()[stage]
    assert definition["cmd"].split()[:3] == ["python", "-m", f"flows.{stage}"]
    assert len(definition["outs"]) == 1


def test_a_matrix_is_for_models_only() -> None:
    entries = load_yaml("dvc.yaml")["stages"].values()
    assert {str(entry["matrix"]) for entry in entries if "matrix" in entry} == {"{'model': '${models}'}"}


def test_readme_diagram_is_the_graph_of_dvc() -> None:
    # Without the edges that follow from others, as a reader expects of a diagram.
    graph = dvc_graph()
    implied = {(a, c) for a, b in closure(graph) for x, c in closure(graph) if x == b}
    assert readme_graph() == graph - implied


def closure(graph: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs of which the second can be reached from the first."""
    reached = set(graph)
    while more := {(a, d) for a, b in reached for c, d in graph if b == c} - reached:
        reached |= more
    return reached


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


@pytest.mark.parametrize("path", sources("pipeline"), ids=lambda path: path.stem)
def test_the_library_knows_nothing_of_the_outside(path: Path) -> None:
    assert imported_packages(path) & OUTSIDE == set()


@pytest.mark.parametrize("path", sources("pipeline", "flows"), ids=lambda path: path.stem)
def test_only_io_imports_readers_of_image_formats(path: Path) -> None:
    if not path.is_relative_to(PROJECT / "pipeline" / "io"):
        assert imported_packages(path) & READERS == set()


@pytest.mark.parametrize("path", sources("flows"), ids=lambda path: path.stem)
def test_only_tracking_imports_mlflow(path: Path) -> None:
    if not path.stem.startswith("tracking") and path.stem != "served_model":
        assert "mlflow" not in imported_packages(path)


@pytest.mark.parametrize("stage", sorted(stages()))
def test_a_flow_imports_no_other_stage(stage: str) -> None:
    others = {f"flows.{name}" for name in stages() if name != stage}
    assert imported_names(PROJECT / "flows" / f"{stage}.py") & others == set()


@pytest.mark.parametrize("path", sources("pipeline", "flows"), ids=lambda path: path.stem)
def test_no_pickle_and_no_path_from_a_module_file(path: Path) -> None:
    assert imported_packages(path) & PICKLES == set()
    assert "torch.load" not in {ast.unparse(node) for node in attributes(path)}
    names = {node.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name)}
    assert "__file__" not in names


def attributes(path: Path) -> Iterator[ast.Attribute]:
    yield from (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute))


@pytest.mark.parametrize(
    "path", [p for p in sources("pipeline", "flows") if p.name == "__init__.py"], ids=lambda p: p.parent.name
)
def test_packages_hold_no_code(path: Path) -> None:
    """Code in a package's `__init__` would run for every stage and stand in nobody's dependencies."""
    if path.parent.name != "flows":
        assert all(isinstance(node, ast.Expr) for node in tree_of(path).body)


@pytest.mark.parametrize("stage", ["inspect", "split", "plan", "evaluate"])
def test_data_stages_do_not_wait_for_heavy_libraries(stage: str) -> None:
    code = (
        f"import sys, flows.{stage}; "
        "print(sorted({'torch', 'monai', 'pytorch_lightning', 'mlflow'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


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


if __name__ == "__main__":
    for name in stages():
        sys.stdout.write(f"{name}:\n    deps:\n")
        sys.stdout.writelines(f"      - {path}\n" for path in sorted(code_dependencies(name)))
