"""Facts and tables of the report on configurations.

What each network is and sees, which post-processing rules it has learned, and which model competes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.postprocessing_rules import Rule
from pipeline.report_inputs import ModelInputs
from pipeline.report_metrics import metric_format
from pipeline.report_results import evidence
from pipeline.report_tables import DASH, grid_facts, joined, plain

NETWORKS = {"unet": "U-Net", "resunet": "U-Net with a residual encoder", "maskrcnn": "Mask R-CNN"}
CONFIGURATIONS = {
    "full": "full resolution",
    "2d": "single slices",
    "lowres": "low resolution",
    "cascade": "low, then full resolution",
}


def network_facts(bundle: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a network is, what it sees and what it started from; of a cascade both networks.

    Empty where the bundle has no plan.

    Args:
        bundle: Content of `bundle.json`.
    """
    plan, params = bundle.get("plan"), bundle.get("params", {})
    if not plan:
        return []
    kind = str(params.get("network") or bundle.get("network"))
    start = bundle.get("provenance", {}).get("started_from")
    started = [("Started from", str(start))] if start else []
    if kind == "maskrcnn":
        return [
            ("Network", f"{NETWORKS[kind]}, {plain(params.get('backbone'))}"),
            *_detection_facts(plan, params),
            *started,
        ]
    name = f"{NETWORKS.get(kind, kind)}, {plain(plan.get('dimensions'))}D"
    facts = [("Network", name)]
    if configuration := params.get("configuration"):
        facts.append(("Configuration", f"{configuration}: {CONFIGURATIONS.get(configuration, DASH)}"))
    if low := bundle.get("low_plan"):
        facts.append(("First network", ", ".join(text for _, text in grid_facts(low))))
    return [*facts, *grid_facts(plan), *started]


def _detection_facts(plan: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, str]]:
    size, _, _ = grid_facts(plan)
    detection = plan.get("detection") or {}
    return [
        size,
        ("Window", f"{joined(detection.get('window', []))} pixels, {plain(detection.get('zoom'))} a voxel"),
        ("Batch", f"{plain(params.get('batch_size'))} windows"),
    ]


def rule_rows(bundle: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Rule, mean Dice without and with it, the classes that gain, and in how many cases it changes something.

    Args:
        bundle: Content of `bundle.json`.
    """
    rows = []
    for rule in map(Rule.model_validate, bundle.get("postprocessing", [])):
        changes = [(name, _four(dice.before), _four(dice.after)) for name, dice in rule.classes.items()]
        gains = ", ".join(f"{name} {before} to {after}" for name, before, after in changes if before != after)
        changed = f"{rule.cases_changed} of {rule.cases}"
        rows.append((rule.text, _four(rule.dice_before), _four(rule.dice_after), gains, changed))
    return rows


def configuration_rows(
    models: Sequence[ModelInputs], decision: Mapping[str, Any], metric: str
) -> list[dict[str, Any]]:
    """Validation and test score of each model, and whether it competes to be challenger.

    Args:
        models: All of them, in their order on the page.
        decision: Content of `decision.json`.
        metric: `register.metric`.

    Returns:
        Rows with the texts `model`, `validation` (metric), `score`, `value`, `interval`, `n` and `role`.
    """
    judged = decision.get("validation", [])
    known = {line["bundle_sha256"] for group in judged for line in group["scores"]}
    groups = [group for group in judged if len(group["scores"]) > 1]
    winners = {group["winner"] for group in groups}
    beaten = {
        line["bundle_sha256"] for group in groups for line in group["scores"] if line["score"] is not None
    } - winners
    shown, rows = metric_format(metric), []
    for model in models:
        digest = model.run.get("bundle_sha256")
        roles = {
            "challenger": digest == decision.get("challenger"),
            "best by validation": digest in winners,
            "did not compete: worse by validation": digest in beaten,
            "competed, not the best by test score": digest in known - beaten - {decision.get("challenger")},
        }
        low, high = (model.metrics.get(f"{metric}_ci_{end}") for end in ("low", "high"))
        name = str(model.bundle.get("validation_metric") or model.run.get("validation_metric") or "")
        rows.append(
            {
                "model": model.name,
                "validation": _validation_title(name),
                "score": _four(model.bundle.get("validation_score", model.run.get("best_validation_score"))),
                "value": shown.text(model.metrics.get(metric)),
                "interval": DASH
                if low is None or high is None
                else f"{shown.text(low)} to {shown.text(high)}",
                "n": str(evidence(model, metric)[0]),
                "role": ", ".join(role for role, holds in roles.items() if holds),
            }
        )
    return rows


def _validation_title(name: str) -> str:
    """Such as "Dice" for "validation_dice" and "Dice, cross-validated" for "cross_validation_dice"."""
    kind, _, metric = name.partition("validation_")
    return metric_format(metric).title + ", cross-validated" * (kind == "cross_") if metric else name or DASH


def _four(value: float | None) -> str:
    return DASH if value is None else f"{value:.4f}"
