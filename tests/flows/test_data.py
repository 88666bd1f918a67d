"""`segtrail data add` in a real DVC repository: data, record and params change together, or not at all."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from project_copy import make_bare_project

from flows import cli, data, locks
from flows.data import add_data
from flows.locks import hold
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.inspection import inspect_case
from pipeline.io.sources import open_dataset

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = Path("data/raw/hippocampus")
RECORD = Path("data/raw/hippocampus.dvc")
State = dict[str, bytes]


def dvc(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as a clone has it: git, DVC, shipped params, presets and stages."""
    folder = tmp_path_factory.mktemp("template")
    make_bare_project(folder)
    return folder


@pytest.fixture
def clone(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Path:
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def hippocampus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases in MSD layout, read-only: real ones when they are there, else small written ones."""
    folder = tmp_path_factory.mktemp("raw") / "Task04"
    real = CHECKOUT.parent / "shared/data/Task04_Hippocampus"
    names = [f"hippocampus_{number:03d}" for number in (1, 3, 4, 6, 7, 8)]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for number, name in enumerate(names):
            if real.is_dir():
                shutil.copyfile(real / part / f"{name}.nii.gz", folder / part / f"{name}.nii.gz")
            else:
                voxels = np.full((8, 9, 10), number % 3, np.uint8)
                nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / part / f"{name}.nii.gz")
    save_facts(folder, names)
    for path in folder.rglob("*.nii.gz"):
        path.chmod(0o444)
    return folder


def save_facts(folder: Path, names: list[str]) -> None:
    files = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    facts = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": labels, "training": files}
    (folder / "dataset.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def template_with_four(template: Path, hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four cases added, then set back to the phantom's params."""
    folder = tmp_path_factory.mktemp("four") / "project"
    shutil.copytree(template, folder)
    raw = copy_with(hippocampus, tmp_path_factory.mktemp("raw_four"), 4)
    add_data(raw, "hippocampus", folder)
    add_data(None, "phantom", folder)
    return folder


@pytest.fixture
def clone_with_four(template_with_four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(template_with_four, folder)
    monkeypatch.chdir(folder)
    return folder


def read_state(project: Path) -> State:
    """Everything a failure must not change."""
    found = [project / "params.yaml", *(path for path in (project / "data").rglob("*") if path.is_file())]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in found}


def copy_with(raw: Path, folder: Path, count: int) -> Path:
    """A copy of the raw set with the first `count` cases."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "imagesTr").iterdir())[:count]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for name in names:
            shutil.copyfile(raw / part / f"{name}.nii.gz", folder / part / f"{name}.nii.gz")
    save_facts(folder, names)
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


@pytest.mark.parametrize(
    ("folder", "preset", "message"),
    [
        ("no-such-folder", "hippocampus", "the raw folder does not exist"),
        ("params.yaml", "hippocampus", "this is a file, expected a folder"),
        ("presets", "hippocampus", "dataset.json is missing"),
        ("presets", "hipocampus", "unknown preset 'hipocampus'"),
    ],
)
def test_refused_before_anything_is_changed(clone: Path, folder: str, preset: str, message: str) -> None:
    before = read_state(clone)
    with pytest.raises(SegtrailError, match=message):
        add_data(Path(folder), preset)
    assert read_state(clone) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no-such-folder --preset hippocampus", "the raw folder does not exist"),
        ("params.yaml --preset own", "this is a file, expected a folder"),
        ("presets --preset hipocampus", "unknown preset 'hipocampus'"),
        ("presets --preset phantom", "makes its own data and takes no folder"),
        ("--preset own", "no raw folder given"),
    ],
)
def test_wrong_arguments_do_not_wait_for_a_run_to_end(
    clone: Path, line: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: object) -> None:
        pytest.fail("it waits")

    monkeypatch.setattr(locks.time, "sleep", wait)
    with hold(Path(".segtrail/repro.lock"), "segtrail repro"):
        assert cli.main(["data", "add", *line.split()]) == 1
    assert message in capsys.readouterr().err


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
    raw = copy_with(hippocampus, tmp_path / "raw", 4)
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


def test_a_table_comes_beside_data_that_nothing_is_written_into(
    clone: Path, hippocampus: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in hippocampus.rglob("*") if path.is_file()}
    table, facts = tmp_path / "cases.csv", tmp_path / "dataset.json"
    files = [f"{part}/hippocampus_001.nii.gz" for part in ("imagesTr", "labelsTr")]
    table.write_text("case_id,patient_id,image,label\none,p1," + ",".join(files) + "\n")
    facts.write_text('{"name": "Mine", "modality": {"0": "MRI"}, "labels": {"a": 1, "b": 2}}')
    line = [str(hippocampus), "--preset", "table", "--also", str(table), "--also", str(facts)]
    assert cli.main(["data", "add", *line]) == 0
    dataset = open_dataset(Path("data/raw/table"), "table")
    assert (dataset.facts.name, [case.case_id for case in dataset.records]) == ("Mine", ["one"])
    assert {path: path.read_bytes() for path in hippocampus.rglob("*") if path.is_file()} == before
    assert len(list(Path("data/raw/table/imagesTr").iterdir())) == 6
    assert not any(path.is_symlink() for path in Path("data/raw/table").rglob("*"))
    assert not Path(".segtrail/also").exists()
    # Another table for what is there already.
    table.write_text("case_id,patient_id,image,label\ntwo,p1," + ",".join(files) + "\n")
    add_data(None, "table", also=[table])
    assert [case.case_id for case in open_dataset(Path("data/raw/table"), "table").records] == ["two"]


def test_a_file_beside_the_data_that_is_not_there(clone: Path, hippocampus: Path) -> None:
    with pytest.raises(SegtrailError, match="there is no such file") as caught:
        add_data(hippocampus, "own", also=[Path("cases.csv")])
    assert caught.value.where == "--also cases.csv"
    with pytest.raises(SegtrailError, match="makes its own data"):
        add_data(None, "phantom", also=[Path("params.yaml")])
    with pytest.raises(SegtrailError, match="two files have one name"):
        add_data(hippocampus, "own", also=[Path("params.yaml"), Path("presets/../params.yaml")])
    with pytest.raises(SegtrailError, match="has a folder of this name"):
        Path("imagesTr").touch()
        add_data(hippocampus, "own", also=[Path("imagesTr")])
    with pytest.raises(SegtrailError, match="hidden files are left out"):
        add_data(hippocampus, "own", also=[Path(".gitignore")])


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


@pytest.fixture
def public(hippocampus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local server that holds the set as a tar file; the folder it serves."""
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "Task04_Hippocampus.tar", "w") as tar:
        tar.add(hippocampus, "Task04_Hippocampus")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=os.fspath(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
        (served / "address").write_text(f"http://127.0.0.1:{httpd.server_address[1]}/Task04_Hippocampus.tar")
        yield served
        httpd.shutdown()


def point_preset_at(served: Path, checksum: str = "") -> None:
    path = Path("presets/hippocampus.yaml")
    preset = yaml.safe_load(path.read_text())
    digest = hashlib.md5((served / "Task04_Hippocampus.tar").read_bytes()).hexdigest()
    preset["dataset"]["download"] |= {
        "url": (served / "address").read_text(),
        "checksum": checksum or f"md5:{digest}",
    }
    path.write_text(yaml.safe_dump(preset))


def test_fetched_when_no_folder_is_given(clone: Path, public: Path, caplog: pytest.LogCaptureFixture) -> None:
    point_preset_at(public)
    add_data(None, "hippocampus")
    assert len(list((TARGET / "imagesTr").iterdir())) == 6
    assert RECORD.exists()
    assert load_params().inspect.dataset == "hippocampus"
    assert "licence of the data: CC-BY-SA 4.0" in caplog.text
    assert list(Path(".segtrail/downloads").iterdir()) == []  # the archive's content is under DVC now


def test_a_file_with_another_checksum_changes_nothing(clone: Path, public: Path) -> None:
    point_preset_at(public, f"sha256:{'0' * 64}")
    before = read_state(clone)
    with pytest.raises(SegtrailError, match="the checksum is sha256:"):
        add_data(None, "hippocampus")
    assert read_state(clone) == before


def test_offline_says_how_to_hand_over_a_folder(clone: Path) -> None:
    path = Path("presets/hippocampus.yaml")
    path.write_text(
        path.read_text().replace("msd-for-monai.s3-us-west-2.amazonaws.com", "no-such-host.invalid")
    )
    before = read_state(clone)
    with pytest.raises(SegtrailError, match="no-such-host.invalid cannot be reached") as caught:
        add_data(None, "hippocampus")
    assert "segtrail data add FOLDER --preset hippocampus" in caught.value.fix
    assert read_state(clone) == before


def test_a_preset_without_public_data_asks_for_a_folder(clone: Path) -> None:
    before = read_state(clone)
    with pytest.raises(SegtrailError, match="no raw folder given") as caught:
        add_data(None, "own")
    assert caught.value.fix == "segtrail data add FOLDER --preset own"
    assert read_state(clone) == before
