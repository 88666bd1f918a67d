"""Whole files, links, and the one error of a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.disk import explain_full_disk, link_or_copy, write_whole
from pipeline.errors import SegtrailError


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udc80")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "old"


def test_a_link_or_else_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("x")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "x"
    assert (tmp_path / "a").stat().st_ino != (tmp_path / "c").stat().st_ino


def test_a_full_disk_is_one_clear_error_and_other_errors_stay(tmp_path: Path) -> None:
    with pytest.raises(SegtrailError, match=r"disk is full: \d+ MiB are free[\s\S]*a/b[\s\S]*then go on"):
        with explain_full_disk(tmp_path / "a" / "b", "go on"):
            raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SegtrailError, match="disk is full"), explain_full_disk(tmp_path, "go on"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # safetensors
    with pytest.raises(PermissionError), explain_full_disk(tmp_path, "go on"):
        raise PermissionError(errno.EACCES, "no")
