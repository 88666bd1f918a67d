"""A bundle comes back as it was saved, and a changed one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.bundle import load_bundle, save_bundle
from pipeline.errors import SegtrailError
from pipeline.models.networks import build_network
from pipeline.plan import ChannelNormalization, Plan

ARGUMENTS = {
    "channels": 1, "classes": 2, "features": [4, 8], "strides": [[1, 1, 1], [2, 2, 2]],
    "kernels": [[3, 3, 3]] * 2, "dimensions": 3,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = Plan(
        dataset="x", channels=("MRI",), label_names=("background", "a"), label_values=(0, 1), dimensions=3,
        spacing_mm=(1, 1, 1), patch_size=(8, 8, 8), batch_size=2, strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3),) * 2, features=(4, 8), reasons={}, n_cases=1,
        normalization=(ChannelNormalization(scheme="zscore"),),
    )  # fmt: skip
    torch.manual_seed(1)
    save_bundle(
        tmp_path, build_network("unet", **ARGUMENTS).state_dict(), model="unet", network="unet",
        network_arguments=ARGUMENTS, plan=plan, params={"seed": 1}, provenance={"git_commit": "abc"},
        validation_metric="validation_dice", validation_score=0.5,
    )  # fmt: skip
    return tmp_path


def test_the_network_answers_as_before(folder: Path) -> None:
    torch.manual_seed(1)
    original = build_network("unet", **ARGUMENTS).eval()
    image = torch.randn(1, 1, 8, 8, 8)
    bundle = load_bundle(folder)
    torch.testing.assert_close(bundle.build(torch.device("cpu"))(image), original(image), rtol=0, atol=0)
    assert bundle.metadata.provenance == {"git_commit": "abc"}
    assert bundle.metadata.plan.label_names == ("background", "a")
    assert (bundle.metadata.validation_metric, bundle.metadata.validation_score) == ("validation_dice", 0.5)


def test_changed_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SegtrailError, match=r"the weights' sha256"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "bundle.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(SegtrailError, match=name):
        load_bundle(folder)


def test_broken_metadata_is_named(folder: Path) -> None:
    (folder / "bundle.json").write_text("{}")
    with pytest.raises(SegtrailError, match=r"bundle\.json is not valid"):
        load_bundle(folder)


def test_the_digest_covers_weights_and_metadata(folder: Path) -> None:
    before = load_bundle(folder).sha256
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"seed": 1', '"seed": 2'))
    assert load_bundle(folder).sha256 != before


def test_a_bundle_of_before_is_one_network_without_rules(folder: Path) -> None:
    path = folder / "bundle.json"
    record = json.loads(path.read_text())
    for name in ("members", "validation_scores", "postprocessing"):
        del record[name]
    path.write_text(json.dumps(record))
    bundle = load_bundle(folder)
    assert (bundle.metadata.members, bundle.metadata.postprocessing) == (1, ())
    assert bundle.metadata.validation_scores == {}
    assert bundle.further_bytes == 0
    assert bundle.build(torch.device("cpu"))(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
