"""DICOM files that several tests read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_series import PLANE, write_slice
from named_patient import write_named_slice


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Three slices 2 mm apart whose names run against their positions, and an XML file."""
    folder = tmp_path / "series"
    for name, z, value in (("a.dcm", 4, 40), ("b.dcm", 0, 0), ("c", 2, 20)):
        write_slice(folder / name, z, PLANE + np.int16(value))
    (folder / "reading.xml").write_text("<xml/>")
    (folder / ".hidden.dcm").write_bytes(b"")
    return folder


@pytest.fixture
def named(shared_data: Path, tmp_path: Path) -> Path:
    """A real slice with an invented patient in every place where one may stand."""
    source = next((shared_data / "hippocrop_dicom/Study1").rglob("1.dcm"))
    return write_named_slice(source, tmp_path / "named.dcm")
