"""The registered model as a stranger loads it: another folder, another process, no copy of the project's code."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import model_project as made
import nibabel
import numpy as np
import pytest

from flows import register
from pipeline.config import load_params

SCRIPT = """
import json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/phantom@champion")
answer = model.predict(pd.DataFrame({"image": sys.argv[1:], "output": ["out"] * len(sys.argv[1:])}), {"mirror": "none"})
import pipeline
print(json.dumps({"code": pipeline.__file__, "rows": answer.to_dict("records")}))
"""


def write_real_bundle() -> None:
    """Replaces the weights of `data/models/unet` by those of a real, untrained network."""
    import torch

    from pipeline.bundle import save_bundle
    from pipeline.models.networks import build_network
    from pipeline.planning import Plan

    torch.manual_seed(1)
    folder = Path("data/models/unet")
    old = json.loads((folder / "bundle.json").read_text())
    plan = Plan.model_validate(made.PLAN)
    arguments = {
        "dimensions": 3, "channels": 1, "classes": 3,
        "features": plan.features, "strides": plan.strides, "kernels": plan.kernels,
    }  # fmt: skip
    network = build_network("unet", **arguments)
    kept = {
        key: old[key] for key in ("model", "params", "provenance", "validation_metric", "validation_score")
    }
    save_bundle(folder, network.state_dict(), network="unet", network_arguments=arguments, plan=plan, **kept)
    run = json.loads((folder / "run.json").read_text())
    run["bundle_sha256"] = hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()
    made.write_json(run, folder / "run.json")


@pytest.mark.slow
def test_champion_loads_and_predicts_without_the_project(
    tracked: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:  # fmt: skip
    made.write_project()
    made.train("unet", "replaced")
    write_real_bundle()
    made.evaluate("unet", (0.9,) * 6)
    register.register_models(load_params())
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (30, -20, 10)
    voxels = np.random.default_rng(3).normal(-300, 350, (24, 20, 18)).astype(np.int16)
    for name in ("first", "second"):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), elsewhere / f"{name}.nii.gz")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, "first.nii.gz", "second.nii.gz"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout.splitlines()[-1])
    assert Path(result["code"]).is_relative_to(tracked / ".segtrail" / "mlartifacts")
    assert [row["case_id"] for row in result["rows"]] == ["first", "second"]
    row = result["rows"][0]
    label_map = nibabel.load(elsewhere / row["label_map"])
    assert label_map.shape == (24, 20, 18)
    assert np.array_equal(label_map.affine, affine)
    counts = np.bincount(np.asarray(label_map.dataobj).astype(int).ravel(), minlength=3)
    assert row["volume_mm3_nodule"] == pytest.approx(counts[1] * 12.0)  # 2 x 2 x 3 mm
    assert row["volume_mm3_vessel"] == pytest.approx(counts[2] * 12.0)
    record = json.loads((elsewhere / "out" / "first.json").read_text())
    assert record["settings"]["mirror"] == "none"  # asked for
    assert record["settings"]["overlap"] == 0.5  # the default it was registered with


def test_results_are_never_written_over_each_other() -> None:
    import pandas as pd

    from flows.served_model import _cases
    from pipeline.errors import SegtrailError

    rows = pd.DataFrame({"image": ["a/x_0000.nii;a/x_0001.nii", "b/y.nii.gz"]})
    assert _cases(rows)[0] == ([Path("a/x_0000.nii"), Path("a/x_0001.nii")], Path("predictions"))
    with pytest.raises(SegtrailError, match="would be written twice"):
        _cases(pd.DataFrame({"image": ["a/x.nii", "b/x.nii.gz"]}))
    different = pd.DataFrame({"image": ["a/x.nii", "b/x.nii.gz"], "output": ["a", "b"]})
    assert [str(output) for _, output in _cases(different)] == ["a", "b"]
