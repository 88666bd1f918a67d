"""The plan of every data set of `../shared/data` that has volumes, as one table.

`python benchmarks/plan_table.py [FOLDER] [--measure]` reads the real files, builds real fingerprints and plans each
set with the rules alone: shipped params, but without the voxel limit that is there for speed, and with nnU-Net's
number of features. HDF5 is read by h5py in an environment that uv builds for the moment.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK
import yaml
from numpy.typing import NDArray

from pipeline.config import InspectParams, PlanParams
from pipeline.fingerprint import Fingerprint, build_fingerprint
from pipeline.inspection import inspect_case
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import load_label_map, load_volume
from pipeline.io.sources import open_dataset
from pipeline.network_memory import measure_step
from pipeline.plan import Plan
from pipeline.planning import build_plan
from pipeline.volume import LabelMap, Volume

LAYOUTS = {"Task04_Hippocampus": "msd", "luna16": "luna16", "lidc_idri": "lidc"}
RULES_ALONE = {
    "max_patch_voxels": 16777216, "base_features": "auto", "max_features": "auto", "memory": "estimate",
    "detection_zoom": "auto", "detection_window": "auto",
}  # fmt: skip
FROM_HDF5 = """
import sys, h5py, numpy
for source in sys.argv[2:]:
    with h5py.File(source) as file:
        arrays = {name: file[name][...] for name in file}
    numpy.savez(f"{sys.argv[1]}/{source.rsplit('/', 1)[-1]}.npz", **arrays)
"""


@dataclass(frozen=True)
class Case:
    """One case as it was read: (C, X, Y, Z) image, labels on its grid or none."""

    case_id: str
    volume: Volume
    label_map: LabelMap | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/data"))
    parser.add_argument("--measure", action="store_true", help="take the dry step of each plan")
    options = parser.parse_args()
    measure = partial(measure_step, device="auto") if options.measure else None
    print(HEADER)
    for name, facts, fingerprints in read_all(options.folder):
        print(row(name, build_plan(fingerprints, facts, rules_alone(), measure)), flush=True)


def rules_alone() -> PlanParams:
    shipped = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["plan"]
    return PlanParams(**{**shipped, **RULES_ALONE})


HEADER = (
    "| data set | cases | spacing, mm | patch | batch | stages | halved X, Y, Z | normalisation | low resolution |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def row(name: str, plan: Plan) -> str:
    low = plan.alternatives.get("lowres")
    schemes = {f"{how.scheme}{', non-zero' if how.nonzero_mask else ''}" for how in plan.normalization}
    cells = (
        name, plan.n_cases, times(plan.spacing_mm), f"{times(plan.patch_size)}", plan.batch_size, len(plan.strides),
        ", ".join(str(sum(s[a] > 1 for s in plan.strides)) for a in range(3)), "; ".join(sorted(schemes)),
        f"{times(low.spacing_mm)} mm, {times(low.patch_size)} of {times(low.shape)}" if low else "-",
    )  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def read_all(folder: Path) -> Iterator[tuple[str, DatasetFacts, list[Fingerprint]]]:
    """Name, facts and fingerprints of each set that is there."""
    for name, layout in LAYOUTS.items():
        if (folder / name).is_dir():
            yield name, *read_layout(folder / name, layout)
    for name, (channels, read) in OTHERS.items():
        if (folder / name.split()[0]).is_dir():
            cases = list(read(folder / name.split()[0]))
            values = sorted(
                {int(v) for case in cases if case.label_map for v in np.unique(case.label_map.array)} | {0}
            )
            labels = {f"class {value}" if value else "background": value for value in values}
            prints = [
                build_fingerprint(case.case_id, case.volume, case.label_map, labels, f"{index:064x}")
                for index, case in enumerate(cases)
            ]
            yield name, DatasetFacts(name, channels, labels), prints


def read_layout(folder: Path, layout: str) -> tuple[DatasetFacts, list[Fingerprint]]:
    dataset = open_dataset(folder, layout)
    inspect = InspectParams(**yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["inspect"])
    cases = [
        inspect_case(r, dataset.facts, inspect, dataset.references.get(r.case_id)) for r in dataset.records
    ]
    return dataset.facts, [case.fingerprint for case in cases if case.fingerprint]


def brats(folder: Path, channels: tuple[str, ...]) -> Iterator[Case]:
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = [case / f"{case.name}_{channel}.nii.gz" for channel in channels]
        yield Case(case.name, load_volume(images), load_label_map(case / f"{case.name}_seg.nii.gz"))


def organs(folder: Path, names: tuple[str, ...]) -> Iterator[Case]:
    for name in names:
        yield Case(
            name,
            load_volume([folder / name / "image.nii.gz"]),
            load_label_map(folder / name / "label.nii.gz"),
        )


def spine(folder: Path) -> Iterator[Case]:
    """There is no image: the label map plus 1 stands for it."""
    label_map = load_label_map(folder / "semantic/ref.nii.gz")
    yield Case("spine", Volume(label_map.array[None] + 1.0, label_map.affine), label_map)


def nrrd(folder: Path, name: str) -> Iterator[Case]:
    image, label = (SimpleITK.ReadImage(str(folder / f"{name}_{kind}.nrrd")) for kind in ("image", "label"))
    affine = np.diag([*(-s for s in image.GetSpacing()[:2]), image.GetSpacing()[2], 1.0])  # LPS to RAS
    array = SimpleITK.GetArrayFromImage(image).T
    yield Case(name, Volume(array[None], affine), LabelMap(SimpleITK.GetArrayFromImage(label).T, affine))


def hdf5(folder: Path, pattern: str, spacing: tuple[float, float, float]) -> Iterator[Case]:
    sources = sorted(str(path) for path in folder.glob(pattern))
    with tempfile.TemporaryDirectory() as made:
        uv = [sys.executable, "-m", "uv", "run", "-q", "--no-project", "--with", "h5py", "--with", "numpy"]
        subprocess.run([*uv, "python", "-c", FROM_HDF5, made, *sources], check=True)
        for path in sorted(Path(made).glob("*.npz")):
            arrays = np.load(path)
            yield from slices_first(path.stem, arrays, spacing)


def slices_first(
    name: str, arrays: dict[str, NDArray[np.generic]], spacing: tuple[float, float, float]
) -> Iterator[Case]:
    """(slices, rows, columns) of a heart, or (patches, 1, rows, columns) of which each is a case."""
    affine = np.diag([*spacing, 1.0])
    if "images" in arrays:
        for index, (image, label) in enumerate(zip(arrays["images"], arrays["labels"], strict=True)):
            label_map = LabelMap(label[0].T[..., None].astype(np.uint8), affine)
            yield Case(f"{name}_{index}", Volume(image[0].T[None, ..., None], affine), label_map)
    else:
        label_map = LabelMap(arrays["label"].T, affine)
        yield Case(name, Volume(arrays["image"].T[None], affine), label_map)


def sunnybrook(folder: Path) -> Iterator[Case]:
    """The labelled slices of one phase of one patient are stacked; spacing was lost, 1.4 x 1.4 x 8 mm is usual."""
    frames = np.genfromtxt(folder / "frames.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    affine = np.diag([1.4, 1.4, 8.0, 1.0])
    for patient in sorted(set(frames["patient"])):
        of_patient = frames[frames["patient"] == patient]
        for phase in sorted(set(of_patient["phase_index_if_20_phases"])):
            stack = np.sort(
                of_patient[of_patient["phase_index_if_20_phases"] == phase], order="slice_index_if_20_phases"
            )
            image, label = (
                np.concatenate([load_volume([folder / p]).array[:1] for p in stack[k]], axis=-1)
                for k in ("image", "label")
            )
            yield Case(
                f"{patient}_{phase}", Volume(image, affine), LabelMap((label[0] > 0).astype(np.uint8), affine)
            )


def dicom(folder: Path, pattern: str) -> Iterator[Case]:
    for series in sorted(path for path in folder.glob(pattern) if path.is_dir()):
        yield Case(series.parent.name, load_volume([series]), None)


OTHERS = {
    "brats_style": (("T1", "T1CE", "T2", "FLAIR"), partial(brats, channels=("t1", "t1ce", "t2", "flair"))),
    "brats2015_2mm": (("FLAIR", "T1CE"), partial(brats, channels=("flair", "t1ce"))),
    "organs_ct_mr (CT)": (("CT",), partial(organs, names=("ct_full", "ct_slab"))),
    "organs_ct_mr (MR)": (("MR",), partial(organs, names=("mr_slab",))),
    "spine_instances": (("MR",), spine),
    "radiomics_nrrd (brain)": (("MR",), partial(nrrd, name="brain1")),
    "radiomics_nrrd (breast)": (("MR",), partial(nrrd, name="breast1")),
    "acdc_h5": (("MR",), partial(hdf5, pattern="ACDC_training_volumes/*.h5", spacing=(1.5, 1.5, 8.0))),
    "msd_lung_2mm_patches": (("CT",), partial(hdf5, pattern="val_patches.h5", spacing=(2.0, 2.0, 2.0))),
    "sunnybrook_lv": (("MR",), sunnybrook),
    "hippocrop_dicom": (("MR",), partial(dicom, pattern="*/*")),
    "dicom_seg_rtstruct (3 slices)": (("CT",), partial(dicom, pattern="dcmqi/segmentations/ct-3slice")),
}

if __name__ == "__main__":
    main()
