"""Where `segtrail data add` takes its files from: a folder, files beside it, or a download; and what is refused."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hippocampus_set import RECORD, TARGET, read_state

from flows import cli, locks
from flows.data import add_data
from flows.locks import hold
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.io.sources import open_dataset


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
