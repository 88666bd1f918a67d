"""Which files a case is made of: the ones it names, and those that these name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from pipeline.io.case_files import UnknownDependencyError, describe_builder, list_files
from pipeline.io.header_facts import count_bytes
from pipeline.io.identifying_text import find_identifying_text
from pipeline.stat_memo import StatMemo


def names(folder: Path, name: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_files(str(folder / name))]


def make(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_file_a_folder_and_a_data_set_inside_a_file(tmp_path: Path) -> None:
    make(tmp_path, "a.nii.gz", "series/2.dcm", "series/1.dcm", "series/more/3", "b.h5", "c#1.nii")
    assert names(tmp_path, "a.nii.gz") == ["a.nii.gz"]
    assert names(tmp_path, "series") == ["series/1.dcm", "series/2.dcm", "series/more/3"]
    assert names(tmp_path, "b.h5#label/1") == ["b.h5"]
    assert names(tmp_path, "c#1.nii") == ["c#1.nii"]
    assert names(tmp_path, "gone.nii") == ["gone.nii"]


@pytest.mark.parametrize(
    ("header", "text", "found"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = a.zraw\n", ["a.mhd", "a.zraw"]),
        ("a.mhd", "ElementDataFile = LOCAL", ["a.mhd"]),
        ("a.mhd", "ElementDataFile = LIST\nx.raw\n", ["a.mhd", "a.mhd", "x.raw", "y.raw"]),
        ("a.mhd", "ElementDataFile = s%03d.raw 1 9 1", ["a.mhd", "a.mhd", "x.raw", "y.raw"]),
        ("a.nhdr", "NRRD0004\ndata file: sub/a.raw.gz\n", ["a.nhdr", "sub/a.raw.gz"]),
        ("a.hdr", "", ["a.hdr", "a.img", "a.img.gz"]),
        ("a.img.gz", "", ["a.img.gz", "a.hdr", "a.hdr.gz"]),
    ],
)
def test_a_header_brings_the_file_of_its_voxels(
    tmp_path: Path, header: str, text: str, found: list[str]
) -> None:
    if "x.raw" in found:
        make(tmp_path, "x.raw", "y.raw")
    (tmp_path / header).write_text(text)
    assert names(tmp_path, header) == found


@pytest.mark.parametrize("text", ["x" * 400, "x\0y", "a.mhd/z", ""])
def test_a_header_that_names_what_cannot_be_a_file_stops_nothing(tmp_path: Path, text: str) -> None:
    header = tmp_path / "a.mhd"
    header.write_text(f"ElementDataFile = {text}\n")
    memo = StatMemo(tmp_path / "memo.json")
    before = memo.digest("a", list_files(str(header)))
    assert count_bytes(header.parent / ("x" * 400)) == -1
    header.write_text(f"ElementDataFile = {text}z\n")  # another header is another content, readable or not
    assert StatMemo(tmp_path / "memo.json").digest("a", list_files(str(header))) != before


def test_a_series_among_others_is_its_own_files(tmp_path: Path) -> None:
    """A series that comes to a folder leaves those that are there as they are."""
    save_slice(tmp_path / "set" / "a1", "1.2.3")
    save_slice(tmp_path / "set" / "below" / "a2", "1.2.3")
    save_slice(tmp_path / "set" / "b1", "1.2.4", "Mueller^Anna")
    make(tmp_path, "set/notes.txt")
    assert names(tmp_path, "set#1.2.3") == ["set/a1", "set/below/a2"]
    assert names(tmp_path, "set#1.2.4") == ["set/b1"]
    assert len(names(tmp_path, "set#1.2.5")) == 4  # not there: whatever comes may be it
    assert count_bytes(tmp_path / "set#1.2.4") == (tmp_path / "set" / "b1").stat().st_size
    assert find_identifying_text({"image": str(tmp_path / "set#1.2.3")}, tmp_path) == []
    assert find_identifying_text({"image": str(tmp_path / "set#1.2.4")}, tmp_path) == [
        "DICOM tag PatientName of 1 of 1 files of the image"
    ]


def save_slice(path: Path, series: str, patient: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = pydicom.uid.generate_uid()
    header.SeriesInstanceUID, header.PatientName = series, patient
    header.save_as(path, enforce_file_format=True)


def build(*arguments: Any) -> None: ...


@dataclass(frozen=True)
class Series:
    folder: Path
    uid: str


@dataclass(frozen=True)
class Builder:
    series: Series

    def __call__(self) -> None: ...


def closure(path: Path, number: int) -> Callable[[], None]:
    def inner() -> None:
        build(path, number)

    return inner


def test_paths_and_values_are_found_wherever_they_are_bound(tmp_path: Path) -> None:
    make(tmp_path, "masks/1.png")
    masks, text = tmp_path / "masks", str(tmp_path / "masks")
    for builder in (
        partial(build, masks), partial(build, text), partial(build, series=Series(masks, "1")),
        partial(build, [{"a": masks}]), Builder(Series(masks, "1")), closure(masks, 3),
    ):  # fmt: skip
        described, paths = describe_builder(builder)
        assert paths == [masks]
        assert describe_builder(builder) == (described, paths)
    pairs = [
        (partial(build, 1), partial(build, 2)),
        (partial(build, "1"), partial(build, 1)),
        (partial(build, (1.5, None)), partial(build, (1.5, True))),
        (partial(build, np.zeros(2)), partial(build, np.ones(2))),
        (partial(build, Series(masks, "1")), partial(build, Series(masks, "2"))),
        (closure(masks, 3), closure(masks, 4)),
        (partial(build), partial(names)),
    ]
    for one, other in pairs:
        assert describe_builder(one)[0] != describe_builder(other)[0]


def test_what_has_no_lasting_text_is_unknown() -> None:
    with pytest.raises(UnknownDependencyError):
        describe_builder(partial(build, object()))
