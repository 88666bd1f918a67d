"""`segtrail predict`: what counts as an input, and what happens to bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.predict import group_inputs, resolve_model
from pipeline.errors import SegtrailError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "sub/b_0000.nii", "notes.txt", ".hidden.nii.gz"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def test_channels_of_a_folder_become_cases(folder: Path) -> None:
    cases, errors = group_inputs([folder], 2, Path("out"))
    assert errors == []
    assert {name: [p.name for p in paths] for name, paths in cases.items()} == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii"],
    }


def test_with_one_channel_every_file_is_a_case(folder: Path) -> None:
    cases, _ = group_inputs([folder], 1, Path("out"))
    assert sorted(cases) == ["a_0000", "a_0001", "b_0000"]


def test_each_bad_input_gets_its_own_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    inputs = [tmp_path / "empty", tmp_path / "none.nii.gz", folder / "notes.txt", folder / "a_0000.nii.gz"]
    cases, errors = group_inputs(inputs, 1, Path("out"))
    assert list(cases) == ["a_0000"]
    assert [e.what for e in errors] == [
        "no NIfTI image in this folder",
        "there is no such file",
        ".txt is no NIfTI image",
    ]


def test_two_files_of_one_name_would_overwrite_each_other(tmp_path: Path) -> None:
    for part in ("x", "y"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "case.nii.gz").touch()
    cases, errors = group_inputs([tmp_path / "x", tmp_path / "y"], 1, Path("out"))
    assert len(cases) == 1
    assert "two inputs are named case" in errors[0].what


def test_a_model_is_a_folder_or_a_name_with_an_alias(tmp_path: Path) -> None:
    with pytest.raises(SegtrailError, match="neither a folder nor NAME@ALIAS"):
        resolve_model("phantom")
    with pytest.raises(SegtrailError, match="this is no bundle"):
        resolve_model(str(tmp_path))


def test_channels_are_put_in_order_and_must_be_complete(folder: Path) -> None:
    (folder / "c_0001.nii.gz").touch()
    (folder / "c_0002.nii.gz").touch()
    named = ["a_0001.nii.gz", "a_0000.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz"]
    cases, errors = group_inputs([folder / name for name in named], 2, Path("out"))
    assert [p.name for p in cases["a"]] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert "c" not in cases
    assert errors[0].what == "channels 0001, 0002, expected 0000, 0001 in one folder"


def test_results_of_an_earlier_run_are_no_inputs(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "a_labels.nii.gz").touch()
    cases, _ = group_inputs([folder], 1, folder / "out")
    assert "a_labels" not in cases
