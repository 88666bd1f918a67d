"""Every real data set that holds images, from its folder to verdicts and pictures, as a user would bring it in."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot
import pytest
import SimpleITK
from matplotlib.figure import Figure
from project_copy import copy_project, load_json, run

from benchmarks.every_set import SETS, RealSet, draw_case, write_tables
from pipeline.cases import CaseRecord, load_cases
from pipeline.io.dataset import DatasetFacts

ROOT = Path(__file__).resolve().parents[1]
HOW_TO = ROOT / "docs/how-to/add-a-layout.md"


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that all sets come into, one after the other."""
    project = tmp_path_factory.mktemp("every") / "project"
    copy_project(project)
    return project


def bring_in(project: Path, raw: Path, preset: str, options: Sequence[str] = ()) -> list[CaseRecord]:
    """`segtrail data add` and `dvc repro inspect`; the table of cases."""
    added = run(project, "flows.cli", "data", "add", str(raw), "--preset", preset, *options)
    assert added.returncode == 0, added.stdout + added.stderr
    done = run(project, "dvc", "repro", "inspect")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return load_cases(project / "data/inspected/cases.csv")


@pytest.fixture
def at_home(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(copied)
    monkeypatch.setenv("SEGTRAIL_PRIVATE_DIR", str(tmp_path / "private"))  # the sets have not met each other
    yield copied


@pytest.mark.slow
@pytest.mark.parametrize("real", SETS, ids=lambda real: real.name)
def test_every_set_comes_in(shared_data: Path, at_home: Path, tmp_path: Path, real: RealSet) -> None:
    source = shared_data / real.folder
    options = [text for path in write_tables(real, source, tmp_path) for text in ("--also", str(path))]
    cases = bring_in(at_home, source, real.preset, (*options, *real.options))
    reasons = "\n".join(f"{case.case_id}: {case.code} {case.reason}" for case in cases if case.code)
    assert Counter(case.verdict for case in cases) == real.verdicts, reasons
    assert any(case.label for case in cases) == real.labelled
    if not real.labelled:
        return
    labels = DatasetFacts.load(Path("data/inspected/dataset.json")).labels
    case = next(case for case in cases if case.label and case.usable and "empty_label" not in case.code)
    figure = Figure(figsize=(6, 6))
    draw_case(figure.subplots(), case.images, case.label, labels, real.name)
    figure.savefig(tmp_path / "overlay.png")
    pixels = matplotlib.pyplot.imread(tmp_path / "overlay.png")[..., :3]
    assert (pixels.max(-1) - pixels.min(-1) > 0.1).mean() > 0.001  # the label is there, in colour


def test_the_table_of_the_sets_says_what_the_test_finds() -> None:
    text = (ROOT / "docs/reference/data-sets.md").read_text(encoding="utf-8")
    for real in SETS:
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in real.verdicts.items())
        assert f"| {real.folder} | `{real.preset}` | {verdicts} | {real.licence} |" in text


@pytest.mark.slow
def test_adding_a_layout_is_one_file_and_one_preset(shared_data: Path, tmp_path: Path) -> None:
    """What the how-to says, in a copied project, on a set in the format of PROMISE12."""
    project, raw = tmp_path / "project", tmp_path / "raw"
    copy_project(project)
    for number, name in enumerate(("hippocampus_001", "hippocampus_003", "hippocampus_004")):
        part = raw / f"TrainingData_Part{number % 2 + 1}"
        part.mkdir(parents=True, exist_ok=True)
        image = SimpleITK.ReadImage(shared_data / f"Task04_Hippocampus/imagesTr/{name}.nii.gz")
        label = SimpleITK.ReadImage(shared_data / f"Task04_Hippocampus/labelsTr/{name}.nii.gz")
        SimpleITK.WriteImage(image, part / f"Case{number:02d}.mhd")
        SimpleITK.WriteImage(label > 0, part / f"Case{number:02d}_segmentation.mhd")
    (code,) = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    (preset, _) = re.findall(r"```bash\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    (project / "pipeline/io/layouts/promise12.py").write_text(code, encoding="utf-8")
    subprocess.run(preset, shell=True, cwd=project, check=True)
    cases = bring_in(project, raw, "promise12")
    assert [(case.case_id, case.verdict) for case in cases] == [(f"Case0{n}", "ok") for n in range(3)]
    assert load_json(project / "data/inspected/dataset.json")["labels"] == {"background": 0, "prostate": 1}
    lock = (project / "dvc.lock").read_text(encoding="utf-8")
    assert "pipeline/io/layouts/promise12.py" in lock
