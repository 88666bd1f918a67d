"""Everything the report shows, read from the files of the stages before it.

The stages' own record types are not imported: the report is a view of files, and a change in the code of a
stage must not run it again when that stage's files came out the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.cases import CaseRecord, load_cases
from pipeline.errors import SegtrailError, collect
from pipeline.report_files import finite, missing, read_csv, read_json

OVERLAY_RANKS = ("busiest", "best", "median", "worst")
CURVES = {"precision_recall": {"iou", "class", "recall", "precision"}, "froc": {"class", "sensitivity"}}
Numbers = Mapping[str, float | None]


@dataclass(frozen=True)
class CaseRow:
    """Metrics of one case and class or region, by name; None when one is not defined.

    Attributes:
        region: `label` is an overlapping region; then overlaps are averaged over regions.
    """

    case_id: str
    patient_id: str
    label: str
    values: Numbers
    region: bool = False


@dataclass(frozen=True)
class Overlay:
    """Picture of one case.

    Attributes:
        rank: "best", "median", "worst", or "busiest", which is the same case for every model.
        of_objects: Objects with boxes and scores; else outlines in three planes.
    """

    rank: str
    case_id: str
    path: str
    png: bytes
    of_objects: bool


@dataclass(frozen=True)
class ModelInputs:
    """What train and evaluate wrote about one model.

    Attributes:
        metrics: Flat names (`test/dice`, `test/<class>/dice_ci_low`, ...) to numbers.
        protocol: How they were measured, in words.
        unlabelled: Test cases that have no reference and were not scored.
        cases, baseline_cases: Rows of the tables of that name; no baseline gives none.
        history, run, bundle: history.csv, run.json and bundle.json of data/models.
        overlays: Pictures of single cases.
        curves: Rows of precision_recall.csv and froc.csv, by that name; absent where there is none.
        objects: Class to objects predicted, in the reference, and by size.
        low_history: low_history.csv, of the first network of a cascade; else empty.
    """

    name: str
    metrics: Numbers
    protocol: Mapping[str, Any]
    n_cases: int
    n_patients: int
    unlabelled: tuple[str, ...]
    cases: tuple[CaseRow, ...]
    baseline_cases: tuple[CaseRow, ...]
    history: tuple[Numbers, ...]
    run: Mapping[str, Any]
    bundle: Mapping[str, Any]
    overlays: tuple[Overlay, ...]
    curves: Mapping[str, tuple[Mapping[str, str], ...]]
    objects: Mapping[str, Mapping[str, int]]
    low_history: tuple[Numbers, ...] = ()


@dataclass(frozen=True)
class ReportInputs:
    """All inputs of the report.

    Attributes:
        facts: data/inspected/dataset.json.
        cases: All cases, also quarantined ones.
        fingerprints: Case id to fingerprint record, usable cases only.
        sides: Case id to train, validation or test.
        plan: data/plan/plan.json.
        models: One record a folder of data/metrics, by name; only of this data set, and in the registry.
        decision: data/registry/decision.json.
        outputs: Path to DVC hash of what the earlier stages wrote; empty without a dvc.lock.
    """

    facts: Mapping[str, Any]
    cases: tuple[CaseRecord, ...]
    fingerprints: Mapping[str, Mapping[str, Any]]
    sides: Mapping[str, str]
    plan: Mapping[str, Any]
    models: tuple[ModelInputs, ...]
    decision: Mapping[str, Any]
    outputs: Mapping[str, str]


def load_report_inputs(root: Path = Path()) -> ReportInputs:
    """Reads everything below `root`, the project's top folder.

    Models left over from another data set, or of which the registry does not know, are left out.

    Raises:
        SegtrailError: Files are missing (all are listed, each with its stage) or one cannot be read.
    """
    data = root / "data"
    names = [
        p.name
        for p in sorted((data / "metrics").glob("[!.]*"))
        if p.is_dir() and not _is_of_another_set(data, p.name)
    ]
    _check_present(data, names)
    decision = read_json(data / "registry" / "decision.json", "register")
    known = {version["bundle_sha256"] for version in decision.get("versions", [])}
    runs = {name: read_json(data / "models" / name / "run.json", f"train@{name}") for name in names}
    names = [name for name in names if runs[name].get("bundle_sha256") in known]
    if not names:
        what = "no model that was evaluated is in the registry"
        raise SegtrailError(what, str(data / "registry" / "decision.json"), "dvc repro register")
    cases = load_cases(data / "inspected" / "cases.csv")
    prints, splits = data / "inspected" / "fingerprints", data / "splits" / "splits.csv"
    return ReportInputs(
        facts=read_json(data / "inspected" / "dataset.json", "inspect"),
        cases=tuple(cases),
        fingerprints={
            c.case_id: read_json(prints / f"{c.case_id}.json", "inspect") for c in cases if c.usable
        },
        sides={row["case_id"]: row["split"] for row in read_csv(splits, "split", {"case_id", "split"})},
        plan=read_json(data / "plan" / "plan.json", "plan"),
        models=tuple(_load_model(data, name) for name in names),
        decision=decision,
        outputs=_locked_outputs(root / "dvc.lock", names),
    )


def _is_of_another_set(data: Path, name: str) -> bool:
    """Whether a model was evaluated on another data set; what is missing is left to `_check_present`."""
    facts, record = data / "inspected" / "dataset.json", data / "metrics" / name / "metrics.json"
    if not (facts.is_file() and record.is_file()):
        return False
    there = read_json(record, f"evaluate@{name}").get("dataset")
    return bool(there != read_json(facts, "inspect").get("name"))


def _check_present(data: Path, names: list[str]) -> None:
    needed = {
        data / "inspected" / "cases.csv": "inspect",
        data / "inspected" / "dataset.json": "inspect",
        data / "splits" / "splits.csv": "split",
        data / "plan" / "plan.json": "plan",
        data / "registry" / "decision.json": "register",
    }
    for name in names:
        needed |= {
            data / "models" / name / f: f"train@{name}" for f in ("bundle.json", "run.json", "history.csv")
        }
        needed |= {data / "metrics" / name / f: f"evaluate@{name}" for f in ("metrics.json", "cases.csv")}
    errors = [missing(path, stage) for path, stage in needed.items() if not path.is_file()]
    if not names:
        what = "no model was evaluated on this data set"
        errors.append(SegtrailError(what, str(data / "metrics"), "dvc repro evaluate"))
    if errors:
        raise collect(errors)


def _load_model(data: Path, name: str) -> ModelInputs:
    trained, measured, stage = data / "models" / name, data / "metrics" / name, f"evaluate@{name}"
    record = read_json(measured / "metrics.json", stage)
    baseline = measured / "baseline_cases.csv"
    return ModelInputs(
        name=name,
        metrics={key: finite(value) for key, value in record.get("metrics", {}).items()},
        protocol=record.get("protocol", {}),
        n_cases=int(record.get("n_cases", 0)),
        n_patients=int(record.get("n_patients", 0)),
        unlabelled=tuple(map(str, record.get("cases_without_label", []))),
        cases=_case_rows(measured / "cases.csv", stage),
        baseline_cases=_case_rows(baseline, stage) if baseline.is_file() else (),
        history=_curves(trained / "history.csv", name),
        low_history=_curves(low, name) if (low := trained / "low_history.csv").is_file() else (),
        run=read_json(trained / "run.json", f"train@{name}"),
        bundle=read_json(trained / "bundle.json", f"train@{name}"),
        overlays=_overlays(measured / "overlays"),
        curves={
            curve: tuple(read_csv(path, stage, columns))
            for curve, columns in CURVES.items()
            if (path := measured / f"{curve}.csv").is_file()
        },
        objects=record.get("objects", {}),
    )


def _curves(path: Path, model: str) -> tuple[Numbers, ...]:
    rows = read_csv(path, f"train@{model}", {"epoch"})
    return tuple({key: finite(value) for key, value in row.items()} for row in rows)


def _overlays(folder: Path) -> tuple[Overlay, ...]:
    """Pictures of objects first, by rank."""
    found = []
    for prefix in ("objects_", ""):
        for rank in OVERLAY_RANKS:
            for path in sorted(folder.glob(f"{prefix}{rank}_*.png"))[:1]:
                case_id = path.stem.removeprefix(f"{prefix}{rank}_")
                found.append(Overlay(rank, case_id, path.as_posix(), path.read_bytes(), bool(prefix)))
    return tuple(found)


def _case_rows(path: Path, stage: str) -> tuple[CaseRow, ...]:
    return tuple(
        CaseRow(
            case_id=row.pop("case_id"),
            patient_id=row.pop("patient_id"),
            label=row.pop("label"),
            region=row.pop("kind", "") == "region",
            values={key: finite(value) for key, value in row.items()},
        )
        for row in read_csv(path, stage, {"case_id", "patient_id", "label"})
    )


def _locked_outputs(path: Path, models: list[str]) -> dict[str, str]:
    """Hashes in `dvc.lock` of what this run rests on.

    Entries of register and report (which would change the page each time), and of models and data sets that
    are no longer in use, are left out.
    """
    if not path.is_file():
        return {}
    stages = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {})
    wanted = ["inspect", "split", "plan", "preprocess"]
    wanted += [f"{stage}@{model}" for model in models for stage in ("train", "predict", "evaluate")]
    entries = [out for name in wanted for out in stages.get(name, {}).get("outs", [])]
    return {out["path"]: out.get("md5", "") for out in entries}
