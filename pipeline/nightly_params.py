"""Section `nightly` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.section import Section


class DriftParams(Section):
    psi: Annotated[float, Field(ge=0.01, le=10)]
    ks_p: Annotated[float, Field(gt=0, le=0.5)]
    min_cases: Annotated[int, Field(ge=2, le=10_000)]


class NightlyParams(Section):
    """The nightly loop; no stage reads it, so changing it computes nothing anew."""

    cron: str
    timezone: str
    late_minutes: Annotated[int, Field(ge=1, le=10_080)]
    incoming: str
    settle_seconds: Annotated[float, Field(ge=0, le=86_400)]
    pull: bool
    retrain: Literal["changed", "drift"]
    push: bool
    remote: str
    branch: str
    drift: DriftParams
