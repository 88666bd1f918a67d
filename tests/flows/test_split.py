"""The stage `split`: files in, files out, messages; once under Prefect."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flows.split import split_flow
from pipeline.cases import QUARANTINED, CaseRecord, load_cases, save_cases
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.folds import Draw, load_draw
from pipeline.leakage import check_leakage
from pipeline.splits import choose_side, load_rows, load_splits

SHIPPED = Path("params.yaml").resolve()
# Sides with salt "segtrail" by sha256sum: p2, p9, p11, p14 test; p22 validation; p13, p17, p19 train
PATIENTS = ("p2", "p9", "p11", "p22", "p13", "p17", "p19")
SPLITS = Path("data/splits/splits.csv")


def make_case(patient: str, number: int = 1, verdict: str = "ok", sha256: str = "") -> CaseRecord:
    name = f"{patient}_{number}"
    files = (f"{name}.nii.gz",), f"{name}_label.nii.gz"
    return CaseRecord(name, patient, "", *files, "", sha256=sha256 or name, verdict=verdict)


CASES = [*(make_case(patient) for patient in PATIENTS), make_case("p13", 2), make_case("p5", 1, QUARANTINED)]


@pytest.fixture
def inspected(project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """A project whose cases are inspected."""
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["split"] = {"salt": "segtrail", "test_fraction": 0.2, "validation_fraction": 0.1}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("data/inspected/fingerprints").mkdir(parents=True)
    save_cases(CASES, Path("data/inspected/cases.csv"))
    return project


def save_fingerprint(case_id: str, voxels: dict[str, int]) -> None:
    classes = {name: {"voxels": count} for name, count in voxels.items()}
    path = Path(f"data/inspected/fingerprints/{case_id}.json")
    path.write_text(json.dumps({"case_id": case_id, "classes": classes}))


def test_writes_the_sides_worked_out_by_hand(inspected: Path) -> None:
    split_flow.fn()
    assert load_splits(SPLITS) == {
        "p11_1": "test",
        "p13_1": "train",
        "p13_2": "train",
        "p17_1": "train",
        "p19_1": "train",
        "p22_1": "validation",
        "p2_1": "test",
        "p9_1": "test",
    }
    assert [path.name for path in Path("data").iterdir() if "partial" in path.name] == []


def test_the_same_under_prefect(inspected: Path, prefect_harness: None) -> None:
    split_flow.fn()
    plain = SPLITS.read_bytes()
    split_flow()
    assert SPLITS.read_bytes() == plain


def test_prints_the_table_and_warns_of_an_absent_class(
    inspected: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for case in CASES[:-1]:
        save_fingerprint(case.case_id, {"lung": 100, "nodule": 0 if case.patient_id == "p22" else 5})
    split_flow.fn()
    assert [record.message for record in caplog.records][:4] == [
        "side        cases  patients  lung  nodule",
        "train           4         3     4       4",
        "validation      1         1     1       0",
        "test            3         3     3       3",
    ]
    absent, few = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert "no validation case holds class nodule" in absent
    assert few.startswith("warning: only 1 labelled patient in validation, fewer than 4: chance has")
    for key in ("split.validation_fraction", "split.salt", "train.<model>.folds"):
        assert key in few


def test_the_same_bytes_again_and_nothing_left_of_before(inspected: Path) -> None:
    split_flow.fn()
    first = SPLITS.read_bytes()
    (SPLITS.parent / "stale.txt").touch()
    split_flow.fn()
    assert SPLITS.read_bytes() == first
    assert sorted(path.name for path in SPLITS.parent.iterdir()) == ["split.json", "splits.csv"]
    assert load_draw(SPLITS.parent / "split.json") == Draw("segtrail")


def test_patients_with_copies_of_one_image_are_linked(inspected: Path) -> None:
    """Both stand on the side train, so the split itself does not part them."""
    twin = replace(make_case("p17", 2), code="duplicate_of:p19_1")
    save_cases([*CASES, twin], Path("data/inspected/cases.csv"))
    split_flow.fn()
    assert load_draw(SPLITS.parent / "split.json").linked == {"p17": "p17", "p19": "p17"}


def test_new_cases_move_nobody(inspected: Path) -> None:
    split_flow.fn()
    before = load_splits(SPLITS)
    save_cases(
        [*CASES, *(make_case(f"new{number}") for number in range(30))], Path("data/inspected/cases.csv")
    )
    split_flow.fn()
    after = load_splits(SPLITS)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 30


def test_the_same_voxels_under_two_patients_write_nothing(inspected: Path) -> None:
    save_cases([*CASES, make_case("p14", sha256="p13_1")], Path("data/inspected/cases.csv"))
    with pytest.raises(SegtrailError) as caught:
        split_flow.fn()
    assert "p13_1 in train (patient p13), p14_1 in test (patient p14)" in caught.value.what
    assert not SPLITS.parent.exists()


def test_an_empty_side_writes_nothing(inspected: Path) -> None:
    save_cases([make_case("p2"), make_case("p9")], Path("data/inspected/cases.csv"))
    with pytest.raises(SegtrailError, match="no patient on side train and validation"):
        split_flow.fn()
    assert not SPLITS.parent.exists()


def test_a_split_edited_by_hand_is_checked(inspected: Path) -> None:
    split_flow.fn()
    cases = load_cases(Path("data/inspected/cases.csv"))
    check_leakage(load_rows(SPLITS), cases)
    SPLITS.write_text(SPLITS.read_text().replace("p13_2,p13,train", "p13_2,p13,test"))
    with pytest.raises(SegtrailError, match="p13_1 in train, p13_2 in test"):
        check_leakage(load_rows(SPLITS), cases)
    with pytest.raises(SegtrailError, match="p13_1 in train, p13_2 in test"):
        load_splits(SPLITS)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"classes": {"lung": 3}}'])
def test_a_damaged_fingerprint_is_named(inspected: Path, text: str) -> None:
    Path("data/inspected/fingerprints/p2_1.json").write_text(text)
    with pytest.raises(SegtrailError, match="no readable classes") as caught:
        split_flow.fn()
    assert "p2_1" in caught.value.where
    assert not SPLITS.parent.exists()


def test_without_inspection_the_stage_to_run_is_named(inspected: Path) -> None:
    Path("data/inspected/cases.csv").unlink()
    with pytest.raises(SegtrailError) as caught:
        split_flow.fn()
    assert caught.value.fix == "dvc repro inspect"


def test_real_cases_by_the_shipped_salt(shared_data: Path) -> None:
    names = sorted(path.name for path in (shared_data / "Task04_Hippocampus" / "labelsTr").glob("*.nii.gz"))
    params = load_params(SHIPPED).split
    sides = [choose_side(name.removesuffix(".nii.gz"), params) for name in names]
    # 220 patients, 20 % and 10 %: standard deviation 6 and 4.5
    assert len(sides) == 220
    assert abs(sides.count("test") - 44) < 18
    assert abs(sides.count("validation") - 22) < 14
