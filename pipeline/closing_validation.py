"""The closing validation: chosen weights predict their validation cases once more, with one setting for all models.

While a network trains, its validation is a fast estimate on the grid of the plan. What comes here is on the grid
of the store, with overlap and mirrored views as params.yaml is shipped with for `predict`, so configurations of one
data set can be compared by it. Presets, and whoever changes `predict`, may predict test cases otherwise.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.errors import SegtrailError
from pipeline.ignored_voxels import hide_unlabelled
from pipeline.inference import WHILE_TRAINING, predict_classes, predict_previous
from pipeline.inference_memory import CaseSize, choose_free_settings
from pipeline.metrics import count_voxels, dice
from pipeline.plan import Plan
from pipeline.progress import Progress
from pipeline.store import load_case
from pipeline.windows import Network

# The section `predict` is not the training's to read. All mirrors of three axes would take four times as long, on many
# large volumes longer than the training itself.
OVERLAP = 0.5  # of neighbouring windows, also nnU-Net's
MIRROR = "x"
TABLE = "validation.csv"
COLUMNS = ("case_id", "fold", "class", "dice")
LABEL_MAP = "label_map"


@dataclass(frozen=True)
class ValidationCase:
    """A case with what is known of it.

    Attributes:
        case_id: Its name.
        image: (C, X, Y, Z) float32 on the spacing of the network's plan.
        reference: (X', Y', Z') uint8 network indices, over the same extent on the grid that is judged.
        previous: (X, Y, Z) uint8, what the first network of a cascade found; None where there is none.
    """

    case_id: str
    image: torch.Tensor
    reference: NDArray[np.uint8]
    previous: torch.Tensor | None = None


@dataclass(frozen=True)
class ClassScore:
    """One row of `validation.csv`.

    Attributes:
        case_id: A validation case.
        fold: The fold whose network predicted it; 0 without cross-validation.
        name: Of the class or region.
        dice: NaN where neither side has the class.
    """

    case_id: str
    fold: int
    name: str
    dice: float


def stored_cases(
    store: Path, case_ids: Iterable[str], images: Path | None = None
) -> Iterator[ValidationCase]:
    """Cases of a store, one at a time.

    Args:
        store: Gives the references.
        case_ids: Of it.
        images: The store of the network's grid, where that is another one.
    """
    for case_id in case_ids:
        image = torch.from_numpy(load_case(images or store, case_id).image.astype(np.float32))
        yield ValidationCase(case_id, image, load_case(store, case_id).label)


def with_previous(
    cases: Iterable[ValidationCase],
    network: Network,
    plan: Plan,
    store: Path,
    mirror_axes: str,
    device: torch.device,
) -> Iterator[ValidationCase]:
    """The same cases with what the first network of a cascade finds in them, as in a prediction.

    Args:
        cases: Of the second network.
        network: The first one, on `device`.
        plan: Of the first one.
        store: Cases on its grid.
        mirror_axes, device: As for the second.
    """
    for case in cases:
        image = torch.from_numpy(load_case(store, case.case_id).image.astype(np.float32))
        x, y, z = case.image.shape[1:]
        where = f"{case.case_id}, closing validation at low resolution"
        size = CaseSize(0, x * y * z, image.shape[1:])
        settings = choose_free_settings(size, plan, OVERLAP, device, where)
        found = predict_previous(
            network, image, (x, y, z), plan, OVERLAP, mirror_axes, settings, where, WHILE_TRAINING
        )
        yield replace(case, previous=found)


def closing_mirrors(flip_axes: Sequence[str]) -> str:
    """Axes of the mirrored views: only views that the network has been trained on help."""
    return "".join(axis for axis in MIRROR if axis in flip_axes)


def validate_cases(
    network: Network,
    plan: Plan,
    cases: Iterable[ValidationCase],
    total: int,
    mirror_axes: str,
    device: torch.device,
    output: Path,
    fold: int = 0,
) -> list[ClassScore]:
    """Predicts cases, keeps each prediction as a file, and scores it.

    Args:
        network: In evaluation mode, on `device`.
        plan: The plan it was trained with.
        cases: One at a time; each may be large.
        total: How many there are, for the progress lines.
        mirror_axes: See `closing_mirrors`.
        device: Where the network runs.
        output: Folder of the label maps; created.
        fold: For the table.

    Returns:
        One row a case and foreground class, or region.
    """
    output.mkdir(parents=True, exist_ok=True)
    progress, rows = Progress("closing validation", total), []
    for case in cases:
        predicted = predict_case(network, plan, case, mirror_axes, device)
        save_prediction(predicted, output, case.case_id)
        found = score_case(predicted, case, plan, fold)
        rows += found
        mean = mean_defined(row.dice for row in found)
        progress.step(f"{case.case_id}: Dice {'undefined' if math.isnan(mean) else f'{mean:.4f}'}")
    return rows


def predict_case(
    network: Network, plan: Plan, case: ValidationCase, mirror_axes: str, device: torch.device
) -> NDArray[np.uint8]:
    """The most probable class of each voxel of the reference's grid; where the grids differ, probabilities are
    resampled linearly.

    Returns:
        (X', Y', Z') network indices.
    """
    grid = case.reference.shape, np.eye(4)
    where = f"{case.case_id}, closing validation"
    size = CaseSize(0, case.reference.size, case.image.shape[1:])
    settings = choose_free_settings(size, plan, OVERLAP, device, where)
    found = predict_classes(
        network, case.image, grid, plan, OVERLAP, mirror_axes, settings, where, case.previous, WHILE_TRAINING
    )
    return found.winner


def score_case(predicted: NDArray[np.uint8], case: ValidationCase, plan: Plan, fold: int) -> list[ClassScore]:
    """Dice of each region of one case, or of each foreground class where the plan has no regions; over the voxels
    that somebody labelled.
    """
    rows = []
    predicted = hide_unlabelled(predicted, case.reference)
    for name, indices in plan.scored.items():
        counts = count_voxels(np.isin(case.reference, indices), np.isin(predicted, indices))
        rows.append(ClassScore(case.case_id, fold, name, dice(counts)))
    return rows


def summarise_scores(rows: Sequence[ClassScore], names: Sequence[str]) -> dict[str, float | None]:
    """Mean over cases of each class or region, and the mean of these; cases without a value are left out and counted.

    Args:
        rows: All cases.
        names: Of the foreground classes, or the regions.

    Returns:
        "dice", and for each class "<class>/dice" and "<class>/dice_n", its number of cases with a value. None
        where no case has one.
    """
    found: dict[str, float | None] = {}
    means = []
    for name in names:
        values = [row.dice for row in rows if row.name == name]
        means.append(mean_defined(values))
        found[f"{name}/dice"] = _number(means[-1])
        found[f"{name}/dice_n"] = float(sum(not math.isnan(value) for value in values))
    return {"dice": _number(mean_defined(means)), **found}


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; NaN without any."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def prediction_path(folder: Path, case_id: str) -> Path:
    """File of the predicted label map of a case."""
    return folder / f"{case_id}.safetensors"


def save_prediction(label_map: NDArray[np.uint8], folder: Path, case_id: str) -> None:
    """Writes a predicted label map (X, Y, Z) of network indices."""
    save_file({LABEL_MAP: np.ascontiguousarray(label_map)}, prediction_path(folder, case_id))


def load_prediction(folder: Path, case_id: str) -> NDArray[np.uint8]:
    """Reads a predicted label map.

    Raises:
        SegtrailError: The file is missing or damaged.
    """
    path = prediction_path(folder, case_id)
    try:
        label_map: NDArray[np.uint8] = load_file(path)[LABEL_MAP]
    except (OSError, SafetensorError, KeyError) as error:
        raise SegtrailError(
            f"the closing prediction cannot be read: {error}", str(path), "delete its folder and train again"
        ) from error
    return label_map


def save_table(rows: Sequence[ClassScore], path: Path) -> None:
    """Writes `validation.csv`, sorted by case; an undefined Dice is left empty."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in sorted(rows, key=lambda row: row.case_id):
            value = "" if math.isnan(row.dice) else repr(row.dice)
            writer.writerow((row.case_id, row.fold, row.name, value))


def load_table(path: Path) -> list[ClassScore]:
    """Reads `validation.csv`."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            ClassScore(row["case_id"], int(row["fold"]), row["class"], float(row["dice"] or "nan"))
            for row in csv.DictReader(stream)
        ]
