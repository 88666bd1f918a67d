"""The page about a data set: every problem, self-contained, the same for the same cases, small for large sets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cases import CaseRecord, Finding
from pipeline.finding_codes import CODES
from pipeline.findings import FileFacts, Fix, save_findings, save_fixes
from pipeline.fingerprint import Fingerprint, build_fingerprint
from pipeline.histograms import histogram
from pipeline.inspected_case import InspectedCase
from pipeline.inspection import with_findings
from pipeline.inspection_pictures import draw_case
from pipeline.inspection_report import MOST_PICTURES, MOST_ROWS, render_inspection
from pipeline.io.dataset import DatasetFacts
from pipeline.volume import LabelMap, Volume

FACTS = DatasetFacts("Set <b>", ("CT",), {"background": 0, "organ": 1})
PNG = bytes.fromhex("89504e470d0a1a0a")


def fingerprint(case_id: str) -> Fingerprint:
    image = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)
    label = np.zeros((3, 4, 5), np.uint8)
    label[1, 1:3, 2] = 1
    return build_fingerprint(
        case_id, Volume(image, np.eye(4)), LabelMap(label, np.eye(4)), FACTS.labels, "0" * 64
    )


def case(case_id: str, *findings: Finding) -> InspectedCase:
    record = with_findings(CaseRecord(case_id, case_id, "", ("a.nii.gz",), "", "", "0" * 64), findings)
    files = (
        (FileFacts("image", 1234, "int16", (1, 3, 4, 5), (1, 1, 2.5), (0, 0, 0), "RAS"),) if findings else ()
    )
    return InspectedCase(record, fingerprint(case_id) if record.usable else None, (), findings, (), files)


EMPTY = Finding("empty_label", "label: no voxel is foreground", False, "0 voxels", "1 voxel")
SHIFTED = Finding("geometry_mismatch", "label against image: <i>5 mm</i>", measured="5 mm", limit="0.01 mm")


def test_each_code_has_its_section_with_measured_value_and_limit(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/b.png").write_bytes(PNG)
    page = render_inspection([case("a"), case("b", EMPTY), case("c", SHIFTED)], FACTS, tmp_path)
    assert page.index('id="geometry_mismatch"') < page.index('id="empty_label"')  # the worst first
    for text in (
        "<td>0 voxels</td><td>1 voxel</td>",
        "<td>5 mm</td><td>0.01 mm</td>",
        "3 × 4 × 5",
        "1 × 1 × 2.5",
    ):
        assert text in page
    assert "&lt;i&gt;5 mm&lt;/i&gt;" in page and "Set &lt;b&gt;" in page and "<i>5 mm" not in page
    assert page.count("data:image/png;base64,iVBORw0KGgo=") == 1
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_the_order_of_the_cases_does_not_show(tmp_path: Path) -> None:
    cases = [case("a"), case("b", EMPTY), case("c", SHIFTED), case("d", EMPTY)]
    assert render_inspection(cases, FACTS, tmp_path) == render_inspection(cases[::-1], FACTS, tmp_path)


def test_ten_thousand_cases_make_no_large_page(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    cases = [
        replace(case("x", EMPTY), record=replace(case("x", EMPTY).record, case_id=f"c{i:05}"))
        for i in range(40)
    ]
    many = cases + [
        replace(cases[0], record=replace(cases[0].record, case_id=f"d{i:05}")) for i in range(9_960)
    ]
    for i in range(40):
        (tmp_path / f"pictures/c{i:05}.png").write_bytes(PNG * 10_000)
    page = render_inspection(many, FACTS, tmp_path)
    assert page.count("data:image/png") == MOST_PICTURES
    assert f"{10_000 - MOST_ROWS} more stand in findings.csv" in page
    assert f"No picture of {10_000 - MOST_PICTURES} more cases here" in page
    assert len(page) < 1_000_000


def test_a_set_without_findings_and_a_refused_one(tmp_path: Path) -> None:
    assert "Nothing was found" in render_inspection([case("a")], FACTS, tmp_path)
    page = render_inspection([case("a", SHIFTED)], FACTS, tmp_path, "1 of 1 cases are <quarantined>")
    assert "The set is refused" in page and "1 of 1 cases are &lt;quarantined&gt;" in page


def test_tables_have_one_row_a_finding_and_one_a_fix(tmp_path: Path) -> None:
    save_findings({"b": [EMPTY, SHIFTED], "a": []}, tmp_path / "findings.csv")
    assert (tmp_path / "findings.csv").read_text().splitlines() == [
        "case_id,code,verdict,measured,limit,reason",
        "b,empty_label,warn,0 voxels,1 voxel,label: no voxel is foreground",
        "b,geometry_mismatch,quarantined,5 mm,0.01 mm,label against image: <i>5 mm</i>",
    ]
    save_fixes({"b": [Fix("label", "orientation", "axes", "PSR", "RAS", "x.nii.gz")]}, tmp_path / "fixes.csv")
    assert (tmp_path / "fixes.csv").read_text().splitlines() == [
        "case_id,role,fix,field,before,after,file",
        "b,label,orientation,axes,PSR,RAS,x.nii.gz",
    ]


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0], [1.0, 1.0], [-3.0, 0.5, 1e6]])
def test_histograms_count_every_finite_value(values: list[float]) -> None:
    svg = histogram(values, "values", "mm")
    finite = [v for v in values if np.isfinite(v)]
    counts = [int(part.split(" from ")[0]) for part in svg.split("<title>")[1:]]
    assert sum(counts) == len(finite)


def test_a_label_is_drawn_where_its_header_puts_it(tmp_path: Path) -> None:
    """A label 20 mm to the left of where it belongs: the green outline moves in the picture, NaN are no trouble."""
    image = np.zeros((1, 40, 40, 40), np.float32)
    image[0, 0, 0, 0] = np.nan
    label = np.zeros((40, 40, 40), np.uint8)
    label[25:30, 15:20, 15:20] = 1
    places = []
    for shift in (0, -20):
        affine = np.eye(4)
        affine[0, 3] = shift
        draw_case(Volume(image, np.eye(4)), LabelMap(label, affine), {"organ": 1}, "x", tmp_path / "a.png")
        pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
        axial = pixels[: int(pixels.shape[0] * 0.85), : pixels.shape[1] // 3]  # without the legend
        green = (axial[..., 1] > 150) & (axial[..., 0] < 120)
        assert green.any()
        places.append(np.flatnonzero(green.any(axis=0)).mean())
    width = pixels.shape[1] / 3  # about 40 mm and the gap; left of the patient is at the right
    assert 0.35 * width < places[1] - places[0] < 0.6 * width


def test_every_code_of_the_sources_and_of_the_contract_has_a_heading() -> None:
    """What readers and checks call a problem, found by its text, is explained on the page and in data/README.md."""
    root = Path(__file__).parents[2]
    texts = [path.read_text(encoding="utf-8") for path in (root / "pipeline").rglob("*.py")]
    pattern = re.compile(r"(?:Finding|ImageFileError)\(\s*\"([a-z_]+)\"")
    used = {code for text in texts for code in pattern.findall(text)}
    assert len(used) > 20 and used <= CODES.keys()
    contract = (root / "data/README.md").read_text(encoding="utf-8")
    assert [code for code in sorted(used) if f"`{code}`" not in contract] == []
