"""Stages of `dvc.yaml`: their code, params, flows and folders, and the diagram of them in the README."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from import_closure import (
    PROJECT,
    RECORDING,
    code_dependencies,
    load_yaml,
    module_file,
    sources,
    stages,
    tree_of,
)


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


def closure(graph: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs of which the second can be reached from the first."""
    reached = set(graph)
    while more := {(a, d) for a, b in reached for c, d in graph if b == c} - reached:
        reached |= more
    return reached


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
