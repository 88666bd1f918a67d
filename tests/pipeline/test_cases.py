"""The table of cases survives the disk, and refuses what it did not write."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cases import CaseRecord, load_cases, save_cases, usable_cases
from pipeline.errors import SegtrailError

PLAIN = CaseRecord("b", "p1", "", ("raw/b.nii.gz",), "raw/b_label.nii.gz", "")
FULL = CaseRecord(
    case_id="a",
    patient_id="p2",
    site="Köln",
    images=("raw/a_0000.nii.gz", "raw/a_0001.nii.gz"),
    label="",
    instances="raw/a_ids.nii.gz",
    sha256="0" * 64,
    shape=(35, 51, 35),
    spacing_mm=(0.699999988079071, 1.0, 2.5),
    orientation="LPS",
    verdict="quarantined",
    code="not_finite;empty_label",
    reason='image: 3 of 5 voxels are NaN or Inf, limit 0; "quoted", and\na second line',
    fixes=("label:orientation", "label:header"),
)


def test_round_trip_keeps_every_field_and_sorts(tmp_path: Path) -> None:
    save_cases([PLAIN, FULL], tmp_path / "cases.csv")
    assert load_cases(tmp_path / "cases.csv") == [FULL, PLAIN]


def test_file_is_the_same_for_any_order(tmp_path: Path) -> None:
    save_cases([PLAIN, FULL], tmp_path / "one.csv")
    save_cases([FULL, PLAIN], tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_only_quarantined_cases_are_left_out() -> None:
    assert usable_cases([PLAIN, FULL]) == [PLAIN]


def test_a_missing_table_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(SegtrailError, match="dvc repro inspect"):
        load_cases(tmp_path / "cases.csv")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case_id,image\na,b\n", encoding="utf-8")
    with pytest.raises(SegtrailError, match="columns are"):
        load_cases(tmp_path / "cases.csv")
