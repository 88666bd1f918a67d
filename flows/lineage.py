"""`segtrail lineage`: the data, params, code and decision behind a registered version, from files alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.ancestors import parent_digests, walk_ancestors
from flows.archive import Version
from flows.audit import Record
from flows.decision import load_decision
from flows.hand import default_name, split_place
from flows.provenance import RAW, UNKNOWN, canonical_sha256, data_digest
from flows.tracking_registry import find_version

SIDES = ("train", "validation", "test")
WIDTH = 12


def tell_lineage(place: str | None, as_json: bool = False) -> str:
    """What a version was made of.

    Args:
        place: NAME@VERSION, see `flows.tracking_registry.find_version`; None: the champion of params.
        as_json: JSON instead of lines for a person.

    Raises:
        SegtrailError: There is no such version, or its files are missing.
    """
    name, version = split_place(place or f"{default_name()}@champion")
    found, number = find_version(name, version)
    record = collect_lineage(found, number)
    if as_json:
        return json.dumps(record, indent=1, ensure_ascii=False)
    return "\n".join(_lines(record))


def collect_lineage(version: Version, number: str = UNKNOWN) -> Record:
    """The same as a record.

    Args:
        version: From the archive.
        number: Of the version in MLflow.
    """
    bundle, run = version.files.load_bundle_record(), version.files.load_run()
    provenance = {**(version.files.provenance or {}), **bundle.get("provenance", {})}
    dataset = str(provenance.get("dataset", UNKNOWN))
    digest = str(provenance.get("data_digest", UNKNOWN))
    params = bundle.get("params", {})
    return {
        "name": version.name,
        "version": number,
        "bundle_sha256": version.bundle_sha256,
        "model": version.model,
        "trained": {"started": run.get("started"), "finished": run.get("finished"), "devices": run.get("devices")},
        "data": {"dataset": dataset, "md5": digest, "md5_now": data_digest(dataset)},
        "cases": _count_cases(version.files.cases, version.files.splits),
        "params": {"sha256": canonical_sha256(params), "train": params, "predict": version.predict},
        "code": {key: provenance.get(key) for key in ("git_commit", "git_dirty", "python", "packages")},
        "dvc_lock_sha256": provenance.get("dvc_lock_sha256"),
        "run_id": run.get("run_id") or "",
        "metrics": _collect_metrics(version),
        "started_from": provenance.get("started_from", "scratch"),
        "parents": list(parent_digests(bundle)),
        "ancestors": _list_ancestors(bundle),
        "decision": _find_decision(version),
    }  # fmt: skip


def _count_cases(cases: Path, splits: Path) -> dict[str, int]:
    """Cases on each side of the split, and those that were quarantined."""
    with splits.open(newline="", encoding="utf-8") as stream:
        sides = [row["split"] for row in csv.DictReader(stream)]
    with cases.open(newline="", encoding="utf-8") as stream:
        verdicts = [row["verdict"] for row in csv.DictReader(stream)]
    return {side: sides.count(side) for side in SIDES} | {"quarantined": verdicts.count("quarantined")}


def _collect_metrics(version: Version) -> dict[str, Record]:
    """Every metric that has an interval, as value, ends, number of cases."""
    metrics: Mapping[str, float | None] = version.files.load_metrics()["metrics"]
    return {
        name: {
            "value": value, **{end: metrics.get(f"{name}_{end}") for end in ("ci_low", "ci_high", "n")}
        }
        for name, value in metrics.items()
        if f"{name}_ci_low" in metrics
    }  # fmt: skip


def _list_ancestors(bundle: Record) -> list[Record]:
    """The parents, their parents and so on, the nearest first; model and time are None of what is not archived here."""
    return [
        {
            "bundle_sha256": sha256,
            "model": found.model if found else None,
            "finished": found.finished if found else None,
        }
        for sha256, found in walk_ancestors(parent_digests(bundle))
    ]


def _find_decision(version: Version) -> Record:
    """What gate and persons said about it, and when it was champion."""
    decision = load_decision(version.name)
    champions = [entry["bundle_sha256"] for entry in decision.get("champions", [])]
    lines: list[Record] = decision.get("versions", [])
    line = next((v for v in lines if v["bundle_sha256"] == version.bundle_sha256), {})
    place = champions.index(version.bundle_sha256) if version.bundle_sha256 in champions else None
    return {
        "roles": [
            alias
            for alias, key in (("champion", "champion_after"), ("challenger", "challenger"))
            if decision.get(key) == version.bundle_sha256
        ],
        "gate": line.get("gate"),
        "reasons": line.get("gate_reasons", []),
        "hand": line.get("hand", ""),
        "champion_since": None if place is None else decision["champions"][place]["since"],
        "champion_before": champions[place - 1] if place else None,
    }


def _lines(record: Record) -> Iterator[str]:
    data, code, cases, decision = (record[key] for key in ("data", "code", "cases", "decision"))
    number = "not in MLflow here" if record["version"] == UNKNOWN else f"version {record['version']}"
    yield f"{record['name']}@{record['bundle_sha256'][:12]}, {number}"
    yield _line("model", f"{record['model']}, trained {_period(record['trained'])}")
    yield _line("bundle", record["bundle_sha256"])
    same = {data["md5"]: "as it lies here now", UNKNOWN: "not here now"}.get(
        data["md5_now"], "other data lie here now"
    )
    yield _line("data", f"{RAW / data['dataset']}, md5 {data['md5']} ({same})")
    yield _line("cases", ", ".join(f"{n} {side}" for side, n in cases.items()))
    dirty = " with changes that are not in it" if code["git_dirty"] else ""
    yield _line("code", f"commit {code['git_commit'] or UNKNOWN}{dirty}, Python {code['python'] or UNKNOWN}")
    yield _line("dvc.lock", f"sha256 {record['dvc_lock_sha256'] or UNKNOWN} (of the entries it rests on)")
    yield _line("run", record["run_id"] or "none: MLflow was away")
    yield _line("started", f"from {record['started_from']}")
    yield _line("parents", "; before that ".join(map(_ancestor, record["ancestors"])) or "none")
    yield from _decision_lines(decision)
    yield _line("params", f"sha256 {record['params']['sha256']}")
    yield from _section({key: record["params"][key] for key in ("train", "predict")})
    yield _line("metrics", "value [95 % interval] cases")
    width = max((len(name) for name in record["metrics"]), default=0)
    for name, entry in record["metrics"].items():
        yield f"  {name.ljust(width)}  {_value(entry)}"
    yield from _way_back(record)


def _line(title: str, text: str) -> str:
    return f"{title.ljust(WIDTH)}{text}"


def _ancestor(ancestor: Record) -> str:
    model = (
        f"{ancestor['model']} of {ancestor['finished'][:16]}"
        if ancestor["model"]
        else "not in the archive here"
    )
    return f"{ancestor['bundle_sha256'][:12]} ({model})"


def _period(trained: Record) -> str:
    return f"{trained['started'] or UNKNOWN} to {trained['finished'] or UNKNOWN} on {trained['devices'] or UNKNOWN}"


def _decision_lines(decision: Record) -> Iterator[str]:
    said = f"{decision['gate']} ({'; '.join(decision['reasons'])})" if decision["gate"] else "was not asked"
    yield _line("gate", said)
    if decision["hand"]:
        yield _line("by hand", decision["hand"])
    roles = " and ".join(decision["roles"]) or "neither champion nor challenger"
    since = f" since {decision['champion_since']}" if "champion" in decision["roles"] else ""
    before = f", after {decision['champion_before'][:12]}" if decision["champion_before"] else ""
    yield _line("now", f"{roles}{since}{before}")


def _section(section: Mapping[str, Any]) -> list[str]:
    text = yaml.safe_dump(json.loads(json.dumps(section)), sort_keys=False, allow_unicode=True)
    return [f"  {line}" for line in text.splitlines()]


def _value(entry: Record) -> str:
    """Such as "0.8250 [0.8150, 0.8350] n=6"."""
    if entry["value"] is None:
        return "undefined"
    low, high, n = entry["ci_low"], entry["ci_high"], entry["n"]
    interval = "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    return f"{entry['value']:.4f}{interval}" + ("" if n is None else f" n={n:.0f}")


def _way_back(record: Record) -> Iterator[str]:
    commit = record["code"]["git_commit"]
    if commit and commit != UNKNOWN:
        first = f"git checkout {commit}; "
        if record["code"]["git_dirty"]:
            first += "make the changes that are not in it; "
        yield _line("to repeat", f"{first}dvc pull {RAW / record['data']['dataset']}; dvc repro")
