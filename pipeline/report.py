"""The report: one HTML page that a reviewer can trust without any other file.

The page asks for nothing from outside (a content security policy says so to the browser), holds no script,
and is a function of the files of the run: the same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cases import FIXED, OK, QUARANTINED, VERDICTS, WARN
from pipeline.config import ReportParams
from pipeline.pages import render_page
from pipeline.report_charts import case_dots, training_view, value_name
from pipeline.report_configurations import configuration_rows
from pipeline.report_detection import detection_view
from pipeline.report_inputs import ModelInputs, ReportInputs, load_report_inputs
from pipeline.report_metrics import DETECTION, METRICS, metric_format, split_name
from pipeline.report_pictures import picture_groups
from pipeline.report_results import (
    evidence,
    gate_rows,
    metric_names,
    result_groups,
    sources,
    uneven_metrics,
    worst_cases,
)
from pipeline.report_tables import (
    DASH,
    class_rows,
    foreground,
    format_number,
    geometry_rows,
    intensity_rows,
    moment,
    plain,
    plan_rows,
    split_rows,
)
from pipeline.scores import is_detection, rank
from pipeline.verdict import TITLES, judge, overall

__all__ = ["load_report_inputs", "render_report"]

DEFAULT_METRIC = "test/dice"


def render_report(inputs: ReportInputs, params: ReportParams) -> str:
    """Makes the page.

    Args:
        inputs: From `load_report_inputs`.
        params: Heading and number of worst cases.

    Returns:
        HTML; every text from a file is escaped.
    """
    metric = str(inputs.decision.get("metric") or DEFAULT_METRIC)
    best = chosen_model(inputs.models, inputs.decision, metric)
    checks = judge(inputs, best, metric)
    light = overall(checks)
    classes, regions = list(foreground(inputs)), list(inputs.facts.get("regions") or {})
    scored = classes if is_detection(metric) or not regions else regions
    return render_page(
        "report_template.html",
        filters={"number": format_number, "plain": plain, "moment": moment, "uneven": uneven_metrics},
        dash=DASH,
        title=params.title,
        finished=max(str(model.run.get("finished", "")) for model in inputs.models),
        headline=_headline(inputs, best, metric),
        colour=light,
        verdict=TITLES[light],
        checks=checks,
        facts=inputs.facts,
        data=_data(inputs),
        classes=classes,
        split=split_rows(inputs),
        plan=plan_rows(inputs.plan),
        plan_cases=inputs.plan.get("n_cases"),
        training=[training_view(model, regions or classes) for model in inputs.models],
        configurations=configuration_rows(inputs.models, inputs.decision, metric),
        columns=[title for title, _, _ in sources(inputs.models)],
        groups=result_groups(inputs.models, [*regions, *classes]),
        detection=detection_view(inputs.models, classes),
        metrics=METRICS
        | {name: shown for name, shown in DETECTION.items() if name in metric_names(inputs.models)},
        protocol=best.protocol,
        unlabelled=best.unlabelled,
        dots=case_dots(inputs.models, scored, metric),
        dots_metric=metric_format(metric),
        dots_value=value_name(metric),
        pictures=picture_groups(inputs.models, best),
        worst=worst_cases(inputs.models, best, scored, metric, params.worst_cases),
        scored=scored,
        kind="region" if scored is regions else "class",
        decision=inputs.decision,
        registry=_registry(inputs.decision, inputs.models),
        models=inputs.models,
        parameters={model.name: flatten(model.bundle.get("params", {})) for model in inputs.models},
        outputs=inputs.outputs,
    )


def chosen_model(models: Sequence[ModelInputs], decision: Mapping[str, Any], metric: str) -> ModelInputs:
    """The challenger of the decision; the best by a metric where the decision is about other models."""
    digest = decision.get("challenger")
    return next(
        (m for m in models if digest and m.run.get("bundle_sha256") == digest), best_model(models, metric)
    )


def best_model(models: Sequence[ModelInputs], metric: str) -> ModelInputs:
    """The model with the best defined value of a metric; the first by name when none has one."""
    defined = [(rank(metric, value), m) for m in models if (value := m.metrics.get(metric)) is not None]
    return max(defined, key=lambda pair: pair[0])[1] if defined else models[0]


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested params as dotted keys with the text of their values."""
    flat: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _headline(inputs: ReportInputs, best: ModelInputs, metric: str) -> dict[str, Any]:
    shown = metric_format(metric)
    low, high = (best.metrics.get(f"{metric}_ci_{end}") for end in ("low", "high"))
    cases, patients = evidence(best, metric)
    origin = best.bundle.get("provenance", {})
    _, label, _ = split_name(metric)
    classes = list(foreground(inputs))
    regions = inputs.facts.get("regions") and not is_detection(metric)
    mean = "mean over regions" if regions else "mean over classes" if len(classes) > 1 else ""
    return {
        "dataset": inputs.facts.get("name", DASH),
        "model": best.name,
        "metric": metric,
        "title": shown.title,
        "of": label or mean or next(iter(classes), ""),
        "unit": shown.unit,
        "value": best.metrics.get(metric),
        "text": shown.text(best.metrics.get(metric)),
        "interval": None if low is None or high is None else f"{shown.text(low)} to {shown.text(high)}",
        "n": cases,
        "patients": patients,
        "cases": best.n_cases,
        "commit": str(best.run.get("git_commit") or "")[:8],
        "digest": str(origin.get("data_digest") or "")[:8],
    }


def _data(inputs: ReportInputs) -> dict[str, Any]:
    verdicts = [case.verdict for case in inputs.cases]
    return {
        "counts": [
            ("cases", len(verdicts)),
            ("usable", len(verdicts) - verdicts.count(QUARANTINED)),
            ("of these with a warning", verdicts.count(WARN)),
            *([("of these fixed", verdicts.count(FIXED))] if FIXED in verdicts else []),
            ("quarantined", verdicts.count(QUARANTINED)),
            ("patients", len({case.patient_id for case in inputs.cases})),
        ],
        "remarks": sorted(
            (c for c in inputs.cases if c.verdict != OK),
            key=lambda c: (-VERDICTS.index(c.verdict), c.case_id),
        ),
        "geometry": geometry_rows(inputs.cases),
        "classes": class_rows(inputs),
        "intensities": intensity_rows(inputs),
        "orientations": ", ".join(sorted({c.orientation for c in inputs.cases if c.orientation})) or DASH,
    }


def _registry(decision: Mapping[str, Any], models: Sequence[ModelInputs]) -> dict[str, Any]:
    """Champion, gate and versions; versions are numbered from 1 in the order of the file."""
    versions = [dict(v) for v in decision.get("versions", []) if isinstance(v, Mapping)]
    here = {model.run.get("bundle_sha256") for model in models}
    roles = {"challenger": decision.get("challenger"), "champion": decision.get("champion_after")}
    shown = metric_format(str(decision.get("metric") or DEFAULT_METRIC))
    for number, version in enumerate(versions, 1):
        digest = version.get("bundle_sha256")
        low, high = (version.get(f"ci_{end}") for end in ("low", "high"))
        version |= {
            "number": number,
            "roles": ", ".join(role for role, of in roles.items() if of and of == digest),
            "text": shown.text(version.get("value")),
            "interval": DASH if low is None or high is None else f"{shown.text(low)} to {shown.text(high)}",
            "here": digest in here,
        }
    by_sha256 = {version.get("bundle_sha256"): version for version in versions}

    def name(digest: str | None) -> str:
        if not digest:
            return "none"
        known = by_sha256.get(digest)
        bundle = f"bundle {digest[:12]}"
        return f"version {known['number']}, {plain(known.get('model'))} ({bundle})" if known else bundle

    return {
        "champion": name(decision.get("champion_after")),
        "before": name(decision.get("champion_before")),
        "challenger": name(decision.get("challenger")),
        "numbers": gate_rows(decision.get("numbers") or {}, shown.title),
        "versions": versions,
        "shown": shown,
    }
