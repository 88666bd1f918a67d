"""Small cases of one organ to inspect: image, label, their row in the listing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import CaseRecord
from pipeline.config import load_params
from pipeline.inspection import InspectedCase, inspect_case
from pipeline.io.sources import DatasetFacts

if TYPE_CHECKING:
    from conftest import CaseFolder

FACTS = DatasetFacts("small", ("MRI",), {"background": 0, "organ": 1})
PARAMS = load_params().inspect.model_copy(update={"dataset": "small", "layout": "msd"})


def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)


def label() -> NDArray[np.uint8]:
    out = np.zeros((6, 7, 8), np.uint8)
    out[2:4, 2:4, 2:4] = 1
    return out


def record(case_id: str = "a", **more: Any) -> CaseRecord:
    base = CaseRecord(
        case_id=case_id,
        patient_id=case_id,
        site="",
        images=(f"data/raw/small/imagesTr/{case_id}.nii.gz",),
        label=f"data/raw/small/labelsTr/{case_id}.nii.gz",
        instances="",
    )
    return replace(base, **more)


def inspect(case_folder: CaseFolder, *written: Any, **placed: Any) -> InspectedCase:
    case_folder.write("a", *written, **placed)
    return inspect_case(record(), FACTS, PARAMS)
