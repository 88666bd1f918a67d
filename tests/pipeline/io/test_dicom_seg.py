"""DICOM segmentations: real ones against the NRRD twins of dcmqi, written ones against three independent readers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io.dicom import read_dicom_series
from pipeline.io.dicom_seg import read_segmentation
from pipeline.io.dicom_seg_writing import save_segmentation
from pipeline.io.stored import StoredImage
from pipeline.volume import LabelMap


def mask_of(voxels: NDArray[np.int64], image: StoredImage) -> NDArray[np.bool_]:
    mask = np.zeros(image.array.shape[1:], bool)
    mask.ravel()[voxels] = True
    return mask


def read_nrrd(path: Path) -> NDArray[np.integer]:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)


@pytest.mark.parametrize(
    ("image", "seg", "nrrd", "voxels"),
    [  # frames of liver.dcm run against the series; 23 columns are no whole bytes; LABELMAP with and without padding
        ("ct-3slice", "liver.dcm", "liver_seg.nrrd", 107098),
        ("23x38x3/image", "23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd", 322),
        ("24x38x3/image", "24x38x3/seg/label.seg", "24x38x3/nrrd/label.nrrd", None),
        ("24x38x3/image", "sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd", None),
        ("24x38x3/image", "sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd", None),
    ],
)
def test_real_segmentations_equal_their_nrrd_twins(
    shared_data: Path, image: str, seg: str, nrrd: str, voxels: int | None
) -> None:
    folder = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations"
    series = read_dicom_series(folder / image)
    (drawing,), remarks = read_segmentation(folder / seg, series, {"liver"})
    assert remarks == []
    assert drawing.name == "Liver"
    mask = mask_of(drawing.voxels, series)
    expected = read_nrrd(folder / nrrd)
    np.testing.assert_array_equal(mask, expected == 1)  # 5 fills the slice without a frame: PixelPaddingValue
    if voxels is not None:
        assert int(mask.sum()) == voxels  # README of the data


def test_a_segmentation_of_another_grid_is_refused(shared_data: Path) -> None:
    folder = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations"
    image = read_dicom_series(folder / "24x38x3/image")
    with pytest.raises(ImageFileError, match="a frame lies .* voxels") as caught:
        read_segmentation(folder / "liver.dcm", image, {"liver"})
    assert caught.value.code == "geometry_mismatch"


def test_frames_outside_the_series_are_reported(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations"
    for name in ("01.dcm", "02.dcm"):
        shutil.copyfile(folder / "ct-3slice" / name, tmp_path / name)
    image, whole = read_dicom_series(tmp_path), read_dicom_series(folder / "ct-3slice")
    (drawing,), (remark,) = read_segmentation(folder / "liver.dcm", image, {"liver"})
    (all_of_it,), _ = read_segmentation(folder / "liver.dcm", whole, {"liver"})
    assert remark.code == "annotation_outside"
    assert not remark.fatal
    lost = len(all_of_it.voxels) - len(drawing.voxels)
    assert lost > 0
    assert f"{lost} pixel(s)" in remark.reason


def test_a_damaged_segmentation_is_refused(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations/24x38x3"
    cut = tmp_path / "cut.dcm"
    cut.write_bytes((folder / "seg/label.seg").read_bytes()[:1200])
    with pytest.raises(ImageFileError, match="cannot be read"):
        read_segmentation(cut, read_dicom_series(folder / "image"), {"liver"})


@pytest.fixture(scope="module")
def written(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, LabelMap]:
    """A label map with an empty slice, a class that is nowhere and values with gaps, on a real MR series."""
    (series,) = shared_data.glob("hippocrop_dicom/Study2/*")
    image = read_dicom_series(series)
    array = np.zeros(image.array.shape[1:], np.uint8)
    array[3:20, 5:9, 2:12] = 2
    array[10, 7, 20:23] = 5
    label_map = LabelMap(array, image.affine)
    path = tmp_path_factory.mktemp("seg") / "case_seg.dcm"
    save_segmentation(label_map, {2: "liver", 5: "tumour", 7: "nowhere"}, series, path, "model", "3")
    return series, path, label_map


def test_highdicom_reads_the_same_voxels_of_the_same_slices(written: tuple[Path, Path, LabelMap]) -> None:
    series, path, label_map = written
    seg = highdicom.seg.segread(path)
    assert [seg.get_segment_description(n).segment_label for n in (1, 2, 3)] == ["liver", "tumour", "nowhere"]
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in series.iterdir()]
    assert seg.StudyInstanceUID == headers[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
    headers.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    uids = [header.SOPInstanceUID for header in headers]
    planes = seg.get_pixels_by_source_instance(uids, segment_numbers=[1, 2], combine_segments=True)
    expected = label_map.array.copy()
    expected[expected == 2], expected[expected == 5] = 1, 2
    np.testing.assert_array_equal(planes.transpose(2, 1, 0), expected)


def test_itk_sees_the_frames_at_their_place(written: tuple[Path, Path, LabelMap]) -> None:
    """Pixels by GDCM, positions from the header: each set pixel lies on a voxel of its class, and none is missing."""
    series, path, label_map = written
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
    header = pydicom.dcmread(path, stop_before_pixels=True)
    names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in header.SegmentSequence}
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    source = reader.Execute()
    seen = {"liver": np.zeros(label_map.array.shape, bool), "tumour": np.zeros(label_map.array.shape, bool)}
    for frame, plane in zip(header.PerFrameFunctionalGroupsSequence, frames, strict=True):
        name = names[int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        position = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
        x, y, z = source.TransformPhysicalPointToIndex(position)
        assert (x, y) == (0, 0)
        seen[name][:, :, z] |= plane.T
    np.testing.assert_array_equal(seen["liver"], label_map.array == 2)
    np.testing.assert_array_equal(seen["tumour"], label_map.array == 5)


def test_dcmqi_reads_the_same_voxels(written: tuple[Path, Path, LabelMap], tmp_path: Path) -> None:
    dcmqi = pytest.importorskip("dcmqi")
    tool = next(Path(dcmqi.__file__).parent.rglob("segimage2itkimage*"))
    _, path, label_map = written
    command = [str(tool), "--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    for number, value in ((1, 2), (2, 5)):
        image = sitk.ReadImage(str(tmp_path / f"{number}.nrrd"))
        voxels = np.argwhere(sitk.GetArrayFromImage(image).transpose(2, 1, 0) > 0)
        world = [image.TransformIndexToPhysicalPoint([int(v) for v in voxel]) for voxel in voxels]
        expected = (
            np.argwhere(label_map.array == value) @ label_map.affine[:3, :3].T + label_map.affine[:3, 3]
        )
        found = np.array(world) * [-1, -1, 1]
        order = [np.lexsort(points.round(3).T) for points in (found, expected)]
        np.testing.assert_allclose(found[order[0]], expected[order[1]], atol=1e-3)


def test_what_was_written_is_read_back(written: tuple[Path, Path, LabelMap]) -> None:
    series, path, label_map = written
    image = read_dicom_series(series)
    drawings, remarks = read_segmentation(path, image, {"liver", "tumour", "nowhere"})
    assert remarks == []
    found = {drawing.name: mask_of(drawing.voxels, image) for drawing in drawings}
    np.testing.assert_array_equal(found["liver"], label_map.array == 2)
    np.testing.assert_array_equal(found["tumour"], label_map.array == 5)
    assert not found["nowhere"].any()


def test_an_empty_label_map_makes_an_object_too(shared_data: Path, tmp_path: Path) -> None:
    (series,) = shared_data.glob("hippocrop_dicom/Study1/*")
    image = read_dicom_series(series)
    empty = LabelMap(np.zeros(image.array.shape[1:], np.uint8), image.affine)
    save_segmentation(empty, {1: "organ"}, series, tmp_path / "a.dcm", "model", "1")
    (drawing,), _ = read_segmentation(tmp_path / "a.dcm", image, {"organ"})
    assert drawing.voxels.size == 0


def test_a_file_of_many_slices_gets_its_segmentation_too(shared_data: Path, tmp_path: Path) -> None:
    series = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations/24x38x3/multiframe"
    image = read_dicom_series(series)
    array = np.zeros(image.array.shape[1:], np.uint8)
    array[2:5, 3:9, 0] = 1
    array[7:20, 30, 2] = 1
    save_segmentation(LabelMap(array, image.affine), {1: "organ"}, series, tmp_path / "a.dcm", "model", "1")
    (drawing,), _ = read_segmentation(tmp_path / "a.dcm", image, {"organ"})
    np.testing.assert_array_equal(mask_of(drawing.voxels, image), array == 1)


def test_a_label_map_of_another_series_is_refused(shared_data: Path, tmp_path: Path) -> None:
    (series,) = shared_data.glob("hippocrop_dicom/Study1/*")
    other = LabelMap(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    with pytest.raises(SegtrailError, match=r"shape \(4, 4, 4\), the series \(35, 51, 32\)"):
        save_segmentation(other, {1: "organ"}, series, tmp_path / "a.dcm", "model", "1")
