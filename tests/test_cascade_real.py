"""A cascade on a real CT from `segtrail repro` to the report: abdominal organs, patches of a twentieth of the image."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import CaseFolder
from project_copy import change_params, copy_project, load_json, run

from pipeline.config import SplitParams
from pipeline.splits import choose_side

ORGANS = {1: 2, 2: 3, 3: 4, 5: 1}  # spleen, right and left kidney, liver
NAMES = {"0": "background", "1": "liver", "2": "spleen", "3": "kidney_right", "4": "kidney_left"}
MODEL = "unet_cascade"
FIRST, SLICES = 54, 40  # the organs lie in 66 to 111


def write_organs(source: Path, raw: Path) -> list[str]:
    """Four parts of one scan, 6 slices apart, as so many cases: what is shown is not how well organs are found."""
    image, label = (nibabel.load(source / f"{name}.nii.gz") for name in ("image", "label"))
    voxels = np.asarray(image.dataobj).astype(np.int16)
    organs = np.zeros(voxels.shape, np.uint8)
    for theirs, ours in ORGANS.items():
        organs[np.asarray(label.dataobj) == theirs] = ours
    folder = CaseFolder(raw)
    folder.write_dataset(NAMES, ("CT",))
    names = []
    for number in range(4):
        part = np.s_[:, :, FIRST + 6 * number : FIRST + 6 * number + SLICES]
        names.append(f"block{number}")
        folder.write(names[-1], voxels[part], organs[part], image.affine)
    return names


def three_sides(cases: list[str]) -> dict[tuple[str, ...], object]:
    for number in range(1000):
        shares = SplitParams(salt=f"salt{number}", test_fraction=0.3, validation_fraction=0.25)
        if sorted(choose_side(case, shares) for case in cases) == ["test", "train", "train", "validation"]:
            return {("split", key): value for key, value in shares.model_dump().items()}
    raise AssertionError("no salt splits the cases")


@pytest.mark.long
def test_organs_of_a_ct(shared_data: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    copy_project(project)
    cases = write_organs(shared_data / "organs_ct_mr/ct_full", project / "data/raw/organs")
    change_params(
        project,
        {
            ("models",): [MODEL],
            ("phantom", "datasets"): [],
            ("inspect", "dataset"): "organs",
            ("inspect", "layout"): "msd",
            ("plan", "max_patch_voxels"): 16384,
            ("plan", "memory"): "estimate",
            ("train", "unet", "max_minutes"): 1.0,
            ("train", "unet", "augmentation", "flip_axes"): [],
            ("predict", "overlap"): 0.25,
            ("evaluate", "baseline"): "none",
            ("register", "min_cases"): 2,
            **three_sides(cases),
        },
    )
    done = run(project, "flows.cli", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr

    plan = load_json(project / "data/plan/plan.json")
    low = plan["alternatives"]["lowres"]
    assert np.prod(low["spacing_mm"]) > 2 * np.prod(plan["spacing_mm"])
    fine = sorted(path.name for path in (project / "data/preprocessed").glob("*.safetensors"))
    assert fine == [f"{case}.safetensors" for case in cases]
    assert sorted(p.name for p in (project / "data/preprocessed/lowres").glob("*.safetensors")) == fine

    bundle = load_json(project / "data/models" / MODEL / "bundle.json")
    assert bundle["network"] == "cascade"
    assert bundle["low_plan"]["spacing_mm"] == low["spacing_mm"]
    assert bundle["validation_score"] > 0.1
    (labels,) = (project / "data/predictions" / MODEL).glob("*_labels.nii.gz")
    case_id = labels.name.removesuffix("_labels.nii.gz")
    source = nibabel.load(project / f"data/raw/organs/imagesTr/{case_id}.nii.gz")
    predicted = nibabel.load(labels)
    assert predicted.shape == source.shape
    np.testing.assert_allclose(predicted.affine, source.affine)
    assert load_json(project / "data/metrics" / MODEL / "metrics.json")["metrics"]["test/dice"] >= 0
