"""The stage: raw cases with and without objects become a store, and only what changed is computed again."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, CaseFolder

import flows.preprocess
import pipeline.case_preprocessing
from flows.preprocess import OUTPUT, count_workers, estimate_bytes, preprocess_flow
from pipeline.cases import CaseRecord, load_cases, save_cases
from pipeline.errors import SegtrailError
from pipeline.manifest import Manifest
from pipeline.plan import ChannelNormalization, ConfigurationPlan, Plan, load_plan
from pipeline.store import load_case

CASES = Path("data/inspected/cases.csv")
PLAN = Path("data/plan/plan.json")


@pytest.fixture
def cases(case_folder: CaseFolder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three cases on 1 mm: two touching objects with a map, the same without one, and nothing at all."""
    monkeypatch.setattr(flows.preprocess, "code_digest", lambda stage: "code")
    generator = np.random.default_rng(0)
    label, ids = np.zeros((8, 6, 4), np.uint8), np.zeros((8, 6, 4), np.uint8)
    label[2:6, 2:4, 1:3] = 5
    ids[2:4, 2:4, 1:3], ids[4:6, 2:4, 1:3] = 9, 3
    records = []
    for name, reference in (("two", label), ("one", label), ("none", label * 0)):
        image = case_folder.write(name, generator.normal(size=label.shape).astype(np.float32), reference)
        path = str(image.parents[1] / "labelsTr" / image.name)
        records.append(CaseRecord(name, name, "", (str(image),), path, "", sha256=f"{len(records):064x}"))
    CaseFolder(case_folder.folder / "maps").write("two", ids)
    maps = case_folder.folder / "maps" / "imagesTr" / "two.nii.gz"
    records[0] = replace(records[0], instances=str(maps))
    CASES.parent.mkdir(parents=True)
    save_cases(records, CASES)
    PLAN.parent.mkdir(parents=True)
    Plan(
        dataset="small", channels=("MRI",), label_names=("background", "organ"), label_values=(0, 5),
        dimensions=3, spacing_mm=(1, 1, 1), patch_size=(8, 8, 8), batch_size=2, strides=((1, 1, 1),),
        kernels=((3, 3, 3),), features=(4,), reasons={}, n_cases=3,
        normalization=(ChannelNormalization(scheme="zscore"),),
    ).save(PLAN)  # fmt: skip
    return [record.case_id for record in records]


def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs the stage; the cases that it computed, those on the coarse grid as "lowres/"."""
    found: list[str] = []
    save = pipeline.case_preprocessing.save_case

    def note(folder: Path, case_id: str, *arguments: object) -> str:
        found.append(f"{folder.relative_to(OUTPUT) / case_id}")
        return save(folder, case_id, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.case_preprocessing, "save_case", note)
        preprocess_flow.fn()
    return sorted(found)


def test_objects_are_stored_with_their_class(cases: list[str]) -> None:
    preprocess_flow.fn()
    two, one, none = (load_case(OUTPUT, name) for name in cases)
    assert np.bincount(two.instances.ravel()).tolist() == [176, 8, 8]
    assert two.instances[4, 2, 1] == 1  # 3 comes before 9
    assert two.instance_labels.tolist() == [0, 1, 1]
    assert np.bincount(one.instances.ravel()).tolist() == [176, 16]
    assert one.instance_labels.tolist() == [0, 1]
    np.testing.assert_array_equal(two.label, one.label)
    np.testing.assert_array_equal(two.instances > 0, two.label == 1)
    assert (none.instances.max(), none.instance_labels.tolist(), len(none.foreground)) == (0, [0], 0)
    assert none.instances.shape == none.label.shape == none.image.shape[1:] == (8, 6, 4)


def test_only_what_changed_is_computed_again(cases: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert computed(monkeypatch) == sorted(cases)
    assert computed(monkeypatch) == []
    records = load_cases(CASES)
    save_cases([replace(r, sha256="f" * 64) if r.case_id == "one" else r for r in records], CASES)
    assert computed(monkeypatch) == ["one"]
    plan = load_plan(PLAN)
    plan.model_copy(update={"patch_size": (4, 4, 4), "n_cases": 9}).save(PLAN)
    assert computed(monkeypatch) == []
    window = ChannelNormalization(scheme="window", low=-1, high=1)
    plan.model_copy(update={"normalization": (window,)}).save(PLAN)
    assert computed(monkeypatch) == sorted(cases)
    assert float(load_case(OUTPUT, "one").image.min()) == 0


def test_a_case_that_left_the_set_leaves_the_store(cases: list[str]) -> None:
    preprocess_flow.fn()
    save_cases([r for r in load_cases(CASES) if r.case_id != "two"], CASES)
    preprocess_flow.fn()
    assert sorted(p.stem for p in OUTPUT.glob("*.safetensors")) == ["none", "one"]


def add_low_resolution(spacing: float = 2.0) -> None:
    plan = load_plan(PLAN)
    low = ConfigurationPlan(
        dimensions=3, spacing_mm=(spacing,) * 3, shape=(4, 3, 2), patch_size=(4, 4, 4), batch_size=2,
        strides=plan.strides, kernels=plan.kernels, features=plan.features,
    )  # fmt: skip
    plan.model_copy(update={"alternatives": {"lowres": low}}).save(PLAN)


def store_content() -> dict[str, bytes]:
    return {str(p.relative_to(OUTPUT)): p.read_bytes() for p in OUTPUT.rglob("*") if p.is_file()}


def test_a_plan_with_a_low_resolution_has_each_case_on_both_grids(cases: list[str]) -> None:
    preprocess_flow.fn()
    fine = store_content()
    add_low_resolution()
    preprocess_flow.fn()
    assert {name: data for name, data in store_content().items() if "/" not in name} == fine
    full, low = (load_case(folder, "two") for folder in (OUTPUT, OUTPUT / "lowres"))
    assert (full.image.shape, low.image.shape) == ((1, 8, 6, 4), (1, 4, 3, 2))
    # 2 to 6, 2 to 4 and 1 to 3 mm along X, Y and Z; along Z half of each coarse voxel, and background wins a tie.
    assert np.argwhere(low.label).tolist() == []
    # Trilinear at half the voxels is the mean of 2 x 2 x 2; float16 keeps 11 bits.
    mean = full.image[0].astype(float).reshape(4, 2, 3, 2, 2, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(low.image[0], mean, atol=4e-3)
    preprocess_flow.fn()  # the coarse grid goes with the plan's wish for it
    assert (OUTPUT / "lowres").is_dir()
    load_plan(PLAN).model_copy(update={"alternatives": {}}).save(PLAN)
    preprocess_flow.fn()
    assert store_content() == fine
    assert not (OUTPUT / "lowres").exists()


def test_both_grids_are_brought_up_to_date_by_the_case(
    cases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_low_resolution()
    records = load_cases(CASES)
    save_cases([r for r in records if r.case_id != "none"], CASES)
    assert computed(monkeypatch) == ["lowres/one", "lowres/two", "one", "two"]
    assert computed(monkeypatch) == []
    save_cases(records, CASES)
    assert computed(monkeypatch) == ["lowres/none", "none"]
    changed = [replace(r, sha256="f" * 64) if r.case_id == "one" else r for r in records]
    save_cases(changed, CASES)
    assert computed(monkeypatch) == ["lowres/one", "one"]
    (OUTPUT / "lowres" / "two.safetensors").write_bytes(b"torn")
    assert computed(monkeypatch) == ["lowres/two"]
    add_low_resolution(3.0)
    assert computed(monkeypatch) == ["lowres/none", "lowres/one", "lowres/two"]
    save_cases([r for r in changed if r.case_id != "two"], CASES)
    assert computed(monkeypatch) == []
    after = store_content()
    assert sorted(after) == sorted(
        f"{folder}{name}" for folder in ("", "lowres/") for name in
        ("_manifest.json", "none.safetensors", "one.safetensors")
    )  # fmt: skip
    shutil.rmtree(OUTPUT)
    preprocess_flow.fn()
    assert store_content() == after


DIES = """
import os, signal, sys
import flows.preprocess
import pipeline.case_preprocessing as work

save, left = work.save_case, int(sys.argv[1])

def save_or_die(*arguments):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return save(*arguments)

work.save_case = save_or_die
flows.preprocess.code_digest = lambda stage: "code"
flows.preprocess.preprocess_flow.fn()
"""


@pytest.mark.slow
@pytest.mark.parametrize("saved", [1, 4])
def test_a_stage_killed_between_the_grids_of_a_case_ends_as_one_that_was_not(
    cases: list[str], monkeypatch: pytest.MonkeyPatch, saved: int
) -> None:
    add_low_resolution()
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("SEGTRAIL_WORKERS", "1")
    killed = subprocess.run([sys.executable, "-c", DIES, str(saved)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    again = computed(monkeypatch)
    # What was whole on both grids was noted, and is not made again.
    assert len(again) == 6 - 2 * (saved // 2)
    after = store_content()
    shutil.rmtree(OUTPUT)
    preprocess_flow.fn()
    assert store_content() == after


def test_memory_of_both_grids_counts(cases: list[str]) -> None:
    """A quarter of a result of 5 bytes a voxel more, on twice the spacing along two axes."""
    plan = load_plan(PLAN)
    coarse = plan.model_copy(update={"spacing_mm": (2.0, 2.0, 1.0)})
    case = replace(load_cases(CASES)[0], shape=(512, 512, 300), spacing_mm=(1.0, 1.0, 1.0))
    need = 512 * 512 * 300 * (8 + 5 + 1.25) + (400 << 20)
    assert estimate_bytes(case, [plan, coarse], "float16") == need


@pytest.mark.slow
def test_worker_processes_make_the_same_store(cases: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    add_low_resolution()
    preprocess_flow.fn()
    inside = store_content()
    shutil.rmtree(OUTPUT)
    monkeypatch.setattr(flows.preprocess, "PROCESS_VOXELS", 0)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("SEGTRAIL_WORKERS", "1")
    monkeypatch.setattr(pipeline.case_preprocessing, "save_case", None)  # nothing is computed in this process
    preprocess_flow.fn()
    assert store_content() == inside


# In place of the real work, which takes seconds to load: a process that is killed on one case.
DEADLY = """
import os, signal
from dataclasses import fields
from pathlib import Path
import numpy as np
from pipeline.store import StoredCase, save_case

def work(case, targets, dtype):
    if case["case_id"] == "one" and Path("deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    zeros = (np.float16, np.uint8, np.int16, np.uint16, np.uint8)
    empty = StoredCase(*(np.zeros((1, 1, 1, 1), t) for t in zeros))
    return [save_case(Path(folder), case["case_id"], empty) for _, folder in targets]
"""


def test_a_case_that_kills_its_worker_is_named_and_the_others_are_kept(
    cases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("deadly_work.py").write_text(DEADLY)
    Path("deadly").touch()
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}{os.pathsep}{Path.cwd()}")
    monkeypatch.setenv("SEGTRAIL_WORKERS", "1")
    monkeypatch.setattr(flows.preprocess, "PROCESS_VOXELS", 0)
    monkeypatch.setattr(flows.preprocess, "WORK", "deadly_work:work")
    with pytest.raises(
        SegtrailError, match=r"died twice[\s\S]*SIGKILL[\s\S]*where: one \([\s\S]*plan.spacing_mm"
    ):
        preprocess_flow.fn()
    kept = set(Manifest(OUTPUT).entries)
    assert "none" in kept  # by name, "one" comes next
    assert "one" not in kept
    Path("deadly").unlink()
    preprocess_flow.fn()
    assert set(Manifest(OUTPUT).entries) == set(cases)


def test_fewer_workers_where_memory_is_short(
    cases: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CT of 512 x 512 x 300 in float16: twice 4 bytes a voxel to read, 5 for the result, 400 MB for the process."""
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    plan = load_plan(PLAN)
    case = replace(load_cases(CASES)[0], shape=(512, 512, 300), spacing_mm=(1.0, 1.0, 1.0))
    need = 512 * 512 * 300 * (8 + 5) + (400 << 20)
    assert estimate_bytes(case, [plan], "float16") == need
    monkeypatch.setenv("SEGTRAIL_WORKERS", "4")
    for free, fitting in ((5 * need, 4), (3 * need - 1, 2), (need // 2, 1)):
        monkeypatch.setattr(flows.preprocess, "free_bytes", lambda free=free: free)
        assert count_workers([case] * 8, [plan], "float16") == fitting
    assert "2 worker(s) instead of 4: the largest case takes up to 1.3 GB, 4.0 GB are free" in caplog.text
    assert count_workers([], [plan], "float16") == 1
