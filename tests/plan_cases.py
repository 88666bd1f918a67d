"""Fingerprints and params to plan from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.config import PlanParams
from pipeline.fingerprint import ChannelStatistics, Fingerprint
from pipeline.io.dataset import DatasetFacts

MRI = DatasetFacts("brain", ("MRI",), {"background": 0, "edema": 2, "core": 4})


def make_params(**changes: Any) -> PlanParams:
    shipped = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["plan"]
    automatic = {"detection_zoom": "auto", "detection_window": "auto"}
    return PlanParams(**{**shipped, **automatic, **changes})


def make_fingerprints(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], count: int = 9, channels: int = 1
) -> list[Fingerprint]:
    samples = tuple(float(v) for v in np.linspace(-100, 100, 1000))
    channel = ChannelStatistics(
        mean=0, std=57, median=0, min=-100, max=100, p00_5=-99, p99_5=99, samples=samples
    )
    return [
        Fingerprint(
            case_id=f"c{i}", shape=shape, spacing_mm=spacing, intensity=(channel,) * channels, classes={}
        )
        for i in range(count)
    ]
