"""Cases that no patch can tell: two equal cubes, of which the one nearer to a bright plate is another class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from training_jobs import cube_plan, read_params

from pipeline.plan import ConfigurationPlan, Plan
from pipeline.preprocessing import foreground_voxels
from pipeline.store import LOWRES, StoredCase, save_case
from pipeline.topology import pooling
from pipeline.training_job import TrainingJob

EDGE, CUBE, COARSE = (
    48,
    12,
    3,
)  # voxels; voxels; voxels of the fine grid along an edge of one of the coarse grid
PLATE = 3  # voxels
CASES = [f"case_{i:02d}" for i in range(17)]
TRAINING, VALIDATION = tuple(CASES[:14]), tuple(CASES[14:])


def plate_plan() -> Plan:
    """Patches of 16 voxels on either grid: 16 mm, or all of the 48."""
    patch = (16, 16, 16)
    strides, kernels = pooling(patch, (1.0, 1.0, 1.0))
    low = ConfigurationPlan(
        dimensions=3, spacing_mm=(3.0, 3.0, 3.0), shape=patch, patch_size=patch, batch_size=2, strides=strides,
        kernels=kernels, features=(8, 16, 32)[: len(strides)],
    )  # fmt: skip
    names = ("background", "far", "near")
    plan = cube_plan().model_copy(
        update={"label_names": names, "label_values": (0, 1, 2), "features": low.features}
    )
    return plan.model_copy(update={"alternatives": {"lowres": low}})


def make_case(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Image and label; the plate lies at either end of X, and no patch shows it together with a cube."""
    generator = np.random.default_rng(seed)
    label = np.zeros((EDGE,) * 3, np.uint8)
    image = generator.normal(0, 0.3, label.shape)
    first = bool(generator.integers(2))
    # From the plate on: 3 voxels, 15 of nothing, the near cube, the far one, 6 of nothing.
    for corner in (18, 30):
        near = corner == 18
        x = corner if first else EDGE - corner - CUBE
        y, z = COARSE * generator.integers(1, 11, 2)
        label[x : x + CUBE, y : y + CUBE, z : z + CUBE] = 2 if near else 1
    image[label > 0] += 2
    image[:PLATE] += 4 * first
    image[-PLATE:] += 4 * (not first)
    return image.astype(np.float32), label


def write_plates(store: Path) -> None:
    """All cases on both grids."""
    (store / LOWRES).mkdir(parents=True)
    coarse = EDGE // COARSE
    for seed, name in enumerate(CASES):
        image, label = make_case(seed)
        blocks = image.reshape((coarse, COARSE) * 3).mean(axis=(1, 3, 5))
        middle = label[1::COARSE, 1::COARSE, 1::COARSE]
        for folder, grey, classes in ((store, image, label), (store / LOWRES, blocks, middle)):
            classes = np.ascontiguousarray(classes)
            objects = classes.astype(np.uint16), np.array([0, 1, 2], np.uint8)
            positions = foreground_voxels(classes, 3, 4000, seed)
            case = StoredCase(grey[None].astype(np.float16), classes, positions, *objects)
            save_case(folder, name, case)


def make_plate_job(folder: Path, name: str, configuration: str, **changes: Any) -> TrainingJob:
    """A training on the store and the plan of a folder; writes them when they are missing."""
    if not (folder / "store").exists():
        write_plates(folder / "store")
        plate_plan().save(folder / "plan.json")
    shipped = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["train"]["unet"]["augmentation"]
    calm = {name: 0.0 if isinstance(value, float) else value for name, value in shipped.items()}
    params = read_params(
        "unet", configuration=configuration, **{"augmentation": calm, "learning_rate": 0.01, **changes}
    )
    return TrainingJob(
        model="unet", params=params, plan=folder / "plan.json", store=folder / "store", training_cases=TRAINING,
        validation_cases=VALIDATION, scratch=folder / name, output=folder / name / "finished",
        provenance={"git_commit": "abc"}, devices="cpu",
    )  # fmt: skip
