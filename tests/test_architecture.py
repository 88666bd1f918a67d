"""The rules of DESIGN.md that a machine can check: who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_closure import PROJECT, imported_names, imported_packages, sources, stages, tree_of

READERS = {"nibabel", "SimpleITK", "pydicom", "PIL", "h5py"}
OUTSIDE = {"flows", "prefect", "mlflow", "dvc"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


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
