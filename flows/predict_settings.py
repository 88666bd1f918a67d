"""How a registered version predicts: as it was scored, on this machine."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from pipeline.config import PredictParams
from pipeline.errors import SegtrailError


def settings_as_scored(predict: dict[str, Any], now: PredictParams, where: str) -> PredictParams:
    """Settings that a version was scored with; keys that are newer than it, and this machine's memory, as now.

    Args:
        predict: Section `predict` of the version.
        now: The present one.
        where: Which version, for the error.

    Raises:
        SegtrailError: They are not settings any longer.
    """
    try:
        return PredictParams(**{**now.model_dump(), **predict, "memory_gb": now.memory_gb})
    except ValidationError as error:
        raise SegtrailError(
            f"the settings that the version was scored with cannot be used: {error}",
            where,
            "train again, or give --model the folder of its bundle",
        ) from error
