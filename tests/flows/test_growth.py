"""A growing data set: exactly what changed is computed, and the folders are those of a run from nothing."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from growing_project import GrowingProject, folder_hash

import flows.inspect
import flows.plan
import flows.preprocess
from pipeline.plan import load_plan

PLAN = Path("data/plan/plan.json")


@pytest.fixture
def same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (flows.inspect, flows.plan, flows.preprocess):
        monkeypatch.setattr(module, "code_digest", lambda stage: "code")


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_one_added_one_changed_one_removed_and_one_touched(
    project: Path, shared_data: Path, messages: list[str], same_code: None, count: int
) -> None:
    grown = GrowingProject(shared_data, count)
    assert grown.run(messages) == (count, count, 0)
    assert grown.run(messages) == (0, 0, 0)
    plan = PLAN.read_bytes()
    grown.cases.write(count)
    assert grown.run(messages) == (1, 1, 0)
    grown.cases.change_label(count // 2)
    assert grown.run(messages) == (1, 1, 0)
    grown.cases.remove(count // 4)
    assert grown.run(messages) == (0, 0, 1)
    for path in grown.cases.paths(count // 3):
        os.utime(path)
    assert grown.run(messages) == (0, 0, 0)
    if count >= 1000:  # one case of 40 is more than a share of 0.05 of some quantity; of 1000 it is not
        assert PLAN.read_bytes() == plan
    folders = ("data/inspected", "data/preprocessed")
    after = folder_hash(*folders)
    assert grown.run_from_nothing(messages) == (count, count, 0)
    assert folder_hash(*folders) == after


@pytest.mark.slow
def test_what_was_kept_is_used_in_no_other_place(
    project: Path, shared_data: Path, messages: list[str], same_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts, limits of a single case and code count; a limit of the set and a lost memo of hashes do not."""
    grown = GrowingProject(shared_data, 40)
    grown.run(messages)
    params, facts = Path("params.yaml"), grown.cases.folder / "dataset.json"
    text = params.read_text()
    params.write_text(text.replace("position_outlier: 8.0", "position_outlier: 9.0"))
    assert grown.run(messages)[0] == 0
    params.write_text(text.replace("affine_tolerance_mm: 0.01", "affine_tolerance_mm: 0.02"))
    assert grown.run(messages)[0] == 40
    facts.write_text(facts.read_text().replace("Anterior", "Front"))
    assert grown.run(messages) == (40, 0, 0)
    Path(".segtrail/inspected/small/files.json").unlink()
    assert grown.run(messages)[0] == 0
    monkeypatch.setattr(flows.inspect, "code_digest", lambda stage: "new code")
    assert grown.run(messages)[0] == 40


def test_a_file_that_is_replaced_under_its_own_time_is_noticed(
    project: Path, shared_data: Path, messages: list[str], same_code: None
) -> None:
    grown = GrowingProject(shared_data, 40)
    grown.run(messages)
    label = grown.cases.paths(3)[1]
    times = label.stat()
    twin = label.with_name("twin.nii")
    label.rename(twin)
    stored = nibabel.load(twin)
    nibabel.save(nibabel.Nifti1Image(np.asarray(stored.dataobj)[::-1], stored.affine), label)
    os.utime(label, ns=(times.st_atime_ns, times.st_mtime_ns))
    twin.unlink()
    assert grown.run(messages) == (1, 1, 0)


def test_an_output_that_somebody_wrote_into_is_made_anew(
    project: Path, shared_data: Path, messages: list[str], same_code: None
) -> None:
    """The file has two names: the output's and the one of what is kept."""
    grown = GrowingProject(shared_data, 40)
    grown.run(messages)
    whole = folder_hash("data/inspected")
    path = Path("data/inspected/fingerprints/case_00007.json")
    path.write_text(path.read_text().replace("shape", "shapes"))
    assert grown.run(messages)[0] == 1
    assert folder_hash("data/inspected") == whole


@pytest.mark.slow
def test_a_growing_set_keeps_its_plan_and_says_when_it_cannot(
    project: Path, shared_data: Path, messages: list[str], same_code: None
) -> None:
    """Spacing is the median, in a set where each case has its own; one more case moves it by a hair."""
    grown = GrowingProject(shared_data, 60)
    for number in range(60):
        stretch(grown, number, 1.0 + number / 100)
    grown.run(messages)
    before = load_plan(PLAN)
    grown.cases.write(60)
    stretch(grown, 60, 1.4)
    assert grown.run(messages) == (1, 1, 0)
    assert any(line.startswith("plan kept: made from") and "spacing_mm" in line for line in messages)
    assert load_plan(PLAN) == before
    for number in range(61, 100):
        grown.cases.write(number)
        stretch(grown, number, 2.0)
    assert grown.run(messages) == (39, 100, 0)
    told = [line for line in messages if line.startswith("plan changed: ")]
    old, new = (f"{plan.spacing_mm[2]:g}" for plan in (before, load_plan(PLAN)))
    assert any(f"spacing_mm 1 x 1 x {old} -> 1 x 1 x {new}, because of" in line for line in told)
    assert told[-1] == "plan changed: this costs: 100 cases are preprocessed again"


def stretch(grown: GrowingProject, number: int, factor: float) -> None:
    """Makes the voxels of a case longer along Z."""
    for path in grown.cases.paths(number):
        stored = nibabel.load(path)
        affine = stored.affine @ np.diag([1, 1, factor, 1])
        array = np.asarray(stored.dataobj).copy()
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
