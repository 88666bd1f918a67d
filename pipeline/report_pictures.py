"""Pictures of single cases in the report: which stand beside which, and which fit onto the page."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from pipeline.report_inputs import OVERLAY_RANKS, ModelInputs, Overlay

MOST_PICTURE_BYTES = 2_100_000  # 2.8 MB as base64: the page is to stay below 3 MB
WIDE = 1.8  # width over height from which a picture takes the whole width of the page


def picture_groups(models: Sequence[ModelInputs], best: ModelInputs) -> list[dict[str, Any]]:
    """Pictures in the order in which they are shown, until the page is full; the others are named.

    First the objects, rank by rank with all models beside each other, then the planes of each model, the best
    one first.

    Returns:
        Groups with `title`, `folded` (shown on demand) and `items`: overlay, model, source and whether wide.
    """
    ordered = sorted(models, key=lambda model: model is not best)
    groups: list[dict[str, Any]] = []
    for rank in OVERLAY_RANKS:
        items = [(m, o) for m in models for o in m.overlays if o.of_objects and o.rank == rank]
        title = "The case with most objects, the same for every model"
        if rank != "busiest":
            title = f"{rank.capitalize()} case of each model"
        groups.append({"title": title, "folded": False, "items": items})
    for model in ordered:
        planes = [(model, overlay) for overlay in model.overlays if not overlay.of_objects]
        groups.append(
            {"title": f"Outlines in three planes: {model.name}", "folded": model is not best, "items": planes}
        )
    left = MOST_PICTURE_BYTES
    for group in groups:
        shown = []
        for model, overlay in group["items"]:
            fits = len(overlay.png) <= left
            left -= len(overlay.png) if fits else 0
            shown.append(_item(model, overlay, fits))
        group["items"] = shown
    return [group for group in groups if group["items"]]


def _item(model: ModelInputs, overlay: Overlay, fits: bool) -> dict[str, Any]:
    source = f"data:image/png;base64,{base64.b64encode(overlay.png).decode()}" if fits else ""
    width, height = struct.unpack(">II", overlay.png[16:24]) if len(overlay.png) >= 24 else (1, 1)
    return {"overlay": overlay, "model": model.name, "source": source, "wide": width > WIDE * max(height, 1)}
