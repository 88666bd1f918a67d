"""The stage `evaluate` on pictures (PNG): instance maps of the references, no FROC, pictures as they are."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from flows.evaluate import evaluate_flow
from pipeline.cases import CaseRecord, save_cases
from pipeline.io.sources import DatasetFacts
from pipeline.splits import SplitRow, save_splits

OUTPUT = Path("data/metrics/maskrcnn")
PREDICTIONS = Path("data/predictions/maskrcnn")
OBJECTS = "case_id,id,label,diameter_mm,x_mm,y_mm,z_mm,voxels,readers,agreement,ignored\n"
SIZES = {"one": (30, 20), "two": (64, 48), "none": (20, 30)}  # columns, rows


def squares(case_id: str, *corners: tuple[int, int], edge: int = 6) -> NDArray[np.uint16]:
    """Ids (rows, columns) of squares at column, row."""
    columns, rows = SIZES[case_id]
    ids = np.zeros((rows, columns), np.uint16)
    for number, (x, y) in enumerate(corners, 1):
        ids[y : y + edge, x : x + edge] = number
    return ids


# In `one` the two nuclei touch: the label map alone would make them one object.
REFERENCES = {
    "one": squares("one", (4, 4), (10, 4)),
    "two": squares("two", (4, 4), (40, 4), (4, 30)),
    "none": squares("none"),
}
# `one`: both found; `two`: one found, one missed, one moved by half its width, a false alarm; `none`: nothing.
FOUND = {
    "one": (squares("one", (4, 4), (10, 4)), [0.95, 0.9]),
    "two": (squares("two", (4, 4), (43, 4), (40, 30)), [0.8, 0.7, 0.3]),
    "none": (squares("none"), []),
}


def save_png(path: Path, array: NDArray[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return str(path)


@pytest.fixture
def predicted(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tracking = ModuleType("flows.tracking")
    tracking.record_evaluation = lambda model: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.tracking", tracking)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= {"baseline": "none", "bootstrap_samples": 200}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    cases, objects = [], ""
    for case_id, ids in REFERENCES.items():
        raw, known = Path("data/raw/nuclei") / case_id, Path("data/inspected/references") / case_id
        image = save_png(raw.with_suffix(".png"), np.repeat((ids[..., None] > 0) * np.uint8(200), 3, axis=2))
        label = save_png(Path(f"{known}_labels.png"), (ids > 0).astype(np.uint8))
        instances = save_png(Path(f"{known}_instances.png"), ids)
        cases.append(CaseRecord(case_id, case_id, "", (image,), label, instances, "", (*ids.T.shape, 1)))
        objects += "".join(f"{case_id},{i},nucleus,6.8,0,0,0,36,0,,0\n" for i in range(1, ids.max() + 1))
        write_prediction(case_id, *FOUND[case_id])
    save_cases(cases, Path("data/inspected/cases.csv"))
    Path("data/inspected/objects.csv").write_text(OBJECTS + objects)
    facts = DatasetFacts("Nuclei", ("R", "G", "B"), {"background": 0, "nucleus": 1}, "", "")
    facts.save(Path("data/inspected/dataset.json"))
    Path("data/splits").mkdir()
    save_splits([SplitRow(c.case_id, c.patient_id, "test") for c in cases], Path("data/splits/splits.csv"))
    return project


def write_prediction(case_id: str, ids: NDArray[np.uint16], scores: list[float]) -> None:
    """Objects below a score of 0.5 do not stand in the label map, as Mask R-CNN writes it."""
    low = [number for number, score in enumerate(scores, 1) if score < 0.5]
    save_png(PREDICTIONS / f"{case_id}_instances.png", ids)
    save_png(PREDICTIONS / f"{case_id}_labels.png", ((ids > 0) & ~np.isin(ids, low)).astype(np.uint8))
    instances = [
        {
            "id": number, "label": "nucleus", "score": score, "voxels": 36, "area_mm2": 36.0,
            "centroid_mm": [0, 0, 0], "box_voxels": [[0, 0, 0], [6, 6, 1]],
        }
        for number, score in enumerate(scores, 1)
    ]  # fmt: skip
    (PREDICTIONS / f"{case_id}.json").write_text(json.dumps({"instances": instances}))


def test_pictures_worked_out_by_hand(predicted: Path) -> None:
    evaluate_flow.fn("maskrcnn")
    record = json.loads((OUTPUT / "metrics.json").read_text(encoding="utf-8"))
    numbers = record["metrics"]
    assert record["objects"] == {
        "nucleus": {"predicted": 5, "reference": 5, "small": 5, "medium": 0, "large": 0}
    }
    # By score: .95 .9 .8 hits; .7 overlaps by 18 of 54 pixels, 1/3; .3 a false alarm. Five nuclei.
    assert numbers["test/mask_map_50"] == pytest.approx(61 / 101)  # recalls up to 3/5
    assert numbers["test/mask_map_10_50"] == pytest.approx((5 * 81 + 4 * 61) / 101 / 9)  # .10 to .30: 4/5
    assert numbers["test/box_map_50_95"] == pytest.approx(61 / 101)
    assert numbers["test/mask_mar_100"] == pytest.approx(3 / 5)
    # Without the object of .3: 2 of 2 in `one`; in `two` 1 TP, 1 FP, 2 FN. `none` is left out.
    assert numbers["test/ap_dsb"] == numbers["test/ap_dsb_50"] == pytest.approx((1 + 1 / 4) / 2)
    assert numbers["test/panoptic_quality"] == pytest.approx(3 / (3 + 1 / 2 + 2 / 2))
    assert numbers["test/ap_dsb_n"] == 2
    assert not [name for name in numbers if "cpm" in name or "froc" in name]
    assert not (OUTPUT / "froc.csv").exists()
    with (OUTPUT / "cases.csv").open(encoding="utf-8") as stream:
        rows = {row["case_id"]: row for row in csv.DictReader(stream)}
    assert [rows[c]["panoptic_quality"] for c in ("one", "none")] == ["1.0", ""]
    assert float(rows["two"]["mask_map_50"]) == pytest.approx(34 / 101)
    assert "cpm" not in rows["one"]


def test_pictures_of_the_cases_are_in_their_own_orientation(predicted: Path) -> None:
    evaluate_flow.fn("maskrcnn")
    names = sorted(path.name for path in (OUTPUT / "overlays").iterdir())
    assert names == [
        "objects_best_one.png", "objects_busiest_two.png", "objects_median_two.png", "objects_worst_two.png",
    ]  # fmt: skip
    image = np.asarray(Image.open(OUTPUT / "overlays/objects_best_one.png").convert("RGB")).astype(int)
    rows, columns = np.nonzero((abs(image - 200).max(axis=2) < 12)[60:-60])
    across, up = columns.mean() / image.shape[1], rows.mean() / (image.shape[0] - 120)
    assert across < 0.45 and up < 0.45  # nuclei at column 4 to 16 of 30 and row 4 to 10 of 20
    assert not (OUTPUT / "plots" / "froc.png").exists()
    assert (OUTPUT / "plots" / "precision_recall.png").exists()


def test_components_stand_in_for_missing_instance_maps(predicted: Path) -> None:
    path = Path("data/inspected/cases.csv")
    text = path.read_text()
    for case_id in REFERENCES:
        text = text.replace(f"data/inspected/references/{case_id}_instances.png", "")
    path.write_text(text)
    evaluate_flow.fn("maskrcnn")
    record = json.loads((OUTPUT / "metrics.json").read_text(encoding="utf-8"))
    assert record["objects"]["nucleus"]["reference"] == 4  # the two that touch are one
