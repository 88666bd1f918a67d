"""Trees that replace one another, taken back on every failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.overlay import list_files
from flows.staging import build_tree, recover, replace_bytes, restored_on_failure, swap_in
from pipeline.errors import SegtrailError


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def read_tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


OLD = {"dataset.json": "old facts", "imagesTr/a": "image a", "imagesTr/b": "image b"}
NEW = {"dataset.json": "new facts", "imagesTr/a": "image a", "imagesTr/c": "image c"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """`data/raw` with a tree `set`, its DVC record and params beside."""
    (tmp_path / "params.yaml").write_text("old params")
    write_tree(
        tmp_path / "raw", {f"set/{name}": text for name, text in OLD.items()} | {"set.dvc": "old record"}
    )
    return tmp_path / "raw"


def state(raw: Path) -> tuple[dict[str, str], str]:
    return read_tree(raw), (raw.parent / "params.yaml").read_text()


def test_changes_are_counted_and_the_source_is_left_alone(raw: Path, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", NEW)
    for path in source.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    change = build_tree(source, raw / "set", raw / ".set.partial")
    assert str(change) == "1 added, 1 changed, 1 removed, 1 as before"
    assert (change.added, change.changed, change.removed) == (
        ["imagesTr/c"],
        ["dataset.json"],
        ["imagesTr/b"],
    )
    assert read_tree(raw / ".set.partial") == NEW
    for name in NEW:
        # DVC takes the write permission away: never from a file that is also the user's
        assert (source / name).stat().st_nlink == 1
    assert (raw / ".set.partial/imagesTr/a").samefile(raw / "set/imagesTr/a")


def test_the_same_content_is_no_change(raw: Path, tmp_path: Path) -> None:
    change = build_tree(write_tree(tmp_path / "source", OLD), raw / "set", raw / ".set.partial")
    assert not change
    assert change.same == 3


def test_content_counts_and_not_time_or_size(raw: Path, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", OLD | {"imagesTr/a": "image A"})
    times = (raw / "set/imagesTr/a").stat()
    os.utime(source / "imagesTr/a", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert build_tree(source, raw / "set", raw / ".set.partial").changed == ["imagesTr/a"]


def test_links_are_followed_and_hidden_files_left_out(tmp_path: Path) -> None:
    store = write_tree(tmp_path / "store", {"x": "image"})
    source = write_tree(tmp_path / "source", {"._a": "macOS", ".git/config": "", "dataset.json": "{}"})
    (source / "imagesTr").symlink_to(store, target_is_directory=True)
    (source / "a").symlink_to(store / "x")
    build_tree(source, tmp_path / "none", tmp_path / "out")
    assert read_tree(tmp_path / "out") == {"dataset.json": "{}", "imagesTr/x": "image", "a": "image"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_an_empty_folder_is_kept_as_dvc_keeps_only_files(tmp_path: Path) -> None:
    source, target = write_tree(tmp_path / "mine", {"case/images/a": "image"}), tmp_path / "set"
    (source / "case/masks").mkdir()
    assert str(build_tree(source, target, tmp_path / "new")) == "2 added, 0 changed, 0 removed, 0 as before"
    assert read_tree(tmp_path / "new") == {"case/images/a": "image", "case/masks/.keep": ""}
    assert not any((source / "case/masks").iterdir())
    (tmp_path / "new").rename(target)
    for again in (source, target):
        assert not build_tree(again, target, tmp_path / "new")
        assert (tmp_path / "new/case/masks/.keep").exists()
    (source / "case/masks/m").write_text("mask")
    assert str(build_tree(source, target, tmp_path / "new")) == "1 added, 0 changed, 1 removed, 1 as before"


def test_bad_links_are_all_listed(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", {"deep/a": ""})
    (source / "deep/up").symlink_to(source, target_is_directory=True)
    (source / "deep/gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SegtrailError, match="2 problems") as caught:
        list_files(source)
    assert "deep/up: the link leads to a folder above it" in caught.value.what
    assert "deep/gone: not a file, or a link to nothing" in caught.value.what


def test_a_swap_that_ends_well(raw: Path, tmp_path: Path) -> None:
    build_tree(write_tree(tmp_path / "source", NEW), raw / "set", raw / ".set.partial")
    with restored_on_failure(raw / "set", tmp_path / "params.yaml"):
        swap_in(raw / ".set.partial", raw / "set")
        (raw / "set.dvc").write_text("new record")
    assert read_tree(raw / "set") == NEW
    assert sorted(path.name for path in raw.iterdir()) == ["set", "set.dvc"]


@pytest.mark.parametrize("error", [SegtrailError("dvc", "set", "wait"), OSError("disk"), KeyboardInterrupt()])
def test_everything_is_taken_back(raw: Path, tmp_path: Path, error: BaseException) -> None:
    before = state(raw)
    build_tree(write_tree(tmp_path / "source", NEW), raw / "set", raw / ".set.partial")
    with pytest.raises(type(error)), restored_on_failure(raw / "set", tmp_path / "params.yaml"):
        swap_in(raw / ".set.partial", raw / "set")
        (raw / "set.dvc").write_text("new record")
        (raw / ".gitignore").write_text("/set")
        replace_bytes(tmp_path / "params.yaml", b"new params")
        raise error
    assert state(raw) == before


def test_a_first_tree_is_taken_back_altogether(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("old params")
    source = write_tree(tmp_path / "source", NEW)
    raw = tmp_path / "raw"
    build_tree(source, raw / "set", raw / ".set.partial")
    with pytest.raises(OSError, match="disk"), restored_on_failure(raw / "set", tmp_path / "params.yaml"):
        swap_in(raw / ".set.partial", raw / "set")
        (raw / "set.dvc").write_text("new record")
        raise OSError("disk")
    assert list(raw.iterdir()) == []


class Killed(BaseException):
    """Stands for kill -9: no clean-up of ours runs."""


@pytest.mark.parametrize("moment", ["before", "between", "after", "recorded"])
def test_a_kill_at_any_moment_is_mended_by_the_next_call(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    before = read_tree(raw)
    build_tree(write_tree(tmp_path / "source", NEW), raw / "set", raw / ".set.partial")
    monkeypatch.setattr("flows.staging.recover", lambda target: None)
    with pytest.raises(Killed), restored_on_failure(raw / "set", tmp_path / "params.yaml"):
        if moment in ("between", "after", "recorded"):
            (raw / "set").rename(raw / ".set.undo" / "data")
        if moment in ("after", "recorded"):
            (raw / ".set.partial").rename(raw / "set")
        if moment == "recorded":
            (raw / "set.dvc").write_text("new record")
        raise Killed
    recover(raw / "set")
    after = {name: text for name, text in read_tree(raw).items() if not name.startswith(".set.partial")}
    assert after == before
    recover(raw / "set")  # nothing more to do
    assert (raw / "set").is_dir()


def test_a_link_in_the_place_of_the_tree_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    store = write_tree(tmp_path / "store", OLD)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "set").symlink_to(store, target_is_directory=True)
    assert build_tree(store, raw / "set", raw / ".set.partial").added == sorted(OLD)
    with restored_on_failure(raw / "set", tmp_path / "params.yaml"):
        swap_in(raw / ".set.partial", raw / "set")
    assert not (raw / "set").is_symlink()
    assert read_tree(store) == OLD
