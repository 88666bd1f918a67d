"""What is kept of inspected cases: by the bytes they were really made from, each file read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import pipeline.stat_memo as stat_memo
from pipeline.cases import CaseRecord
from pipeline.config import load_params
from pipeline.inspection_memo import InspectionMemo
from pipeline.io.dataset import DatasetFacts
from pipeline.io.references import References
from pipeline.io.sources import RawDataset

PARAMS = load_params().inspect
FACTS = DatasetFacts("d", ("MRI",), {"background": 0, "a": 1}, "")


def write_stack(path: Path, entries: int, seed: int = 0) -> list[CaseRecord]:
    voxels = np.random.default_rng(seed).integers(0, 99, (entries, 4, 4), np.int16)
    with h5py.File(path, "w") as file:
        file["image"] = voxels
    return [
        CaseRecord(f"c{i}", f"c{i}", "", (f"{path.as_posix()}#image[{i}]",), label="", instances="")
        for i in range(entries)
    ]


def test_a_file_with_many_cases_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = write_stack(tmp_path / "a.h5", 5)
    read: list[Path] = []
    hash_file = stat_memo.hash_file
    monkeypatch.setattr(stat_memo, "hash_file", lambda path: read.append(path) or hash_file(path))
    memo = InspectionMemo(tmp_path / "memo", RawDataset(FACTS, records, {}), PARAMS, "code")
    assert {memo.obtain(record).result.record.verdict for record in records} == {"warn"}  # spacing_unknown
    assert read == [tmp_path / "a.h5"]


@pytest.mark.parametrize("changed", ["image", "annotation"])
def test_what_changes_while_a_case_is_inspected_is_not_kept_for_the_old_bytes(
    tmp_path: Path, changed: str
) -> None:
    """Neither the image nor what the reference is derived from; the old bytes may come back."""
    image, annotation = tmp_path / "a.h5", tmp_path / "a.txt"
    (record,) = write_stack(image, 1)
    annotation.write_text("1")
    old = (image.read_bytes(), annotation.read_bytes())

    def read(text: Path, write: bool) -> Callable[..., References]:
        def build(*_: object) -> References:
            value = int(text.read_text())
            if write and changed == "annotation":
                text.write_text("0 ")
            elif write:
                write_stack(image, 1, seed=9)
            label = np.zeros((4, 4, 1), np.uint8)
            label[0] = value
            return References(label=label)

        return build

    def memo(write: bool) -> InspectionMemo:
        dataset = RawDataset(FACTS, [record], {"c0": read(annotation, write)})
        return InspectionMemo(tmp_path / "memo", dataset, PARAMS, "code")

    memo(write=True).obtain(record)
    image.write_bytes(old[0])
    annotation.write_bytes(old[1])
    assert memo(write=True).obtain(record).computed
