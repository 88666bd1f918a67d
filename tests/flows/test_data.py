"""`segtrail data add` in a real DVC repository: data, record and params change together, or not at all."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hippocampus_set import RECORD, TARGET, copy_first, read_state

from flows import data
from flows.data import add_data
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.inspection import inspect_case
from pipeline.io.sources import open_dataset


def dvc(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def template_with_four(
    clone_template: Path, hippocampus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same with four cases added, then set back to the phantom's params."""
    folder = tmp_path_factory.mktemp("four") / "project"
    shutil.copytree(clone_template, folder)
    raw = copy_first(hippocampus, tmp_path_factory.mktemp("raw_four"), 4)
    add_data(raw, "hippocampus", folder)
    add_data(None, "phantom", folder)
    return folder


@pytest.fixture
def clone_with_four(template_with_four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(template_with_four, folder)
    monkeypatch.chdir(folder)
    return folder


def test_added_to_dvc_and_params(clone: Path, hippocampus: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_data(hippocampus, "hippocampus")
    raw = {
        path.relative_to(hippocampus): path.read_bytes() for path in hippocampus.rglob("*") if path.is_file()
    }
    assert {
        path.relative_to(TARGET): path.read_bytes() for path in TARGET.rglob("*") if path.is_file()
    } == raw
    assert yaml.safe_load(RECORD.read_text())["outs"][0]["nfiles"] == 13
    assert dvc("status", str(RECORD)).strip() == "Data and pipelines are up to date."
    params = load_params()
    assert (params.inspect.dataset, params.register_.model_name) == ("hippocampus", "hippocampus")
    assert "# any integer; the same seed gives the same bytes" in Path("params.yaml").read_text()
    assert sorted(path.name for path in TARGET.parent.iterdir()) == ["hippocampus", "hippocampus.dvc"]
    git = subprocess.run(
        ["git", "status", "--short", "-uall", "data"], capture_output=True, text=True, check=True
    )
    assert git.stdout == "?? data/raw/hippocampus.dvc\n"  # only the record is for git
    assert "Hippocampus: 6 cases, channels MRI, labels background, Anterior, Posterior" in caplog.text
    assert "params.yaml: inspect.dataset: phantom -> hippocampus" in caplog.text
    for path in hippocampus.rglob("*.nii.gz"):  # the user's own files are neither changed nor linked
        assert path.stat().st_nlink == 1
        assert path.stat().st_mode & 0o777 == 0o444


def test_new_cases_are_added_and_the_same_again_is_nothing(
    clone_with_four: Path,
    hippocampus: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    first = RECORD.read_bytes()
    add_data(hippocampus, "hippocampus")
    assert RECORD.read_bytes() != first
    assert "data/raw/hippocampus: 4 added, 1 changed, 0 removed, 8 as before" in caplog.text
    before = read_state(clone_with_four)
    caplog.clear()
    add_data(None, "hippocampus")  # what is there already needs no folder and no network
    assert read_state(clone_with_four) == before
    assert "data/raw/hippocampus: holds the same files already" in caplog.text
    assert "params.yaml: nothing to change" in caplog.text
    assert "NOTHING of what was in" not in caplog.text
    other = clone_with_four.parent / "other"
    shutil.copytree(hippocampus, other, copy_function=shutil.copyfile)
    for path in other.rglob("*_*.nii.gz"):
        path.rename(path.with_name(path.name.replace("hippocampus", "other")))
    facts = (other / "dataset.json").read_text().replace("hippocampus_", "other_")
    (other / "dataset.json").write_text(facts)
    add_data(other, "hippocampus")
    assert "NOTHING of what was in data/raw/hippocampus is left" in caplog.text


def test_phantom_needs_no_folder_and_restores_the_shipped_params(clone: Path) -> None:
    shipped = Path("params.yaml").read_bytes()
    Path("params.yaml").write_bytes(shipped.replace(b"baseline: otsu_lung", b"baseline: none     "))
    add_data(None, "phantom")
    assert Path("params.yaml").read_bytes() == shipped
    assert not Path("data").exists()
    with pytest.raises(SegtrailError, match="makes its own data and takes no folder"):
        add_data(clone, "phantom")


def test_another_folder_than_the_working_directory(
    clone: Path, hippocampus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    add_data(hippocampus, "hippocampus", Path("project"))
    assert (clone / RECORD).exists()
    assert load_params(clone / "params.yaml").inspect.dataset == "hippocampus"


def test_what_a_killed_call_set_aside_needs_no_folder(clone_with_four: Path) -> None:
    """Killed while the old tree lay beside: the data set is there, and `recover` brings it back."""
    path = Path("presets/hippocampus.yaml")
    preset = yaml.safe_load(path.read_text())
    del preset["dataset"]["download"]
    path.write_text(yaml.safe_dump(preset))
    undo = TARGET.with_name(".hippocampus.undo")
    undo.mkdir()
    (undo / "existed").touch()
    TARGET.rename(undo / "data")
    add_data(None, "hippocampus")
    assert len(list((TARGET / "imagesTr").iterdir())) == 4


def test_a_missing_label_is_found_before_the_copy(clone: Path, hippocampus: Path, tmp_path: Path) -> None:
    raw = copy_first(hippocampus, tmp_path / "raw", 4)
    (raw / "labelsTr/hippocampus_003.nii.gz").unlink()
    before = read_state(clone)
    with pytest.raises(SegtrailError, match="hippocampus_003|label is missing"):
        add_data(raw, "hippocampus")
    assert read_state(clone) == before


def test_an_image_without_nuclei_survives_dvc(clone: Path, tmp_path: Path) -> None:
    """DVC keeps no empty folder, and the empty folder of masks is what says that there are none."""
    from PIL import Image

    for name in ("a", "b"):
        for part in ("images", "masks"):
            (tmp_path / "nuclei" / name / part).mkdir(parents=True)
        pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        Image.fromarray(pixels).save(tmp_path / "nuclei" / name / "images" / f"{name}.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "nuclei" / "a" / "masks" / "1.png")
    add_data(tmp_path / "nuclei", "dsb2018")
    params = load_params().inspect
    assert (params.dataset, params.layout) == ("dsb2018", "dsb2018")
    shutil.rmtree("data/raw/dsb2018")
    dvc("checkout", "data/raw/dsb2018.dvc")
    dataset = open_dataset(Path("data/raw/dsb2018"), "dsb2018")
    cases = [inspect_case(r, dataset.facts, params, dataset.references[r.case_id]) for r in dataset.records]
    assert [case.record.code for case in cases] == ["", "empty_label"]


@pytest.mark.parametrize("step", ["dvc", "params"])
def test_a_failure_leaves_everything_as_before(
    clone_with_four: Path, hippocampus: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = read_state(clone_with_four)

    def fail(*_: object) -> None:
        raise OSError("stop")

    if step == "dvc":
        Path("dvc.yaml").write_text("stages: [")
    else:
        monkeypatch.setattr(data, "_write_params", fail)
    with pytest.raises(SegtrailError if step == "dvc" else OSError):
        add_data(hippocampus, "hippocampus")
    assert read_state(clone_with_four) == before
    if step == "params":
        assert "up to date" in dvc("status", str(RECORD))


def test_a_failure_of_the_first_add_leaves_no_trace(clone: Path, hippocampus: Path) -> None:
    Path("dvc.yaml").write_text("stages: [")
    before = read_state(clone)
    with pytest.raises(SegtrailError, match="dvc add ended with") as caught:
        add_data(hippocampus, "hippocampus")
    assert "dvc.yaml" in caught.value.what  # what DVC itself says
    assert read_state(clone) == before
    assert list(TARGET.parent.iterdir()) == []
