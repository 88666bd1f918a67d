"""Stage `plan`: each value is printed with its reason; and the table of plans in the docs is what the code gives."""

from __future__ import annotations

import importlib.util
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from plan_cases import MRI, make_fingerprints, make_params

from flows.plan import describe, describe_changes, plan_flow
from pipeline.plan import load_plan
from pipeline.plan_growth import Move
from pipeline.planning import build_plan

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def test_every_value_of_the_network_is_printed_with_its_reason() -> None:
    lines = describe(build_plan(make_fingerprints((512, 512, 300), (0.8, 0.8, 1.25)), MRI, make_params()))
    found = {line.split(":")[0].split(" = ")[0]: line for line in lines}
    assert {
        "spacing_mm", "dimensions", "patch_size", "memory", "strides", "kernels", "features", "batch_size", "lowres",
        "normalization MRI",
    } <= found.keys()  # fmt: skip
    assert found["spacing_mm"].startswith("spacing_mm = 0.8 x 0.8 x 1.25: median voxel size of 9 cases")
    assert found["features"].startswith("features = 8, 16, 32")
    assert found["normalization MRI"].startswith("normalization MRI = zscore: ")
    assert " mm, image " in found["lowres"]
    assert all("\n" not in line for line in lines)


def test_regions_are_printed_with_what_they_are_of_and_what_they_paint() -> None:
    facts = replace(MRI, regions={"whole": (2, 4)}, regions_class_order=(4,))
    lines = describe(build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), facts, make_params()))
    assert "region whole: of edema, core, found as one (dataset.json); painted as core" in lines
    assert "regions = whole: no region paints edema: predicted label maps do not hold it" in lines


def test_growth_and_an_edit_at_once_are_both_named() -> None:
    """Whoever changes a param and adds cases is told of both; growth alone blames no param."""
    plan = build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), MRI, make_params())
    assert plan.basis is not None
    edited = plan.model_copy(update={"basis": plan.basis.model_copy(update={"rules": "other"})})
    move = Move("voxels", (64.0,), (96.0,), 0.5)
    assert describe_changes(plan, plan, [move], 9)[0].endswith("because of voxels 64 -> 96 (50.0%)")
    assert describe_changes(plan, edited, [move], 9)[0].endswith(
        "because of voxels 64 -> 96 (50.0%); params.yaml, dataset.json or code"
    )
    assert describe_changes(plan, edited, [], 9)[0].endswith("because of params.yaml, dataset.json or code")


def test_the_flow_plans_from_all_cases_but_the_test_cases(project: Path, messages: list[str]) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("memory: measure ", "memory: estimate"))
    folder = Path("data/inspected/fingerprints")
    folder.mkdir(parents=True)
    for index, case in enumerate(make_fingerprints((35, 50, 36), (1, 1, 1), 4)):
        case.model_copy(update={"spacing_mm": (1, 1, 1 if index < 3 else 9)}).save(folder / f"c{index}.json")
    MRI.save(Path("data/inspected/dataset.json"))
    Path("data/splits").mkdir()
    rows = ["case_id,patient_id,split", "c0,p0,train", "c1,p1,train", "c2,p2,validation", "c3,p3,test"]
    Path("data/splits/splits.csv").write_text("\n".join(rows) + "\n")
    plan_flow.fn()
    plan = load_plan(Path("data/plan/plan.json"))
    assert (plan.n_cases, plan.patch_size) == (3, (40, 56, 40))
    assert any(line.startswith("patch_size = 40 x 56 x 40: ") for line in messages)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan_table", ROOT / "benchmarks" / "plan_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["plan_table"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_each_real_set_gets_the_plan_of_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 needs h5py from the package index; without a network its two sets are left out."""
    monkeypatch.chdir(ROOT)
    script = load_script()
    docs = (ROOT / "docs/reference/plan.md").read_text(encoding="utf-8")
    try:
        list(script.OTHERS["acdc_h5"][1](DATA / "acdc_h5"))
    except subprocess.CalledProcessError:
        del script.OTHERS["acdc_h5"], script.OTHERS["msd_lung_2mm_patches"]
    rows = 0
    for name, facts, fingerprints in script.read_all(DATA):
        plan = build_plan(fingerprints, facts, script.rules_alone())
        assert script.row(name, plan) in docs
        rows += 1
    assert rows >= 12
