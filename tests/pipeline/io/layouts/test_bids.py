"""BIDS data sets in every state, one of them made of real hippocampi."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipeline.errors import SegtrailError
from pipeline.io.sources import list_cases

TABLE = "index\tname\n0\tbackground\n1\tAnterior\n2\tPosterior\n"


@pytest.fixture
def write(touch: Callable[..., Path]) -> Callable[..., Path]:
    """Empty files below the folder, a table of the classes and who the subjects are."""

    def make(*names: str, table: str = TABLE) -> Path:
        folder = touch("derivatives/manual/dseg.tsv", "participants.tsv", *names)
        (folder / "derivatives/manual/dseg.tsv").write_text(table)
        (folder / "participants.tsv").write_text(
            "participant_id\tage\tsite\nsub-01\t40\tnorth\nsub-02\t50\tsouth\n"
        )
        (folder / "dataset_description.json").write_text('{"Name": "Small", "BIDSVersion": "1.9.0"}')
        return folder

    return make


def test_sessions_are_cases_of_a_subject_and_channels_are_what_all_have(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    folder = write(
        *(f"sub-01/ses-{s}/anat/sub-01_ses-{s}_{kind}.nii.gz" for s in (1, 2) for kind in ("T1w", "T2w")),
        *(
            "sub-02/anat/sub-02_T1w.nii.gz",
            "sub-02/anat/sub-02_T2w.nii.gz",
            "sub-02/anat/sub-02_FLAIR.nii.gz",
        ),
        *("sub-02/func/sub-02_task-rest_bold.nii.gz", "sub-02/anat/sub-02_T1w.json"),
        "derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2_space-orig_desc-reader1_dseg.nii.gz",
    )
    facts, cases = list_cases(folder, "bids")
    assert (facts.name, facts.channels) == ("Small", ("T1w", "T2w"))
    assert facts.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert [(c.case_id, c.patient_id, c.site, bool(c.label)) for c in cases] == [
        ("sub-01_ses-1", "sub-01", "north", False),
        ("sub-01_ses-2", "sub-01", "north", True),
        ("sub-02", "sub-02", "south", False),
    ]
    assert [Path(path).name for path in cases[2].images] == ["sub-02_T1w.nii.gz", "sub-02_T2w.nii.gz"]
    assert "FLAIR is there for 1 of 3 cases and is left out" in caplog.text


@pytest.mark.parametrize(
    ("names", "table", "message"),
    [
        (("derivatives/a/sub-09_dseg.nii.gz",), TABLE, "no image has the entities of this label map"),
        (
            ("derivatives/a/sub-01_dseg.nii.gz", "derivatives/b/sub-01_desc-x_dseg.nii.gz"),
            TABLE,
            "two label maps",
        ),
        ((), "index\tname\n1\tA\n2\tA\n", "the class 'A' has the index '2', elsewhere 1"),
        ((), "number\tname\n1\tA\n", "the separator is a tab"),
        (("sub-02/anat/sub-02_T2w.nii.gz",), TABLE, "no suffix .* is there for every case"),
    ],
)
def test_what_is_wrong(write: Callable[..., Path], names: tuple[str, ...], table: str, message: str) -> None:
    folder = write("sub-01/anat/sub-01_T1w.nii.gz", *names, table=table)
    with pytest.raises(SegtrailError, match=message):
        list_cases(folder, "bids")


def test_without_a_table_of_classes(touch: Callable[..., Path]) -> None:
    folder = touch("sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(SegtrailError, match="no table \\*dseg.tsv names the classes"):
        list_cases(folder, "bids")
    (folder / "dataset.json").write_text(
        '{"modality": {"0": "T1w"}, "labels": {"0": "background", "1": "x"}}'
    )
    assert list_cases(folder, "bids")[0].labels == {"background": 0, "x": 1}


def test_real_hippocampi_as_bids(
    shared_data: Path, write: Callable[..., Path], inspect: Callable[..., Any]
) -> None:
    folder = write()
    source = shared_data / "Task04_Hippocampus"
    image = folder / "sub-01/anat/sub-01_T1w.nii.gz"
    label = folder / "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz"
    for path, part in ((image, "imagesTr"), (label, "labelsTr")):
        path.parent.mkdir(parents=True)
        shutil.copyfile(source / part / "hippocampus_001.nii.gz", path)
    found = inspect(folder, "bids", "sub-01")
    assert found.record.verdict == "ok"
    stored = np.asarray(nibabel.load(label).dataobj)
    for name, value in (("Anterior", 1), ("Posterior", 2)):
        assert sum(row.voxels for row in found.objects if row.label == name) == (stored == value).sum()
