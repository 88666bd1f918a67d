"""The table of reference objects, there and back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.errors import SegtrailError
from pipeline.objects import ObjectRow, load_objects, save_objects

SEEN = ObjectRow("b", 1, "nodule", 5.651470635, -128.6994211, 175.3192718, -298.3875064, 93, 4, 0.81)
OTHER = ObjectRow("b", 2, "nodule", 4.0, 1.0, 2.0, 3.0, 7)
IGNORED = ObjectRow("b", 0, "nodule", 10.0, 1e-9, 0.1, -0.2, 0, 1, ignored=True)
FIRST = ObjectRow("a", 3, "nucleus, large", 1.5, 0.0, 0.0, 0.0, 2)


def test_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "objects.csv"
    save_objects([IGNORED, OTHER, SEEN, FIRST], path)
    assert path.read_text() == (
        "case_id,id,label,diameter_mm,x_mm,y_mm,z_mm,voxels,readers,agreement,ignored\n"
        'a,3,"nucleus, large",1.5,0.0,0.0,0.0,2,0,,0\n'
        "b,1,nodule,5.651470635,-128.6994211,175.3192718,-298.3875064,93,4,0.81,0\n"
        "b,2,nodule,4.0,1.0,2.0,3.0,7,0,,0\n"
        "b,0,nodule,10.0,1e-09,0.1,-0.2,0,1,,1\n"
    )


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "objects.csv"
    save_objects([SEEN, OTHER, IGNORED], path)
    back = load_objects(path)
    assert back[0] == SEEN
    assert [(row.id, row.ignored, row.readers) for row in back] == [
        (1, False, 4),
        (2, False, 0),
        (0, True, 1),
    ]
    assert math.isnan(back[1].agreement)
    save_objects([], path)
    assert load_objects(path) == []


def test_what_is_no_such_table(tmp_path: Path) -> None:
    path = tmp_path / "objects.csv"
    with pytest.raises(SegtrailError, match="missing") as caught:
        load_objects(path)
    assert caught.value.fix == "dvc repro --force inspect"
    path.write_text("case_id,id\na,1\n")
    with pytest.raises(SegtrailError, match="columns are"):
        load_objects(path)
    save_objects([OTHER], path)
    path.write_text(path.read_text().replace("4.0", "four"))
    with pytest.raises(SegtrailError, match="four"):
        load_objects(path)
