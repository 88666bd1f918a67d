"""Corrected drafts become labels: all of a folder, or none; once with DVC itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from draft_project import (
    AFFINE,
    DRAFTS,
    RAW,
    SHAPE,
    choose,
    correct,
    draft,
    read,
    save,
    scan,
    sha256,
    state,
)

from flows import acceptance, cli
from flows.acceptance import accept_drafts
from flows.data import dvc_add
from pipeline.annotations import load_annotations
from pipeline.errors import SegtrailError


def test_a_corrected_draft_becomes_the_label_and_has_a_row(added: list[str]) -> None:
    draft("a", "b")
    before = sha256(RAW / "labelsTr/a.nii.gz")
    other, image = (RAW / "labelsTr/b.nii.gz").read_bytes(), (RAW / "imagesTr/a.nii.gz").read_bytes()
    drafted, label = read(DRAFTS / "a_labels.nii.gz"), correct("a")
    assert accept_drafts(DRAFTS, "Dr. Who") == 1  # b is as it was drafted: nobody has looked at it
    assert added == ["small"]
    stored = nibabel.load(RAW / "labelsTr/a.nii.gz")
    assert np.array_equal(read(RAW / "labelsTr/a.nii.gz"), label) and np.array_equal(stored.affine, AFFINE)
    assert (RAW / "labelsTr/b.nii.gz").read_bytes() == other
    assert (RAW / "imagesTr/a.nii.gz").read_bytes() == image
    (row,) = load_annotations(RAW / "annotations.csv")
    assert (row.case_id, row.label, row.accepted_by) == ("a", "labelsTr/a.nii.gz", "Dr. Who")
    assert (row.label_sha256, row.previous_sha256) == (sha256(RAW / "labelsTr/a.nii.gz"), before)
    assert row.changed_voxels == str((drafted != label).sum())
    dice = [
        2 * ((drafted == v) & (label == v)).sum() / ((drafted == v).sum() + (label == v).sum())
        for v in (2, 5)
        if (drafted == v).any() or (label == v).any()
    ]
    assert float(row.dice) == pytest.approx(np.mean(dice), abs=1e-6)


def test_a_second_accept_changes_nothing_and_a_second_correction_is_a_new_version(added: list[str]) -> None:
    draft("a")
    correct("a")
    assert accept_drafts(DRAFTS) == 1
    once = state()
    assert accept_drafts(DRAFTS) == 0
    assert state() == once and added == ["small"]
    correct("a", value=5)
    assert accept_drafts(DRAFTS) == 1
    first, second = load_annotations(RAW / "annotations.csv")
    assert second.previous_sha256 == first.label_sha256 != second.label_sha256
    assert second.draft_sha256 == first.draft_sha256


def test_a_label_that_was_accepted_meanwhile_is_not_replaced_in_silence(
    added: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptance.LOGGER, "propagate", True)
    draft("a")
    correct("a", 5)
    accept_drafts(DRAFTS, "first")
    assert "replaces" not in caplog.text
    correct("a", 2)
    accept_drafts(DRAFTS, "second")
    assert "a: replaces the label that first gave at" in caplog.text


def test_unchanged_drafts_are_taken_when_that_is_said(added: list[str]) -> None:
    draft("a", "b")
    assert accept_drafts(DRAFTS) == 0 and not added
    assert accept_drafts(DRAFTS, unchanged=True) == 2
    assert [row.changed_voxels for row in load_annotations(RAW / "annotations.csv")] == ["0", "0"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def place(*spacing: float) -> None:
    """Puts the draft of b onto another grid of the same shape."""
    path = DRAFTS / "b_labels.nii.gz"
    save(path, read(path), np.diag([*spacing, 1.0]))


SPOIL: list[tuple[str, Callable[[], object], str]] = [
    ("truncated", lambda: cut(DRAFTS / "b_labels.nii.gz"), "b_labels"),
    ("geometry", lambda: place(-2.0, 2.0, 3.0), "spacing is"),
    ("flipped", lambda: place(2.0, 2.0, 2.5), "orientation is"),
    ("shape", lambda: save(DRAFTS / "b_labels.nii.gz", np.zeros((12, 10, 9), np.uint8)), "shape is"),
    ("value", lambda: correct("b", value=3), "value 3"),
    ("fraction", lambda: save(DRAFTS / "b_labels.nii.gz", np.full(SHAPE, 0.5, np.float32)), "whole"),
    ("gone", lambda: (DRAFTS / "b_labels.nii.gz").unlink(), "case b"),
    ("record", lambda: (DRAFTS / "b_draft.json").write_text("{"), "record of the draft"),
    ("original", lambda: cut(DRAFTS / "originals/b_labels.nii.gz"), "as the model made it"),
    ("image", lambda: save(RAW / "imagesTr/b.nii.gz", scan(9)), "not the one that was drafted"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), [case[1:] for case in SPOIL], ids=[case[0] for case in SPOIL])
def test_one_bad_draft_and_nothing_is_accepted(
    added: list[str], spoil: Callable[[], object], said: str
) -> None:
    draft("a", "b")
    correct("a")
    correct("b")
    spoil()
    before = state()
    with pytest.raises(SegtrailError, match=said):
        accept_drafts(DRAFTS)
    assert state() == before and not added


def test_what_dvc_refuses_is_taken_back(added: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    draft("a")
    correct("a")
    before = state()

    def refuse(target: Path, project: Path) -> None:
        raise SegtrailError("dvc add ended with 255", "data/raw/small", "wait")

    monkeypatch.setattr(acceptance, "dvc_add", refuse)
    with pytest.raises(SegtrailError, match="ended with 255"):
        accept_drafts(DRAFTS)
    assert state() == before
    assert not Path(".segtrail/accept/small").exists()


def test_what_has_no_place_is_refused(added: list[str]) -> None:
    with pytest.raises(SegtrailError, match="no draft in this folder"):
        accept_drafts(DRAFTS)
    draft("a")
    correct("a")
    record = DRAFTS / "a_draft.json"
    text = record.read_text()
    record.write_text(text.replace('"dataset": "small"', '"dataset": "large"'))
    with pytest.raises(SegtrailError, match="made for the data set large"):
        accept_drafts(DRAFTS)
    record.write_text(text)
    choose("lidc")
    with pytest.raises(SegtrailError, match="layout 'lidc'"):
        accept_drafts(DRAFTS)
    choose("msd")
    (RAW / "annotations.csv").write_text("seriesuid,coordX\n")
    with pytest.raises(SegtrailError, match="another name"):
        accept_drafts(DRAFTS)
    RAW.with_name("small.dvc").unlink()
    with pytest.raises(SegtrailError, match="not under DVC"):
        accept_drafts(DRAFTS)
    facts = json.loads((RAW / "dataset.json").read_text()) | {"labels": {"background": 0, "liver": 1}}
    (RAW / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(SegtrailError, match="the model has the labels"):
        draft("a")


@pytest.mark.slow
def test_with_dvc_the_old_version_can_be_had_back(added: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "dvc_add", dvc_add)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    RAW.with_name("small.dvc").unlink()
    run(*dvc, "add", "-q", RAW.as_posix())
    first = RAW.with_name("small.dvc").read_text()
    before = read(RAW / "labelsTr/a.nii.gz")
    assert cli.main(["data", "draft", "a", "-o", "drafts", "--model", "bundle", "--devices", "cpu"]) == 0
    label = correct("a")
    assert cli.main(["data", "accept", "drafts", "--by", "Dr. Who"]) == 0
    assert RAW.with_name("small.dvc").read_text() != first
    assert np.array_equal(read(RAW / "labelsTr/a.nii.gz"), label)
    RAW.with_name("small.dvc").write_text(first)
    run(*dvc, "checkout", "-q", "--force", RAW.with_name("small.dvc").as_posix())
    assert np.array_equal(read(RAW / "labelsTr/a.nii.gz"), before)
    assert not (RAW / "annotations.csv").exists()
