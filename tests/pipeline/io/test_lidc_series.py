"""Which folders are CT series, whatever state their headers are in."""

from __future__ import annotations

import random
import struct
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipeline.io.lidc_series import find_series


def first_slice(shared_data: Path) -> bytes:
    folder = shared_data / "lidc_idri" / "LIDC-IDRI" / "LIDC-IDRI-0002"
    return next(iter(sorted(folder.rglob("*.dcm")))).read_bytes()


def write(folder: Path, contents: bytes, name: str = "a.dcm") -> Path:
    series = folder / "series"
    series.mkdir(exist_ok=True)
    (series / name).write_bytes(contents)
    return series


def test_a_header_says_whose_series_it_is(shared_data: Path, tmp_path: Path) -> None:
    contents = first_slice(shared_data)
    series = write(tmp_path, contents)
    header = pydicom.dcmread(series / "a.dcm", stop_before_pixels=True)
    (found,) = find_series(tmp_path)
    assert (found.folder, found.patient_id) == (series, "LIDC-IDRI-0002")
    assert found.uid == str(header.SeriesInstanceUID)


@pytest.mark.parametrize("damage", ["cut within a tag", "type of a value", "deflated"])
def test_a_series_with_a_damaged_header_is_still_listed(
    shared_data: Path, tmp_path: Path, damage: str
) -> None:
    """What is wrong with it is told when its case is inspected; other slices may say whose it is."""
    contents = first_slice(shared_data)
    broken = contents[:141]
    if damage == "type of a value":
        at = contents.index(struct.pack("<HH", 0x0008, 0x0060) + b"CS")  # Modality, now a number of 3 bytes
        broken = contents[: at + 4] + b"US" + struct.pack("<H", 3) + b"CT " + contents[at + 10 :]
    if damage == "deflated":
        dataset, stream = pydicom.dcmread(BytesIO(contents)), BytesIO()
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(stream)
        broken = stream.getvalue()[:1000] + b"damaged" + stream.getvalue()[1007:]
    series = write(tmp_path, broken)
    (found,) = find_series(tmp_path)
    assert (found.folder, found.uid) == (series, "series")
    write(tmp_path, contents, "b.dcm")
    (found,) = find_series(tmp_path)
    assert found.uid.startswith("1.3.6.1.4.1.14519.5.2.1.6279.6001.")


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says what it thinks of each
def test_no_flipped_byte_of_a_header_ends_the_listing(shared_data: Path, tmp_path: Path) -> None:
    contents = first_slice(shared_data)
    numbers = random.Random(0)
    end = contents.index(struct.pack("<HH", 0x0020, 0x000E)) + 80  # behind the Series Instance UID
    for _ in range(400):
        broken = bytearray(contents[: end + 200])
        for _ in range(numbers.choice((1, 3))):
            broken[numbers.randrange(132, end)] = numbers.randrange(256)
        write(tmp_path, bytes(broken))
        assert len(find_series(tmp_path)) <= 1  # 0: it calls itself another modality
