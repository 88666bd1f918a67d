"""Consensus masks against those of the shared data, LUNA16's list, and folders that are not right."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.inspection import InspectedCase, inspect_case
from pipeline.io.images import load_label_map
from pipeline.io.sources import list_cases, open_dataset
from pipeline.objects import ObjectRow

FOLDER = Path("data/raw/lungs")
PARAMS = load_params().inspect
PATIENTS = ("LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003")
VOXELS = {  # of README.md: inside the contours of at least 1, 2, 3, 4 readers
    "LIDC-IDRI-0001": (6547, 5428, 4812, 4184),
    "LIDC-IDRI-0002": (1287, 932, 0, 0),
    "LIDC-IDRI-0003": (5914, 3241, 2768, 2356),
}


def inspect(folder: Path, agreement: int = 2, save: Path | None = None) -> dict[str, InspectedCase]:
    """All cases of a folder, by patient."""
    dataset = open_dataset(folder, "lidc")
    params = PARAMS.model_copy(update={"agreement": agreement})
    found = (
        inspect_case(r, dataset.facts, params, dataset.references[r.case_id], save) for r in dataset.records
    )
    return {case.record.patient_id: case for case in found}


def marked(found: InspectedCase) -> list[ObjectRow]:
    return [row for row in found.objects if not row.ignored]


def test_cases_are_the_series_of_patients(shared_data: Path) -> None:
    facts, cases = list_cases(shared_data / "lidc_idri", "lidc")
    assert [case.case_id for case in cases] == [
        *("LIDC-IDRI-0001_603192", "LIDC-IDRI-0002_104919", "LIDC-IDRI-0003_003264")
    ]
    assert tuple(case.patient_id for case in cases) == PATIENTS
    assert all(Path(name).is_dir() for case in cases for name in case.images)
    assert facts.labels == {"background": 0, "nodule": 1}
    inner = list_cases(shared_data / "lidc_idri" / "LIDC-IDRI", "lidc")[1]
    assert [case.case_id for case in inner] == [case.case_id for case in cases]


@pytest.mark.parametrize("agreement", [1, 2, 3, 4])
def test_consensus_masks_equal_the_shared_ones_voxel_for_voxel(
    shared_data: Path, tmp_path: Path, agreement: int
) -> None:
    found = inspect(shared_data / "lidc_idri", agreement, tmp_path)
    for patient in PATIENTS:
        record = found[patient].record
        counts = nibabel.load(shared_data / "lidc_idri/derived_masks" / f"{patient}_reader_count.nii.gz")
        expected = np.asarray(counts.dataobj) >= agreement
        label = load_label_map(Path(record.label))
        assert label.array.shape == expected.shape
        assert label.affine == pytest.approx(counts.affine, abs=1e-4)
        assert int((label.array != expected).sum()) == 0
        assert int(label.array.sum()) == VOXELS[patient][agreement - 1]
        assert (load_label_map(Path(record.instances)).array > 0).sum() == label.array.sum()


def test_readers_and_their_dice_equal_the_shared_bits(shared_data: Path) -> None:
    for patient, found in inspect(shared_data / "lidc_idri").items():
        bits = np.asarray(
            nibabel.load(shared_data / "lidc_idri/derived_masks" / f"{patient}_reader_bits.nii.gz").dataobj
        )
        masks = [mask for r in range(4) if (mask := bits >> r & 1 == 1).any()]
        pairs = [(a, b) for i, a in enumerate(masks) for b in masks[i + 1 :]]
        (row,) = marked(found)
        assert row.readers == len(masks)
        expected = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])
        assert row.agreement == pytest.approx(expected)
        assert row.voxels == VOXELS[patient][1]
        # Of the scan as a whole a reader who marked nothing counts too: he agrees with none of the others.
        (whole,) = found.readers
        absent = 4 - len(masks)
        nothing = len(masks) * absent
        assert whole.readers == 4 and whole.most_voxels == max(mask.sum() for mask in masks)
        assert whole.reader_dice == pytest.approx(expected * len(pairs) / (len(pairs) + nothing))


def test_centres_lie_within_a_millimetre_of_luna16(shared_data: Path) -> None:
    """Of the two nodules that LUNA16 lists here (3 of 4 readers and more)."""
    with (shared_data / "luna16/annotations.csv").open(newline="") as stream:
        official = list(csv.DictReader(stream))
    near = []
    for found in inspect(shared_data / "lidc_idri").values():
        series = Path(found.record.images[0]).name
        for row in marked(found):
            distances = [
                float(np.hypot(np.hypot(-row.x_mm - x, -row.y_mm - y), row.z_mm - z))
                for o in official
                if o["seriesuid"] == series
                for x, y, z in [(float(o["coordX"]), float(o["coordY"]), float(o["coordZ"]))]
            ]
            near += [min(distances)] if distances else []
    assert len(near) == 2
    assert max(near) < 1.0


def test_a_nodule_too_few_agree_on_is_ignored(shared_data: Path) -> None:
    """Two readers drew the nodule of 0002: at 3 it is an ignored row, with the size of what they drew."""
    found = inspect(shared_data / "lidc_idri", 3)["LIDC-IDRI-0002"]
    assert marked(found) == []
    assert set(found.record.code.split(";")) == {"annotation_outside", "empty_label"}
    (row,) = [row for row in found.objects if row.readers == 2]
    assert (row.id, row.voxels, row.ignored) == (0, 0, True)
    volume = 1287 * 0.681641**2 * 1.25
    assert row.diameter_mm == pytest.approx((6 * volume / np.pi) ** (1 / 3), rel=1e-3)


def test_single_points_are_the_findings_that_luna16_excludes(shared_data: Path) -> None:
    """LUNA16's official list has each point of a reader as a finding of diameter -1."""
    path = shared_data / "luna16/evaluation/annotations/annotations_excluded.csv"
    with path.open(newline="") as stream:
        official = list(csv.DictReader(stream))
    count = 0
    for found in inspect(shared_data / "lidc_idri").values():
        series = Path(found.record.images[0]).name
        excluded = [
            (-float(o["coordX"]), -float(o["coordY"]), float(o["coordZ"]))
            for o in official
            if o["seriesuid"] == series and float(o["diameter_mm"]) == -1
        ]
        for row in found.objects:
            if row.ignored and row.readers == 1 and row.diameter_mm == 10:
                offsets = np.abs(np.array(excluded) - (row.x_mm, row.y_mm, row.z_mm)).max(axis=1)
                assert offsets.min() < 0.001
                count += 1
    assert count > 10


def test_contours_on_slices_that_are_not_here_are_told(shared_data: Path) -> None:
    record = inspect(shared_data / "lidc_idri")["LIDC-IDRI-0001"].record
    assert (record.verdict, record.code) == ("warn", "annotation_outside")
    assert record.reason == (
        "22 of 54 contours and points lie on slices that are not here, z from -242.5 to -150.0 mm; the series "
        "spans -132.5 to -95.0 mm"
    )


@pytest.fixture
def scans(project: Path, shared_data: Path) -> Callable[..., Path]:
    """Links the real series of a patient below `data/raw/lungs`; its XML is a copy. Returns the XML's path."""

    def link(patient: str = "LIDC-IDRI-0002") -> Path:
        (source,) = (shared_data / "lidc_idri" / "LIDC-IDRI" / patient).glob("*/*")
        folder = FOLDER / "LIDC-IDRI" / patient / "study" / source.name
        folder.mkdir(parents=True)
        for path in source.glob("*.dcm"):
            (folder / path.name).symlink_to(path.resolve())
        (original,) = source.glob("*.xml")
        (folder / original.name).write_bytes(original.read_bytes())
        return folder / original.name

    return link


def test_slices_are_found_by_position_when_their_uids_are_unknown(scans: Callable[..., Path]) -> None:
    path = scans()
    path.write_text(re.sub(r"<imageSOP_UID>[^<]*", "<imageSOP_UID>1.2.3", path.read_text()))
    (row,) = marked(inspect(FOLDER)["LIDC-IDRI-0002"])
    assert row.voxels == VOXELS["LIDC-IDRI-0002"][1]


def test_an_xml_may_lie_elsewhere(scans: Callable[..., Path]) -> None:
    path = scans()
    (FOLDER / "tcia-lidc-xml").mkdir()
    path.rename(FOLDER / "tcia-lidc-xml" / path.name)
    assert len(marked(inspect(FOLDER)["LIDC-IDRI-0002"])) == 1


def test_a_series_without_xml(scans: Callable[..., Path]) -> None:
    scans().unlink()
    record = inspect(FOLDER)["LIDC-IDRI-0002"].record
    assert (record.verdict, record.code) == ("quarantined", "missing")
    assert "no XML file names the series 1.3.6.1.4.1.14519.5.2.1.6279.6001.6193" in record.reason


def test_an_xml_whose_series_is_missing(scans: Callable[..., Path]) -> None:
    scans()
    orphan = scans("LIDC-IDRI-0003")
    for path in orphan.parent.glob("*.dcm"):
        path.unlink()
    with pytest.raises(SegtrailError, match=r"XML's series 1\.3\.6.*003264 is not in the data set") as caught:
        list_cases(FOLDER, "lidc")
    assert caught.value.where == str(orphan)


def test_two_xmls_for_one_series(scans: Callable[..., Path]) -> None:
    path = scans()
    (path.parent / "copy.xml").write_bytes(path.read_bytes())
    with pytest.raises(SegtrailError, match="2 XML files name the series"):
        list_cases(FOLDER, "lidc")


def test_a_malformed_xml(scans: Callable[..., Path]) -> None:
    path = scans()
    path.write_bytes(path.read_bytes()[:5000])
    record = inspect(FOLDER)["LIDC-IDRI-0002"].record
    assert (record.verdict, record.code) == ("quarantined", "xml_malformed")
    assert record.reason.startswith(f"{path.name}: the XML is malformed")
    (FOLDER / "xml").mkdir()
    path.rename(FOLDER / "xml" / path.name)  # now nobody can say whose it is
    with pytest.raises(SegtrailError, match="the XML is malformed"):
        list_cases(FOLDER, "lidc")


def test_a_contour_beyond_the_image(scans: Callable[..., Path]) -> None:
    path = scans()
    path.write_text(re.sub(r"<xCoord>103<", "<xCoord>512<", path.read_text(), count=1))
    record = inspect(FOLDER)["LIDC-IDRI-0002"].record
    assert record.code == "xml_malformed"
    assert "512 271" in record.reason and "512 x 512 pixels" in record.reason


def test_a_damaged_slice(scans: Callable[..., Path]) -> None:
    folder = scans().parent
    slices = sorted(folder.glob("*.dcm"))
    contents = slices[3].read_bytes()
    slices[3].unlink()
    slices[3].write_bytes(contents[:-1000])
    record = inspect(FOLDER)["LIDC-IDRI-0002"].record
    assert (record.verdict, record.code) == ("quarantined", "truncated")


def test_series_of_other_modalities_are_left_out(scans: Callable[..., Path]) -> None:
    import pydicom

    folder = scans().parent
    header = pydicom.dcmread(next(folder.glob("*.dcm")))
    header.Modality, header.SeriesInstanceUID = "DX", "1.2.3"
    (folder.parent / "xray").mkdir()
    header.save_as(folder.parent / "xray" / "1.dcm")
    (folder.parent / "xray" / "1.xml").write_text("<IdriReadMessage/>")
    assert len(list_cases(FOLDER, "lidc")[1]) == 1


def test_the_hash_follows_the_agreement(scans: Callable[..., Path]) -> None:
    scans()
    one, two = (inspect(FOLDER, agreement)["LIDC-IDRI-0002"].record for agreement in (1, 2))
    assert one.sha256 != two.sha256
