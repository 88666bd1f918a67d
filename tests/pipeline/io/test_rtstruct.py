"""RT structure sets: squares by hand, and real ones against matplotlib's even-odd rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from pipeline.errors import ImageFileError
from pipeline.io.dicom import read_dicom_series
from pipeline.io.rtstruct import read_structures
from pipeline.io.stored import StoredImage, affine_from_lps

# 2 x 3 x 5 mm; the first voxel lies at LPS (-10, 20, 100).
IMAGE = StoredImage(
    np.zeros((1, 12, 10, 4), np.int16), affine_from_lps(np.diag([2.0, 3.0, 5.0]), (-10.0, 20.0, 100.0))
)


def square(low: tuple[float, float], high: tuple[float, float], slice_number: float) -> list[float]:
    """Corners in LPS mm of a rectangle in voxels."""
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    return [
        float(v)
        for x, y in corners
        for v in np.array([-10.0, 20.0, 100.0]) + np.multiply([x, y, slice_number], [2.0, 3.0, 5.0])
    ]


def write_structures(path: Path, rois: dict[str, list[tuple[str, list[float]]]]) -> Path:
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality = "RTSTRUCT"
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        roi, drawn = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for kind, points in contours:
            contour = pydicom.Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points) // 3
            contour.ContourData = [f"{value:.6g}" for value in points]
            drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_square_with_a_hole_and_an_island_by_hand(tmp_path: Path) -> None:
    """8 x 8 voxels less 4 x 4 of them, and 2 x 2 within the hole."""
    contours = [
        square((0.5, 0.5), (8.5, 8.5), 2),
        square((2.5, 2.5), (6.5, 6.5), 2),
        square((3.5, 3.5), (5.5, 5.5), 2),
    ]
    path = write_structures(tmp_path / "rt.dcm", {"Organ": [("CLOSED_PLANAR", c) for c in contours]})
    (drawing,), remarks = read_structures(path, IMAGE, {"organ"})
    mask = np.zeros((12, 10, 4), bool)
    mask.ravel()[drawing.voxels] = True
    expected = np.zeros((12, 10, 4), bool)
    expected[1:9, 1:9, 2] = True
    expected[3:7, 3:7, 2] = False
    expected[4:6, 4:6, 2] = True
    np.testing.assert_array_equal(mask, expected)
    assert remarks == []


def test_what_cannot_be_drawn_is_reported(tmp_path: Path) -> None:
    tilted = square((0.5, 0.5), (8.5, 8.5), 1)
    tilted[2] += 5.0
    contours = [
        ("CLOSED_PLANAR", square((0.5, 0.5), (3.5, 3.5), 1.1)),  # a tenth off: rounding
        ("CLOSED_PLANAR", square((0.5, 0.5), (8.5, 8.5), 1.5)),
        ("CLOSED_PLANAR", square((0.5, 0.5), (8.5, 8.5), -1)),
        ("CLOSED_PLANAR", tilted),
        ("OPEN_PLANAR", square((0.5, 0.5), (8.5, 8.5), 1)),
        ("POINT", [0.0, 0.0, 100.0]),
    ]
    path = write_structures(tmp_path / "rt.dcm", {"a": contours, "other": contours})
    (drawing,), (outside, left_out) = read_structures(path, IMAGE, {"a"})
    assert len(drawing.voxels) == 9
    assert outside.code == "annotation_outside"
    assert "2 of 6 contours" in outside.reason
    assert "-1.0 to 1.5" in outside.reason
    assert left_out.code == "contour_left_out"
    assert "2 of 6 contours are open or points, 1 run across" in left_out.reason


def test_a_real_contour_equals_what_matplotlib_fills(shared_data: Path) -> None:
    folder = shared_data / "dicom_seg_rtstruct/rt_utils/mock_data"
    image = read_dicom_series(
        folder.with_name(f"mock_data#{pydicom.dcmread(folder / 'ct_1.dcm').SeriesInstanceUID}")
    )
    (drawing,), _ = read_structures(folder / "rt.dcm", image, {"roi-1"})
    mask = np.zeros(image.array.shape[1:], bool)
    mask.ravel()[drawing.voxels] = True
    dataset = pydicom.dcmread(folder / "rt.dcm")
    expected = np.zeros_like(mask)
    unsure = np.zeros_like(mask)  # centres on the line itself: either way is right
    x, y = np.meshgrid(*map(np.arange, mask.shape[:2]), indexing="ij")
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        first = pydicom.dcmread(folder / "ct_1.dcm")
        columns = (points[:, 0] - first.ImagePositionPatient[0]) / first.PixelSpacing[1]
        rows = (points[:, 1] - first.ImagePositionPatient[1]) / first.PixelSpacing[0]
        z = round((-image.affine[2, 3] + points[0, 2]) / image.affine[2, 2])
        outline = Outline(np.column_stack([columns, rows]), closed=False)
        centres = np.column_stack([x.ravel(), y.ravel()])
        inside, wide = (
            outline.contains_points(centres, radius=r).reshape(mask.shape[:2]) for r in (-1e-6, 1e-6)
        )
        expected[:, :, z] ^= inside
        unsure[:, :, z] |= inside != wide
    assert expected.sum() > 100
    np.testing.assert_array_equal(mask[~unsure], expected[~unsure])
    assert unsure.sum() < 0.05 * expected.sum()


def test_a_damaged_file_is_refused(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "dicom_seg_rtstruct/rt_utils/mock_data/rt.dcm"
    (tmp_path / "rt.dcm").write_bytes(source.read_bytes()[:100])
    with pytest.raises(ImageFileError, match="cannot be read"):
        read_structures(tmp_path / "rt.dcm", IMAGE, {"roi-1"})
