"""Several readers: votes and agreement by hand, STAPLE against SimpleITK, and real hippocampi drawn three times."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from flows.inspect import inspect_flow
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.io.consensus import CONSENSUS, agreeing_voxels, mean_pairwise_dice, staple, vote
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import load_label_map
from pipeline.io.readers import build_consensus, measure_readers
from pipeline.io.sources import open_dataset
from pipeline.io.stored import StoredImage
from pipeline.reader_rows import ReaderRow, load_readers, reader_dice, save_readers

FACTS = DatasetFacts("three", ("MRI",), {"background": 0, "one": 1, "two": 2}, ignore=3)


def column(*values: int) -> NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def test_three_readers_by_hand() -> None:
    #                all     two     two     none two  two of one  one   nobody
    readers = [column(1, 1, 1, 0, 1, 3, 2, 3), column(1, 1, 0, 0, 2, 2, 3, 3), column(1, 0, 0, 2, 0, 1, 3, 3)]
    assert vote(readers, 3).ravel().tolist() == [1, 1, 0, 0, 0, 1, 2, 3]
    assert vote(readers[:2], 3).ravel().tolist() == [1, 1, 0, 0, 1, 2, 2, 3]  # of a tie the smallest value
    assert CONSENSUS["first"](readers, 3) is readers[0]


def test_agreement_by_hand() -> None:
    a, b, nothing = np.arange(10), np.arange(5, 15), np.arange(0)
    assert mean_pairwise_dice([a, b]) == 0.5
    assert mean_pairwise_dice([a, b, nothing]) == pytest.approx(
        0.5 / 3
    )  # who drew nothing agrees with nobody
    assert mean_pairwise_dice([a, nothing, nothing]) == 0
    assert math.isnan(mean_pairwise_dice([nothing, nothing])) and math.isnan(mean_pairwise_dice([a]))
    assert agreeing_voxels([a, b, nothing], 2).tolist() == [5, 6, 7, 8, 9]


def test_rows_have_classes_and_regions_where_all_readers_labelled() -> None:
    facts = DatasetFacts(
        "x", ("MRI",), {"background": 0, "one": 1, "two": 2}, regions={"any": (1, 2)}, ignore=3
    )
    rows = measure_readers("a", [column(1, 1, 2, 0, 1), column(1, 2, 2, 1, 3)], facts)
    assert [(row.label, row.readers, row.least_voxels, row.most_voxels) for row in rows] == [
        ("any", 2, 3, 4), ("one", 2, 2, 2), ("two", 2, 1, 2),
    ]  # fmt: skip
    assert [row.reader_dice for row in rows] == pytest.approx([6 / 7, 0.5, 2 / 3])
    assert measure_readers("a", [column(1)], facts) == []


def noisy_readers(seed: int, classes: int) -> list[NDArray[np.uint8]]:
    """A ball in a box (of two halves), by two careful readers and two who draw too much, alike."""
    generator = np.random.default_rng(seed)
    x, y, z = np.ogrid[:20, :20, :12]
    inside = (x - 9) ** 2 + (y - 9) ** 2 + (z - 6) ** 2 <= 25
    truth = np.where(inside, np.where(x < 9, 1, classes), 0).astype(np.uint8)
    careful = [np.where(generator.random(truth.shape) < 0.01, 0, truth).astype(np.uint8) for _ in range(2)]
    wide = ndimage.grey_dilation(truth, size=(3, 3, 3))
    return [
        *careful,
        *(np.where(generator.random(truth.shape) < 0.2, truth, wide).astype(np.uint8) for _ in range(2)),
    ]


def test_staple_is_that_of_simpleitk() -> None:
    careful, other, wide, _ = noisy_readers(1, classes=1)
    for readers in ([careful, other, wide], [careful, other, wide, wide]):
        # Another filter, of two classes alone: probabilities of the foreground.
        images = [sitk.GetImageFromArray(reader.T) for reader in readers]
        binary = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)).T >= 0.5
        assert np.array_equal(staple(readers, None), binary)
    # Two readers who never differ are believed more than two who do, though the votes are equal.
    assert np.array_equal(staple(readers, None), wide) and vote(readers, None).sum() < wide.sum()
    several = noisy_readers(2, classes=2)
    direct = sitk.MultiLabelSTAPLE([sitk.GetImageFromArray(reader.T) for reader in several], 0)
    assert np.array_equal(staple(several, None), sitk.GetArrayFromImage(direct).T)
    assert set(np.unique(staple(several, None))) == {0, 1, 2}
    assert staple([careful] * 3, None) is careful


def test_where_a_reader_labelled_nothing_staple_leaves_it_to_the_votes() -> None:
    readers = noisy_readers(1, classes=1)
    for reader in readers[:3]:
        reader[:5] = 3
    found = staple(readers, 3)
    assert np.array_equal(found[:5], readers[3][:5])
    readers[3][:5] = 3
    assert (staple(readers, 3)[:5] == 3).all() and not (staple(readers, 3)[5:] == 3).any()


def write(path: Path, array: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_what_is_wrong_with_a_readers_file_is_told_with_its_number(tmp_path: Path) -> None:
    shape = (4, 3, 2)
    good = write(tmp_path / "good.nii.gz", np.ones(shape, np.uint8))
    wide = write(tmp_path / "wide.nii.gz", np.ones((5, 3, 2), np.uint8))
    moved = write(tmp_path / "moved.nii.gz", np.ones(shape, np.uint8), np.diag([1.0, 1, 2, 1]))
    strange = write(tmp_path / "strange.nii.gz", np.full(shape, 7, np.uint8))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(good.read_bytes()[:-9])
    image, params = StoredImage(np.zeros((1, *shape), np.float32), np.eye(4)), load_params().inspect

    def build(*paths: Path) -> Sequence[tuple[str, str]]:
        found = build_consensus("a", paths, FACTS, image, params)
        assert (found.label is None) == bool(found.findings) and all(f.fatal for f in found.findings)
        return [(f.code, f.reason) for f in found.findings]

    assert build(good, good) == []
    assert build(good, wide) == [
        ("geometry_mismatch", "label 2 (wide.nii.gz): shape (5, 3, 2), the image has (4, 3, 2)")
    ]
    (code, reason), other = build(moved, good, strange)
    assert code == "geometry_mismatch" and "1 mm from the image's" in reason
    assert other == ("label_value_unknown", "label 3 (strange.nii.gz): value 7; known are 0, 1, 2, 3")
    assert [code for code, _ in build(good, cut, tmp_path / "no.nii.gz")] == ["truncated", "missing"]


def write_table(folder: Path, header: str, *rows: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "name": "x",
        "modality": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    (folder / "cases.csv").write_text("\n".join((header, *rows)) + "\n")


@pytest.mark.parametrize(
    ("header", "cells"), [("label_1,label_2,label_10", "p.nii,,q.nii"), ("labels", "p.nii; q.nii")]
)
def test_the_columns_of_the_table(project: Path, header: str, cells: str) -> None:
    folder = Path("data/raw/readers")
    one, none = ("p.nii", "") if header == "labels" else ("p.nii,,", ",,")
    rows = [f"c{i},p{i},p.nii,{text}" for i, text in enumerate((cells, one, none))]
    write_table(folder, f"case_id,patient_id,image,{header}", *rows)
    for name in ("p.nii", "q.nii"):
        (folder / name).touch()
    dataset = open_dataset(folder, "table")
    assert [record.label for record in dataset.records] == ["", "data/raw/readers/p.nii", ""]
    (builder,) = dataset.references.values()
    assert [path.name for path in builder.args[1]] == ["p.nii", "q.nii"]  # type: ignore[attr-defined]


def test_wrong_tables_are_refused(project: Path) -> None:
    folder = Path("data/raw/readers")
    write_table(folder, "case_id,patient_id,image,mask", "a,a,p.nii,p.nii")
    with pytest.raises(SegtrailError, match="no column names the labels"):
        open_dataset(folder, "table")
    write_table(
        folder, "case_id,patient_id,image,label_1,label_2,instances", "a,a,p.nii,p.nii,gone.nii,p.nii"
    )
    (folder / "p.nii").touch()
    with pytest.raises(SegtrailError, match="the label is missing"):
        open_dataset(folder, "table")
    (folder / "gone.nii").touch()
    with pytest.raises(SegtrailError, match="instance map beside the labels of several readers"):
        open_dataset(folder, "table")


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [ReaderRow("b", "one", 2, 0.5, 3, 4), ReaderRow("a", "one", 3, math.nan, 0, 0)]
    save_readers(rows, tmp_path / "readers.csv")
    first, second = load_readers(tmp_path / "readers.csv")
    assert math.isnan(first.reader_dice) and second == rows[0]
    assert reader_dice([second], {"b"}) == {("b", "one"): 0.5} and reader_dice([second], {"a"}) == {}
    assert load_readers(tmp_path / "none.csv") == []


def test_real_hippocampi_by_three_readers(project: Path, shared_data: Path) -> None:
    folder, expected, rows = Path("data/raw/readers"), {}, []
    source = shared_data / "Task04_Hippocampus"
    for path in sorted((source / "labelsTr").glob("hippocampus_*.nii.gz"))[:3]:
        stored, name = nibabel.load(path), path.name.removesuffix(".nii.gz")
        label = np.asarray(stored.dataobj).astype(np.uint8)
        readers = [label, np.roll(label, 1, axis=0), ndimage.grey_dilation(label, size=(1, 3, 1))]
        files = [
            write(folder / f"{name}_{i}.nii.gz", reader, stored.affine).name
            for i, reader in enumerate(readers)
        ]
        (folder / path.name).write_bytes((source / "imagesTr" / path.name).read_bytes())
        rows.append(f"{name},{name},{path.name},{';'.join(files)}")
        votes = np.stack([sum((reader == value).astype(int) for reader in readers) for value in (0, 1, 2)])
        expected[name] = votes.argmax(axis=0), readers
    write_table(folder, "case_id,patient_id,image,labels", *rows)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["inspect"] |= {"dataset": "readers", "layout": "table"}
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    inspect_flow.fn()
    with Path("data/inspected/readers.csv").open() as stream:
        told = {(row["case_id"], row["label"]): row for row in csv.DictReader(stream)}
    assert len(told) == 6
    for name, (consensus, readers) in expected.items():
        saved = load_label_map(Path(f"data/inspected/references/{name}_labels.nii.gz")).array
        assert np.array_equal(saved, consensus)
        for value, label in ((1, "anterior"), (2, "posterior")):
            masks = [reader == value for reader in readers]
            dice = [
                2 * (a & b).sum() / (a.sum() + b.sum())
                for a, b in ((masks[0], masks[1]), (masks[0], masks[2]), (masks[1], masks[2]))
            ]
            assert float(told[name, label]["reader_dice"]) == pytest.approx(np.mean(dice))
            assert 0.5 < np.mean(dice) < 0.95


def test_readers_with_files_of_several_types_lose_no_value() -> None:
    small, large = np.array([[[0, 1, 1]]], np.int8), np.array([[[0, 300, 200]]], np.uint16)
    for method in ("majority", "staple"):
        found = CONSENSUS[method]([small, large, large], None)
        assert found.tolist() == [[[0, 300, 200]]], method
    assert CONSENSUS["majority"]([small, small], 255).tolist() == [[[0, 1, 1]]]
    assert CONSENSUS["majority"]([np.full((1, 1, 1), 255, np.uint8), small[..., :1]], 255).tolist() == [[[0]]]
