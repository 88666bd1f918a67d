"""Spheres worked by hand, tables in every state, and the real slabs with their official annotations."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.inspection import InspectedCase, inspect_case
from pipeline.io.images import load_label_map
from pipeline.io.layouts.luna16 import make_sphere
from pipeline.io.sources import list_cases, open_dataset

FOLDER = Path("data/raw/scans")
PARAMS = load_params().inspect
HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm"
EXCLUDED = "evaluation/annotations/annotations_excluded.csv"


def test_a_sphere_of_three_voxels_across_is_a_cross() -> None:
    """Radius 1 mm on 1 mm voxels: the centre and its six neighbours; radius 1.5: without the eight corners."""
    cross = make_sphere((4, 5, 6), 2.0, (10, 10, 10), np.eye(4))
    assert cross.box == (slice(3, 6), slice(4, 7), slice(5, 8))
    assert cross.mask.sum() == 7 and cross.mask[1].sum() == 5 and cross.mask[1, 1, 0]
    ball = make_sphere((4, 5, 6), 3.0, (10, 10, 10), np.eye(4))
    assert ball.mask.sum() == 27 - 8


def test_a_sphere_follows_spacing_flips_and_tilt() -> None:
    """Voxels of 1 x 2 x 5 mm, x against world: extents 2 r / spacing, rounded to voxel centres."""
    affine = np.array([[-1.0, 0, 0, 100], [0, 2, 0, -50], [0, 0, 5, 7], [0, 0, 0, 1]])
    piece = make_sphere((60.0, -10.0, 57.0), 20.0, (80, 60, 30), affine)  # voxel (40, 20, 10)
    assert piece.box == (slice(30, 51), slice(15, 26), slice(8, 13))
    angle = math.radians(30)
    tilt = np.eye(4)
    tilt[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    turned = make_sphere((0.0, 27.32050808, 20.0), 15.0, (40, 60, 40), tilt)
    centre = np.argwhere(turned.mask).mean(axis=0) + [part.start for part in turned.box]
    world = tilt[:3, :3] @ centre
    assert world == pytest.approx((0, 27.3205, 20), abs=0.2)


def test_a_sphere_that_reaches_over_the_border_is_cut_and_a_tiny_one_keeps_a_voxel() -> None:
    half = make_sphere((0, 5, 5), 2.0, (10, 10, 10), np.eye(4))
    assert half.box == (slice(0, 2), slice(4, 7), slice(4, 7)) and half.mask.sum() == 6
    one = make_sphere((5.4, 5.4, 5.4), 0.2, (10, 10, 10), np.eye(4))
    assert one.box == (slice(5, 6),) * 3 and one.mask.sum() == 1


@pytest.mark.parametrize("diameter", [3.0, 5.5, 12.0, 30.0])
def test_centre_and_diameter_come_back(diameter: float) -> None:
    spacing = (0.7, 0.7, 1.25)
    affine = np.diag([*spacing, 1.0])
    centre = (30.2, 29.9, 40.4)
    piece = make_sphere(centre, diameter, (90, 90, 70), affine)
    voxels = np.argwhere(piece.mask) + [part.start for part in piece.box]
    assert voxels.mean(axis=0) * spacing == pytest.approx(centre, abs=0.3)
    volume = len(voxels) * math.prod(spacing)
    assert (6 * volume / math.pi) ** (1 / 3) == pytest.approx(diameter, abs=0.7)


@pytest.fixture
def scan(project: Path) -> Callable[..., None]:
    """Writes `subset0/<name>.mhd` of 20 x 20 x 10 voxels of 1 x 1 x 2 mm, first voxel at LPS (-10, -20, -30)."""

    def write(name: str, subset: str = "subset0") -> None:
        voxels = np.random.default_rng(0).integers(-1000, 400, (10, 20, 20)).astype(np.int16)
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing((1, 1, 2))
        image.SetOrigin((-10, -20, -30))
        path = FOLDER / subset / f"{name}.mhd"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path), useCompression=False)

    return write


def annotate(*rows: str, name: str = "annotations.csv") -> None:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEADER, *rows, ""]))


def inspect(case_id: str = "a", folder: Path | None = None) -> InspectedCase:
    dataset = open_dataset(FOLDER, "luna16")
    record = next(record for record in dataset.records if record.case_id == case_id)
    return inspect_case(record, dataset.facts, PARAMS, dataset.references[case_id], folder)


def test_world_coordinates_become_ras(scan: Callable[..., None], tmp_path: Path) -> None:
    """LPS (-5, -10, -20) is voxel (5, 10, 5); RAS (5, 10, -20)."""
    scan("a")
    annotate("a,-5,-10,-20,4")
    found = inspect("a", tmp_path)
    assert found.record.verdict == "ok"
    (row,) = found.objects
    assert (row.x_mm, row.y_mm, row.z_mm, row.diameter_mm) == (5, 10, -20, 4)
    assert (row.id, row.label, row.ignored, row.readers) == (1, "nodule", False, 0)
    instances = load_label_map(Path(found.record.instances))
    voxels = np.argwhere(instances.array)
    assert row.voxels == len(voxels) == 13 + 1 + 1  # a disc of radius 2; 2 mm above and below it a point
    assert voxels.mean(axis=0) == pytest.approx((5, 10, 5))
    assert (instances.affine @ [*voxels.mean(axis=0), 1])[:3] == pytest.approx((5, 10, -20))
    sitk_point = sitk.ReadImage(found.record.images[0]).TransformPhysicalPointToIndex((-5.0, -10.0, -20.0))
    assert sitk_point == (5, 10, 5)


def test_a_nodule_outside_the_scan_is_told_and_the_others_stay(scan: Callable[..., None]) -> None:
    scan("a")
    annotate("a,-5,-10,-20,4", "a,-5,-10,-9,4", "a,60.25,-10,-20,4")
    found = inspect()
    assert (found.record.verdict, found.record.code) == ("warn", "annotation_outside")
    assert found.record.reason == (
        "2 of 3 nodules lie outside the scan, which spans (-9.5, 0.5, -31.0) to (10.5, 20.5, -11.0) mm: "
        "(5.0, 10.0, -9.0), (-60.2, 10.0, -20.0)"
    )
    assert len(found.objects) == 1


def test_excluded_findings_become_ignored_rows(scan: Callable[..., None]) -> None:
    scan("a")
    annotate("a,-5,-10,-20,4")
    annotate("a,0,-5,-15,-1", "a,0,-5,-25,7.5", "a,500,0,0,-1", "b,0,0,0,-1", name=EXCLUDED)
    rows = inspect().objects
    assert [(r.id, r.diameter_mm, r.voxels, r.ignored) for r in rows] == [
        *((1, 4, 15, False), (0, 10, 0, True), (0, 7.5, 0, True))
    ]


def test_nodules_that_overlap_are_told(scan: Callable[..., None]) -> None:
    scan("a")
    annotate("a,-5,-10,-20,6", "a,-3,-10,-20,4")
    found = inspect()
    assert found.record.code == "masks_overlap"
    assert [row.id for row in found.objects] == [1, 2]


def test_two_nodules_at_one_place_both_count(scan: Callable[..., None], tmp_path: Path) -> None:
    """FROC divides by the annotations; a nodule without a voxel of its own is one of them."""
    scan("a")
    annotate("a,-5,-10,-20,4", "a,-5,-10,-20,4", "a,0,-5,-16,4")
    found = inspect("a", tmp_path)
    assert set(found.record.code.split(";")) == {"masks_overlap", "mask_hidden"}
    assert "(5.0, 10.0, -20.0) lie wholly beneath other masks" in found.record.reason
    rows = [(row.id, row.x_mm, row.diameter_mm, row.voxels, row.ignored) for row in found.objects]
    assert sorted(rows) == [(0, 5, 4, 0, False), (1, 5, 4, 15, False), (2, 0, 4, 15, False)]
    assert np.unique(load_label_map(Path(found.record.instances)).array).tolist() == [0, 1, 2]


def test_only_series_with_an_image_are_cases(scan: Callable[..., None]) -> None:
    scan("a")
    scan("b", "subset3")
    annotate("a,-5,-10,-20,4", "elsewhere,0,0,0,9")
    facts, cases = list_cases(FOLDER, "luna16")
    assert [(c.case_id, c.patient_id, c.site) for c in cases] == [("a", "a", ""), ("b", "b", "")]
    assert facts.channels == ("CT",) and "sphere" in facts.description
    assert inspect("b").record.code == "empty_label"
    (FOLDER / "patients.csv").write_text("case_id,patient_id\na,p\nb,p\n")
    assert {case.patient_id for case in list_cases(FOLDER, "luna16")[1]} == {"p"}


def test_tables_that_are_wrong(scan: Callable[..., None]) -> None:
    scan("a")
    with pytest.raises(SegtrailError, match=r"annotations\.csv is missing"):
        list_cases(FOLDER, "luna16")
    annotate("a,1,2,x,4", "a,1,2,3,0", "a,1,2,3,-1", "a,-5,-10,-20,4")
    with pytest.raises(SegtrailError, match="3 problems") as caught:
        list_cases(FOLDER, "luna16")
    assert "row 2: 1, 2, x, 4 is no position and diameter in mm" in caught.value.what
    (FOLDER / "annotations.csv").write_text("seriesuid,coordX\na,1\n")
    with pytest.raises(SegtrailError, match="columns .* are missing"):
        list_cases(FOLDER, "luna16")


def test_a_changed_annotation_changes_the_hash(scan: Callable[..., None]) -> None:
    scan("a")
    annotate("a,-5,-10,-20,4")
    before = inspect().record.sha256
    annotate("a,-5,-10,-20,4", "other,0,0,0,5")
    assert inspect().record.sha256 == before
    annotate("a,-5,-10,-20,6")
    assert inspect().record.sha256 != before


def test_real_slabs_hold_the_official_nodules(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "luna16"
    dataset = open_dataset(folder, "luna16")
    with (folder / "slab_extents.csv").open(newline="") as stream:
        slabs = {row["seriesuid"]: row for row in csv.DictReader(stream)}
    with (folder / "annotations.csv").open(newline="") as stream:
        official = [row for row in csv.DictReader(stream) if row["seriesuid"] in slabs]
    assert {record.case_id for record in dataset.records} == slabs.keys()
    for record in dataset.records:
        found = inspect_case(record, dataset.facts, PARAMS, dataset.references[record.case_id], tmp_path)
        slab = slabs[record.case_id]
        rows = [row for row in found.objects if not row.ignored]
        assert len(rows) == int(slab["n_annotations_inside_slab"])
        left_out = int(slab["n_annotations"]) - len(rows)
        assert ("annotation_outside" in found.record.code) == bool(left_out)
        instances = load_label_map(Path(found.record.instances))
        spacing = np.abs(np.diag(instances.affine)[:3])
        for row in rows:
            assert [-row.x_mm, -row.y_mm, row.z_mm, row.diameter_mm] in [
                [float(o[name]) for name in HEADER.split(",")[1:]] for o in official
            ]
            voxels = np.argwhere(instances.array == row.id)
            centre = (instances.affine @ [*voxels.mean(axis=0), 1])[:3]
            assert (np.abs(centre - (row.x_mm, row.y_mm, row.z_mm)) < spacing).all()
            volume = len(voxels) * spacing.prod()
            assert abs((6 * volume / math.pi) ** (1 / 3) - row.diameter_mm) < spacing.max()
            extent = np.ptp(voxels, axis=0) * spacing
            assert (np.abs(extent - row.diameter_mm) <= 2 * spacing).all()
