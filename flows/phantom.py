"""Stage `phantom`: the built-in data set is made from its params, in MSD layout.

Use: `python -m flows.phantom phantom`; the argument is a name of `phantom.datasets`.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import flow

from flows.stage import map_cases, run_stage
from pipeline.config import PhantomParams, load_params
from pipeline.errors import SegtrailError, unknown_name
from pipeline.io.nifti import save_label_map, save_volume
from pipeline.phantom import NODULE, case_names, check_field, make_case
from pipeline.volume import LabelMap

RAW = Path("data/raw")
REFERENCE = "Segtrail phantom"  # tells a folder that may be made anew from somebody's own data


@flow(name="phantom")
def phantom_flow(dataset: str) -> None:
    """Writes `data/raw/<dataset>` whole, or leaves it as it was.

    Args:
        dataset: A name of `phantom.datasets` in params.yaml.
    """
    params = load_params().phantom
    if dataset not in params.datasets:
        raise unknown_name("phantom data set", dataset, params.datasets, "params.yaml: phantom.datasets")
    check_field(params)
    target = RAW / dataset
    _refuse_foreign(target)
    draft = target.with_name(f".{dataset}.partial")
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    try:
        _write_dataset(draft, dataset, params)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_dataset(folder: Path, dataset: str, params: PhantomParams) -> None:
    for name in ("imagesTr", "labelsTr", "instancesTr"):
        (folder / name).mkdir(parents=True)
    numbers = range(params.cases)
    write = partial(_write_case, params=params, folder=folder)
    map_cases(write, numbers, "phantom", lambda number: case_names(number)[0])
    _write_tables(folder, dataset, numbers)


def _refuse_foreign(target: Path) -> None:
    """Keeps real data from being replaced when their folder has the name of a phantom."""
    if not target.exists():
        return
    try:
        found = json.loads((target / "dataset.json").read_text(encoding="utf-8")).get("reference")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != REFERENCE and any(target.iterdir()):
        raise SegtrailError(
            f"{target} holds data that are not a phantom; they would be replaced",
            "params.yaml: phantom.datasets",
            f"take {target.name!r} out of phantom.datasets, or move the folder away",
        )


def _write_case(index: int, params: PhantomParams, folder: Path) -> None:
    case = make_case(params, index)
    name = f"{case.case_id}.nii.gz"
    save_volume(case.volume, folder / "imagesTr" / name)
    save_label_map(case.label_map, folder / "labelsTr" / name)
    save_label_map(LabelMap(case.instances.array, case.instances.affine), folder / "instancesTr" / name)


def _write_tables(folder: Path, dataset: str, numbers: Sequence[int]) -> None:
    """Writes `dataset.json` and `patients.csv`."""
    names = [case_names(number) for number in numbers]
    facts = {
        "name": dataset,
        "description": "Built-in CT-like thorax phantom with lung nodules; made, not measured",
        "reference": REFERENCE,
        "licence": "none needed (made by a program)",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", str(NODULE): "nodule"},
        "numTraining": len(names),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{case_id}.nii.gz", "label": f"./labelsTr/{case_id}.nii.gz"}
            for case_id, _, _ in names
        ],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    with (folder / "patients.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case_id", "patient_id", "site"])
        writer.writerows(names)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m flows.phantom DATASET")
    run_stage(phantom_flow, sys.argv[1])
