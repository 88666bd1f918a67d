"""Hashes are believed only of files that nobody has touched since."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import pipeline.stat_memo as stat_memo
from pipeline.stat_memo import StatMemo

OLD_NS = 1_600_000_000_000_000_000


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read, in order."""
    found: list[Path] = []
    hash_file = stat_memo.hash_file

    def note(path: Path) -> str:
        found.append(path)
        return hash_file(path)

    monkeypatch.setattr(stat_memo, "hash_file", note)
    return found


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, ns=(OLD_NS, OLD_NS))
    return path


def ask(tmp_path: Path, *files: Path) -> str:
    memo = StatMemo(tmp_path / "memo.json")
    digest = memo.digest("a", files)
    memo.save()
    return digest


def test_a_file_is_read_once_and_again_when_it_is_touched(tmp_path: Path, reads: list[Path]) -> None:
    path = write(tmp_path / "a", "one")
    expected = hashlib.sha256(b"one").hexdigest()
    assert ask(tmp_path, path) == ask(tmp_path, path) == expected
    assert reads == [path]
    os.utime(path, ns=(OLD_NS + 1, OLD_NS + 1))
    assert ask(tmp_path, path) == expected
    assert reads == [path, path]
    replaced = write(tmp_path / "b", "two")  # size and time as before: the inode tells
    os.utime(replaced, ns=(OLD_NS + 1, OLD_NS + 1))
    replaced.replace(path)
    assert ask(tmp_path, path) == hashlib.sha256(b"two").hexdigest()


def test_a_group_knows_its_files_by_name_and_number(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1", "x"), write(tmp_path / "2", "y")
    whole = ask(tmp_path, one, two)
    assert ask(tmp_path, two, one) != whole
    assert ask(tmp_path, one) == hashlib.sha256(b"x").hexdigest()
    two.unlink()
    assert ask(tmp_path, one, two) not in (whole, ask(tmp_path, one))


def test_a_file_of_this_very_moment_is_not_believed(tmp_path: Path, reads: list[Path]) -> None:
    """Another write within a tick of the clock would leave no trace."""
    path = tmp_path / "a"
    path.write_text("one")
    ahead = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(ahead, ahead))
    ask(tmp_path, path)
    ask(tmp_path, path)
    assert reads == [path, path]


def test_after_a_restart_of_the_machine_everything_is_read(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a", "one")
    ask(tmp_path, path)
    write(tmp_path / "boot_id", "another")
    monkeypatch.setattr(stat_memo, "BOOT_ID", tmp_path / "boot_id")
    ask(tmp_path, path)
    assert reads == [path, path]
    monkeypatch.setattr(stat_memo, "BOOT_ID", tmp_path / "none")  # unknown: nothing is kept
    ask(tmp_path, path)
    ask(tmp_path, path)
    assert len(reads) == 4


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": 1}', '{"boot": "x", "files": {"a": 1}}'])
def test_a_damaged_memo_costs_only_the_reading(tmp_path: Path, text: str) -> None:
    (tmp_path / "memo.json").write_text(text)
    assert ask(tmp_path, write(tmp_path / "a", "one")) == hashlib.sha256(b"one").hexdigest()


def test_what_was_noted_is_known_and_what_is_not_kept_forgotten(tmp_path: Path, reads: list[Path]) -> None:
    path = write(tmp_path / "a", "one")
    memo = StatMemo(tmp_path / "memo.json")
    memo.note(path, "noted")
    memo.save()
    memo = StatMemo(tmp_path / "memo.json")
    assert memo.recall(str(path), [path]) == "noted"
    memo.keep_only([])
    memo.save()
    assert StatMemo(tmp_path / "memo.json").recall(str(path), [path]) is None
    assert reads == []
