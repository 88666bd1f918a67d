"""The store: whole files, content keys, and a folder that does not remember its history."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from pipeline.errors import SegtrailError
from pipeline.manifest import Manifest
from pipeline.store import StoredCase, case_path, content_key, load_case, save_case


def make_case(seed: int) -> StoredCase:
    generator = np.random.default_rng(seed)
    return StoredCase(
        image=generator.normal(size=(2, 5, 6, 7)).astype(np.float16),
        label=generator.integers(0, 3, (5, 6, 7)).astype(np.uint8),
        foreground=generator.integers(0, 5, (9, 4)).astype(np.int16),
        instances=generator.choice([0, 1, 300, 65535], (5, 6, 7)).astype(np.uint16),
        instance_labels=generator.integers(0, 3, 65536).astype(np.uint8),
    )


def folder_digest(folder: Path) -> str:
    content = [p.name.encode() + p.read_bytes() for p in sorted(folder.iterdir())]
    return hashlib.sha256(b"".join(content)).hexdigest()


def add(folder: Path, *numbers: int) -> Manifest:
    manifest = Manifest(folder)
    for number in numbers:
        name = f"case_{number}"
        manifest.add(name, content_key(name), save_case(folder, name, make_case(number)))
    return manifest


def test_a_case_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    case = make_case(1)
    save_case(tmp_path, "a", case)
    loaded = load_case(tmp_path, "a")
    for name in ("image", "label", "foreground", "instances", "instance_labels"):
        saved, read = getattr(case, name), getattr(loaded, name)
        assert (read.dtype, read.shape) == (saved.dtype, saved.shape)
        np.testing.assert_array_equal(read, saved)
    assert isinstance(loaded.image, np.memmap)


def test_a_part_that_is_laid_out_otherwise_in_memory_comes_back(tmp_path: Path) -> None:
    case = make_case(1)
    turned = replace(case, instances=np.asfortranarray(case.instances), label=case.label[::-1])
    save_case(tmp_path, "a", turned)
    np.testing.assert_array_equal(load_case(tmp_path, "a").instances, case.instances)
    np.testing.assert_array_equal(load_case(tmp_path, "a").label, case.label[::-1])


def test_a_case_without_any_object(tmp_path: Path) -> None:
    case = make_case(1)
    nothing = (case.label * 0, np.zeros((0, 4), np.int16), case.instances * 0, np.zeros(1, np.uint8))
    save_case(tmp_path, "a", StoredCase(case.image, *nothing))
    loaded = load_case(tmp_path, "a")
    assert loaded.foreground.shape == (0, 4)
    assert loaded.instances.max() == 0
    assert loaded.instance_labels.tolist() == [0]


def test_a_file_of_an_older_format_says_how_to_renew_it(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(save({"image": make_case(1).image}))
    with pytest.raises(SegtrailError, match="dvc repro --force preprocess"):
        load_case(tmp_path, "a")


def test_the_folder_is_the_same_whatever_its_history(tmp_path: Path) -> None:
    add(tmp_path / "straight", 1, 2, 3).keep_only(["case_1", "case_2", "case_3"])
    crooked = tmp_path / "crooked"
    add(crooked, 3, 9)
    (crooked / "half_written.tmp").write_bytes(b"left by a killed run")
    assert add(crooked, 2, 1).keep_only(["case_1", "case_2", "case_3"]) == ["case_9"]
    assert folder_digest(tmp_path / "straight") == folder_digest(crooked)


def test_holds_notices_other_keys_missing_and_damaged_files(tmp_path: Path) -> None:
    manifest = add(tmp_path, 1, 2)
    assert manifest.holds("case_1", content_key("case_1"))
    assert not manifest.holds("case_1", content_key("other"))
    assert not manifest.holds("case_3", content_key("case_3"))
    path = case_path(tmp_path, "case_1")
    path.write_bytes(path.read_bytes()[:-1])
    assert not manifest.holds("case_1", content_key("case_1"))
    case_path(tmp_path, "case_2").unlink()
    assert not Manifest(tmp_path).holds("case_2", content_key("case_2"))


def test_a_torn_manifest_costs_only_the_recomputation(tmp_path: Path) -> None:
    add(tmp_path, 1).save()
    (tmp_path / "_manifest.json").write_text('{"case_1": {"key"')
    assert Manifest(tmp_path).entries == {}


def test_a_damaged_case_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing like it")
    with pytest.raises(SegtrailError, match=r"cannot be read[\s\S]*a\.safetensors"):
        load_case(tmp_path, "a")


def test_the_key_separates_its_parts() -> None:
    assert content_key("ab", "c") != content_key("a", "bc")
