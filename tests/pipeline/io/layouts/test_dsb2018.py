"""Folders of nuclei in every state, and the real ones against Pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.cases import CaseRecord
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.inspection import InspectedCase, inspect_case
from pipeline.io.images import load_label_map, load_volume
from pipeline.io.sources import list_cases, open_dataset

FOLDER = Path("data/raw/nuclei")
PARAMS = load_params().inspect
WIDTH, HEIGHT = 6, 4


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Rows and columns, as Pillow has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def colours(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    rgba = np.random.default_rng(0).integers(0, 255, (height, width, 4), np.uint8)
    rgba[..., 3] = 255
    return rgba


def mask(*pixels: tuple[int, int], height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """255 at (column, row)."""
    out = np.zeros((height, width), np.uint8)
    for column, row in pixels:
        out[row, column] = 255
    return out


@pytest.fixture
def write(project: Path) -> Callable[..., Path]:
    """Makes the folder of one case; returns it."""

    def make(case_id: str, *masks: NDArray[np.uint8], image: NDArray[np.uint8] | None = None) -> Path:
        folder = FOLDER / "stage1_train" / case_id
        write_png(folder / "images" / f"{case_id}.png", colours() if image is None else image)
        (folder / "masks").mkdir()
        for number, pixels in enumerate(masks):
            write_png(folder / "masks" / f"m{number}.png", pixels)
        return folder

    return make


def inspect(case_id: str, folder: Path | None = None) -> InspectedCase:
    dataset = open_dataset(FOLDER, "dsb2018")
    record = next(record for record in dataset.records if record.case_id == case_id)
    return inspect_case(record, dataset.facts, PARAMS, dataset.references[case_id], folder)


def test_columns_are_x_rows_are_y_and_masks_get_ids_by_name(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write("a", mask((5, 0), (5, 1)), mask((0, 3)))
    found = inspect("a", tmp_path)
    record = found.record
    assert (record.verdict, record.shape, record.spacing_mm) == ("ok", (WIDTH, HEIGHT, 1), (1, 1, 1))
    instances = load_label_map(Path(record.instances)).array
    assert instances.shape == (WIDTH, HEIGHT, 1)
    assert (instances[5, 0, 0], instances[5, 1, 0], instances[0, 3, 0]) == (1, 1, 2)
    assert (load_label_map(Path(record.label)).array == (instances > 0)).all()
    assert load_volume([Path(name) for name in record.images]).array.shape == (3, WIDTH, HEIGHT, 1)
    first, second = found.objects
    assert (first.id, first.label, first.voxels, first.ignored) == (1, "nucleus", 2, False)
    assert (first.x_mm, first.y_mm, first.z_mm) == (5, 0.5, 0)
    assert first.diameter_mm == pytest.approx(1.5957691)  # 2 sqrt(2 / pi)
    assert (second.x_mm, second.y_mm, second.readers) == (0, 3, 0)


def test_a_grey_image_is_three_equal_channels(write: Callable[..., Path]) -> None:
    write("grey", mask((1, 1)), image=colours()[..., 0])
    record = inspect("grey").record
    assert (record.verdict, len(record.images)) == ("ok", 3)
    array = load_volume([Path(name) for name in record.images]).array
    assert array.shape == (3, WIDTH, HEIGHT, 1)
    assert (array[0] == array[1]).all() and (array[0] == array[2]).all()
    assert (colours()[..., 0] == array[0, :, :, 0].T).all()


def test_a_colour_may_be_absent_but_not_all(write: Callable[..., Path]) -> None:
    blue = colours()
    blue[..., :2] = 0
    write("blue", mask((1, 1)), image=blue)
    write("black", mask((1, 1)), image=np.zeros_like(blue))
    assert inspect("blue").record.verdict == "ok"
    assert inspect("black").record.code == "constant_image"


def test_an_image_without_nuclei_is_legal(write: Callable[..., Path], tmp_path: Path) -> None:
    write("none")
    found = inspect("none", tmp_path)
    assert (found.record.verdict, found.record.code) == ("warn", "empty_label")
    assert found.objects == ()
    assert load_label_map(Path(found.record.instances)).array.max() == 0


def test_overlapping_masks_are_told_and_the_smaller_wins(write: Callable[..., Path], tmp_path: Path) -> None:
    write("a", mask((0, 0), (1, 0), (2, 0)), mask((2, 0), (3, 0)))
    found = inspect("a", tmp_path)
    assert (found.record.verdict, found.record.code) == ("warn", "masks_overlap")
    assert found.record.reason.startswith("1 voxel(s) belong to several masks")
    assert load_label_map(Path(found.record.instances)).array[:4, 0, 0].tolist() == [1, 1, 2, 2]


def test_a_mask_without_a_pixel(write: Callable[..., Path], tmp_path: Path) -> None:
    write("a", mask((0, 0)), mask())
    found = inspect("a", tmp_path)
    assert (found.record.verdict, found.record.code) == ("quarantined", "empty_mask")
    assert found.record.reason == "mask m1.png: 0 of 24 pixels are set, expected at least 1"
    assert found.fingerprint is None and found.objects == ()
    assert not list(tmp_path.glob("*.nii.gz"))


def test_a_mask_of_another_size(write: Callable[..., Path]) -> None:
    write("a", mask((0, 0), height=WIDTH, width=HEIGHT))
    record = inspect("a").record
    assert record.code == "geometry_mismatch"
    assert record.reason == "mask m0.png: it has 4 x 6 pixels, its image 6 x 4"


def test_many_bad_masks_are_one_short_reason(write: Callable[..., Path]) -> None:
    write("a", *[mask() for _ in range(9)])
    record = inspect("a").record
    assert record.code == "empty_mask"
    assert "m4.png" in record.reason and "m5.png" not in record.reason
    assert record.reason.endswith("and 4 more")


@pytest.mark.parametrize(("kind", "role"), [("images/a", "image: "), ("masks/m0", "mask m0.png: ")])
def test_a_corrupt_png(write: Callable[..., Path], kind: str, role: str) -> None:
    path = write("a", mask((0, 0))) / f"{kind}.png"
    path.write_bytes(path.read_bytes()[:-20])
    record = inspect("a").record
    assert record.verdict == "quarantined"
    assert record.code in ("truncated", "corrupt")
    assert record.reason.startswith(role)


def test_an_image_without_the_folder_of_masks(write: Callable[..., Path]) -> None:
    (write("a") / "masks").rmdir()
    record = inspect("a").record
    assert (record.verdict, record.code) == ("quarantined", "missing")
    assert "no folder masks" in record.reason


def test_masks_without_an_image_and_with_two(write: Callable[..., Path]) -> None:
    folder = write("a", mask((0, 0)))
    write("b", mask((0, 0)))
    (folder / "images" / "a.png").rename(folder / "images" / "other.png")
    assert inspect("a").record.verdict == "ok"  # the one image there is
    write_png(folder / "images" / "second.png", colours())
    with pytest.raises(SegtrailError, match="2 images \\(other.png, second.png\\), expected one"):
        list_cases(FOLDER, "dsb2018")
    for path in (folder / "images").iterdir():
        path.unlink()
    record = inspect("a").record
    assert (record.code, record.reason) == ("missing", "image: there is no such file")


def test_the_hash_follows_the_masks_and_not_their_files(write: Callable[..., Path]) -> None:
    folder = write("a", mask((0, 0)), mask((3, 3)))
    before = inspect("a").record.sha256
    assert len(before) == 64
    write_png(folder / "masks" / "m1.png", mask((3, 3)) // 255)  # 1 for 255: the same mask
    assert inspect("a").record.sha256 == before
    write_png(folder / "masks" / "m1.png", mask((3, 2)))
    assert inspect("a").record.sha256 != before


def test_patients_and_sites(write: Callable[..., Path]) -> None:
    write("a", mask((0, 0)))
    write("b", mask((0, 0)))

    def listed() -> list[tuple[str, str]]:
        return [(case.patient_id, case.site) for case in list_cases(FOLDER, "dsb2018")[1]]

    assert listed() == [("a", ""), ("b", "")]
    (FOLDER / "image_types.csv").write_text("image_id,type\nb,histology\n")
    assert listed() == [("a", ""), ("b", "histology")]
    (FOLDER / "groups.csv").write_text("case_id,patient_id,site\na,p1,x\nb,p1,y\n")
    assert listed() == [("p1", "x"), ("p1", "y")]
    (FOLDER / "groups.csv").write_text("case_id,patient_id\na,p1\n")
    with pytest.raises(SegtrailError, match="no patient_id for b"):
        listed()


def test_the_folder_of_images_may_be_the_top_one(write: Callable[..., Path]) -> None:
    write("a", mask((0, 0)))
    (FOLDER / "stage1_train" / "notes").mkdir()
    inside = list_cases(FOLDER, "dsb2018")[1]
    top = list_cases(FOLDER / "stage1_train", "dsb2018")[1]
    assert [case.case_id for case in top] == ["a"]
    assert inside == top


def test_real_nuclei_equal_their_masks(shared_data: Path, tmp_path: Path) -> None:
    """One image of each type, mask by mask through Pillow; the counts are those of image_types.csv."""
    folder = shared_data / "dsb2018"
    dataset = open_dataset(folder, "dsb2018")
    rows = [line.split(",") for line in (folder / "image_types.csv").read_text().splitlines()[1:]]
    assert len(dataset.records) == len(rows) == 244
    by_type = {
        row[1]: row for row in sorted(rows, key=lambda row: -int(row[4]))
    }  # of each the one with fewest
    assert len(by_type) == 5
    for case_id, kind, height, width, count in by_type.values():
        record: CaseRecord = next(r for r in dataset.records if r.case_id == case_id)
        found = inspect_case(record, dataset.facts, PARAMS, dataset.references[case_id], tmp_path)
        assert (found.record.verdict, found.record.site) == ("ok", kind)
        assert found.record.shape == (int(width), int(height), 1)
        instances = load_label_map(Path(found.record.instances)).array[:, :, 0]
        masks = sorted((folder / "stage1_train" / case_id / "masks").iterdir())
        assert len(masks) == len(found.objects) == instances.max() == int(count)
        for number, path in enumerate(masks, 1):
            pixels = np.asarray(Image.open(path)) > 0
            assert (pixels == (number == instances.T)).all()
            assert found.objects[number - 1].voxels == pixels.sum()


@pytest.mark.slow
def test_the_whole_real_set(shared_data: Path) -> None:
    """244 images and 9990 masks: all usable, three with overlaps (as its README says)."""
    dataset = open_dataset(shared_data / "dsb2018", "dsb2018")
    found = [inspect_case(r, dataset.facts, PARAMS, dataset.references[r.case_id]) for r in dataset.records]
    assert sum(len(case.objects) for case in found) == 9990
    assert [case.record.code for case in found if case.record.verdict != "ok"] == ["masks_overlap"] * 3
